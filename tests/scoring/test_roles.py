"""Which validation item serves for what: none twice, and the challenger is chosen on items of its own."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.config.loading import load
from tasks.data.items import Item
from tasks.data.splits import Dataset
from tasks.scoring import roles
from tasks.scoring.roles import Roles, estimated_errors


def deal(monkeypatch: pytest.MonkeyPatch, count: int, *overrides: str) -> Roles:
    """The roles of so many validation items."""
    items = [Item(str(number), f"item {number}", "", price=1.0) for number in range(count)]
    monkeypatch.setattr(roles, "read_split", lambda *_: items)
    return Roles.of(load("conf/laptop.yaml", overrides), Dataset("made", "up", "nowhere", {}))


@pytest.mark.parametrize("count", [0, 1, 7, 40, 300, 5_000])
@pytest.mark.parametrize("temperature", ["1", "fit"])
def test_no_item_serves_twice_and_none_is_left_over(
    monkeypatch: pytest.MonkeyPatch, count: int, temperature: str
) -> None:
    """However few there are; what a language model answers of the selection is a part of it."""
    dealt = deal(monkeypatch, count, f"finetune.answer.temperature={temperature}")
    served = [item.id for part in (dealt.first, dealt.temperature, dealt.blend, dealt.selection) for item in part]
    assert sorted(served) == sorted(map(str, range(count)))
    assert [item.id for item in dealt.sampled] == [item.id for item in dealt.selection][: len(dealt.sampled)]
    assert bool(dealt.temperature) == (temperature == "fit" and count >= 4)
    assert len(dealt.selection) >= count // 4 and bool(dealt.first) == bool(count)


def test_each_role_gets_what_the_conf_asks_for_where_there_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same items whatever else the conf says, so that what was answered before can be used again."""
    dealt = deal(monkeypatch, 2_000, "finetune.score_items=100", "evaluate.blend_items=300")
    assert (len(dealt.first), len(dealt.blend), len(dealt.selection), len(dealt.sampled)) == (100, 300, 1_600, 100)
    wider = deal(monkeypatch, 2_000, "finetune.score_items=150")
    assert [item.id for item in wider.first[:100]] == [item.id for item in dealt.first]
    fitted = deal(monkeypatch, 60, "finetune.answer.temperature=fit", "evaluate.blend_items=0")
    assert fitted.first == deal(monkeypatch, 60).first and len(fitted.first) == 15


def test_a_sample_is_judged_beside_the_model_that_answered_all() -> None:
    """A model that is $5 better on a sample of hard items is estimated $5 better on all, not as bad as those are."""
    random = np.random.default_rng(0)
    ridge = np.concatenate([random.uniform(90, 110, 50), random.uniform(10, 30, 950)])
    found = estimated_errors({"ridge": ridge, "constant": ridge + 30}, {"tuned": ridge[:50] - 5})
    assert found["tuned"] == pytest.approx(found["ridge"] - 5) and found["constant"] == pytest.approx(ridge.mean() + 30)
    assert estimated_errors({}, {"base": np.array([1.0, 3.0])}) == {"base": 2.0}


def test_items_without_a_price_are_left_out_of_an_error() -> None:
    """Also on the sample; a model without any price is infinitely far off; none is judged beside one with gaps."""
    nan, ridge = np.nan, np.array([10.0, 20.0, 30.0, 40.0])
    found = estimated_errors({"ridge": ridge, "gaps": np.array([nan, 1.0, 1.0, 1.0])}, {"tuned": np.array([nan, 15.0])})
    assert found == {"ridge": 25.0, "gaps": 1.0, "tuned": 15.0 + 25.0 - 15.0}
    assert estimated_errors({}, {"silent": np.array([nan, nan])}) == {"silent": np.inf}

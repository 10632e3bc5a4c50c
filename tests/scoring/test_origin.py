"""What is said of a model that prices are asked of."""

from __future__ import annotations

import pytest

from tasks.data.splits import Dataset
from tasks.scoring.origin import Origin
from tasks.scoring.record import Record
from tasks.scoring.rows import Row


@pytest.mark.parametrize(
    ("kind", "n_train", "told", "learned"),
    [
        ("baseline", 2398, ["finetuned", "base"], "trained on 2,398 generated products"),
        ("blend", None, ["finetuned", "base"], "trained on 2,398 generated products"),
        ("finetuned", 640, [], "trained on 640 generated products"),
        ("finetuned", 640, ["finetuned"], "trained on 640 generated products and told what is known of 2,398"),
        ("finetuned", 2398, ["finetuned"], "trained on 2,398 generated products"),
        ("base", None, ["finetuned"], "not trained on any generated products"),
        ("base", None, ["base"], "not trained on any generated products, but told what is known of 2,398"),
    ],
)
def test_it_says_what_a_model_learned_from(kind: str, n_train: int | None, told: list[str], learned: str) -> None:
    """And how many products are behind what it is told: the version in MLflow's registry notes it."""
    row = Row(model="one", kind=kind, model_id="m-1", n=200, n_train=n_train, mae=44.75)
    dataset = Dataset("sample", "d1", "", {"train": 2398}, generated=True)
    record = Record([row], [], {}, None, None, dataset, "sample", {}, [])
    origin = Origin.of(record, "m-1", "$", told)
    assert origin is not None and Origin.read(origin.tags()) == origin
    assert str(origin) == f"one, {learned}, $44.75 off on average (200 test items)"

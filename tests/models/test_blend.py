"""A blend weighs models by what they answered, and is a model like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.data.items import Item
from tasks.models.blend import Blend, least_absolute_weights
from tasks.models.classic import Classic
from tasks.models.loading import load_predictor


def test_no_other_weights_have_a_lower_absolute_error() -> None:
    """The weights are a convex combination, and none of a fine grid of others is better."""
    random = np.random.default_rng(3)
    truth = random.lognormal(4, 1, 60)
    prices = truth[:, None] * random.lognormal([0.2, -0.2, 0.9], [0.4, 0.3, 0.8], (60, 3))
    weights = least_absolute_weights(truth, prices)
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1)
    best = np.abs(prices @ weights - truth).mean()
    for first in np.linspace(0, 1, 41):
        for second in np.linspace(0, 1 - first, 41):
            other = np.array([first, second, 1 - first - second])
            assert np.abs(prices @ other - truth).mean() >= best - 1e-9


def test_two_rungs_that_err_in_opposite_directions_are_mixed_and_a_useless_one_is_left_out() -> None:
    """The mean of a model that asks too much and one that asks too little is right."""
    truth = np.linspace(10, 500, 50)
    blend = Blend.fit(truth, {"high": truth * 1.2, "low": truth * 0.8, "noise": np.full(50, 900.0)})
    assert set(blend.weights) == {"high", "low"}
    assert blend.weights["high"] == pytest.approx(0.5, abs=1e-6)
    answer = blend.answer({"high": np.array([120.0, np.nan]), "low": np.array([80.0, 80.0])})
    np.testing.assert_allclose(answer.price, [100, np.nan])


@pytest.mark.parametrize("priced", [9, 64])
def test_the_interval_of_a_blend_holds_four_truths_in_five_however_few_items_judge_it(priced: int) -> None:
    """It is learned on other items than the weights, on which the blend is nearer to the truth than on new ones."""
    random, held = np.random.default_rng(4), []
    for _ in range(120):
        truth = random.lognormal(4, 1, 16 + 64 + 200)
        prices = {f"model {number}": truth * random.lognormal(0, 0.5, len(truth)) for number in range(8)}
        blend = Blend.fit(truth[:16], {name: all_[:16] for name, all_ in prices.items()})
        judged = {name: np.where(np.arange(64) < priced, all_[16:80], np.nan) for name, all_ in prices.items()}
        blend.judge(truth[16:80], judged)
        answer = blend.answer({name: all_[80:] for name, all_ in prices.items()})
        held.append(np.mean((answer.low <= truth[80:]) & (truth[80:] <= answer.high)))
    assert np.mean(held) == pytest.approx(0.8, abs=0.025)


def test_a_blend_that_too_few_items_judge_has_no_interval(tmp_path: Path) -> None:
    """No more than a classic model does, and neither when it is saved and loaded."""
    truth = np.linspace(10, 500, 16)
    blend = Blend.fit(truth, {"high": truth * 1.2, "low": truth * 0.8})
    blend.judge(truth[:8], {"high": truth[:8] * 1.3, "low": truth[:8] * 0.8})
    blend.folders = {name: tmp_path / name for name in blend.weights}
    for folder in (*blend.folders.values(), tmp_path / "blend"):
        folder.mkdir()
    blend.save(tmp_path / "blend")
    loaded = Blend.load(tmp_path / "blend", load_predictor)
    for one in (blend, loaded):
        answer = one.answer({"high": np.array([120.0]), "low": np.array([80.0])})
        assert answer.price == pytest.approx(100) and np.isnan([answer.low, answer.high]).all()


def test_a_saved_blend_outlives_its_members(items: list[Item], tmp_path: Path) -> None:
    """It carries copies of them, and prices as their weighted mean."""
    train, validation, test = items[:60], items[60:80], items[80:]
    members = {name: Classic.fit(name, train, validation, 1) for name in ("constant", "tfidf_ridge")}
    for name, member in members.items():
        (tmp_path / name).mkdir()
        member.save(tmp_path / name)
    blend = Blend({"constant": 0.25, "tfidf_ridge": 0.75}, (-0.5, 0.5), {name: tmp_path / name for name in members})
    (tmp_path / "blend").mkdir()
    blend.save(tmp_path / "blend")
    for name in members:
        (tmp_path / name).rename(tmp_path / f"gone-{name}")
    answer = load_predictor(tmp_path / "blend").predict(test)
    expected = 0.25 * members["constant"].predict(test).price + 0.75 * members["tfidf_ridge"].predict(test).price
    np.testing.assert_allclose(answer.price, expected)
    assert (answer.low < answer.price).all() and (answer.price < answer.high).all()

"""Every classic rung fits, answers sensibly, and is the same after saving and loading."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.catalogue import generate
from tasks.items import Item, from_row
from tasks.predictors.classic import BASELINES, Classic, basic_features
from tasks.predictors.loading import load_predictor


@pytest.fixture(scope="module")
def splits() -> tuple[list[Item], list[Item], list[Item]]:
    """Train, validation and test of another catalogue than the default one."""
    rows = [from_row(row) for row in generate(1200, seed=11)]
    return rows[:700], rows[700:950], rows[950:]


@pytest.mark.parametrize("name", BASELINES)
def test_a_rung_survives_saving_and_answers_within_the_prices_it_saw(name: str, splits: tuple, tmp_path: Path) -> None:
    """Loaded again it gives the same answers; they are prices, with the interval around them."""
    train, validation, test = splits
    fitted = Classic.fit(name, train, validation, seed=1)
    fitted.save(tmp_path)
    answer, again = fitted.predict(test), load_predictor(tmp_path).predict(test)
    np.testing.assert_array_equal(answer.price, again.price)
    np.testing.assert_array_equal(answer.high, again.high)
    assert answer.price.shape == (len(test),)
    assert (answer.price > 0).all() and (answer.low <= answer.high).all() and (answer.low >= 0).all()
    if name != "random":
        prices = [item.price for item in train]
        assert answer.price.min() >= min(prices) and answer.price.max() <= max(prices)


def test_the_interval_of_a_rung_holds_about_four_truths_in_five(splits: tuple) -> None:
    """It is learned from validation, and holds on test."""
    train, validation, test = splits
    answer = Classic.fit("tfidf_ridge", train, validation, seed=1).predict(test)
    truth = np.array([item.price for item in test])
    assert 0.7 < np.mean((answer.low <= truth) & (truth <= answer.high)) < 0.9


def test_reading_the_words_beats_a_guess_and_the_right_constant_is_the_median(splits: tuple) -> None:
    """The order of the ladder: random, constants, words."""
    train, validation, test = splits
    truth = np.array([item.price for item in test])
    mae = {
        name: np.abs(Classic.fit(name, train, validation, 1).predict(test).price - truth).mean() for name in BASELINES
    }
    assert mae["tfidf_ridge"] < mae["constant_median"] < mae["random"]
    assert mae["tfidf_ridge"] < 0.8 * mae["constant"]


def test_basic_features_are_read_from_details_as_amazon_writes_them() -> None:
    """Weight in pounds, mean rank, length, top brand; NaN where the details do not say."""
    details = {"Item Weight": "8 ounces", "Best Sellers Rank": "#1,000 in Tools #3 in Saws", "Brand": "Sony"}
    rows = basic_features([Item("1", "ab", "cde", details=details), Item("2", "a", "")])
    np.testing.assert_allclose(rows, [[0.5, 501.5, 5, 1], [np.nan, np.nan, 1, 0]])


def test_a_model_file_that_asks_for_other_types_is_refused(splits: tuple, tmp_path: Path) -> None:
    """A model is data: loading one never runs what somebody put into it."""
    import skops.io

    train, validation, _ = splits
    Classic.fit("constant", train, validation, 1).save(tmp_path)
    skops.io.dump(Classic("constant", None, 0.0, 1.0), tmp_path / "estimator.skops")
    assert json.loads((tmp_path / "predictor.json").read_text())["name"] == "constant"
    with pytest.raises(ValueError, match="expected types of scikit-learn"):
        load_predictor(tmp_path)

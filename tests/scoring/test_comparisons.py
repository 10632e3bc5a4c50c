"""Intervals, tests and ranks: checked against libraries, hand examples and simulation."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats

from tasks.scoring.comparisons import (
    bootstrap_interval,
    compare,
    confidence_set,
    holm,
    paired_comparison,
    paired_comparisons,
    shared_ranks,
)
from tasks.scoring.metrics import absolute_error
from tests.scoring.made import noisy, prices

NAN = math.nan


def test_bootstrap_interval_agrees_with_scipy():
    """The percentile interval is scipy's, up to the noise of resampling."""
    losses = np.random.default_rng(3).exponential(30, 150)
    low, high = bootstrap_interval(losses[None], seed=0)
    theirs = stats.bootstrap((losses,), np.mean, method="percentile", n_resamples=10_000, rng=0).confidence_interval
    width = theirs.high - theirs.low
    assert abs(low[0] - theirs.low) < 0.04 * width
    assert abs(high[0] - theirs.high) < 0.04 * width


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(missing):
    """Of 500 data sets from a known distribution, about 95% of intervals hold its mean; also half uncovered."""
    random = np.random.default_rng(4)
    losses = random.gamma(2.0, 15.0, (500, 160))
    losses[random.random(losses.shape) < missing] = NAN
    low, high = bootstrap_interval(losses, seed=5, resamples=1_500)
    assert 0.91 <= np.mean((low <= 30) & (high >= 30)) <= 0.98
    narrow_low, narrow_high = bootstrap_interval(losses, seed=5, resamples=1_500, level=0.5)
    assert 0.42 <= np.mean((narrow_low <= 30) & (narrow_high >= 30)) <= 0.58


def test_an_uncovered_part_changes_the_interval_only_by_resampling_noise():
    """Padding a model's losses with items it was not asked about leaves its interval where it was."""
    losses = np.random.default_rng(6).exponential(30, 100)
    padded = np.concatenate([losses, np.full(300, NAN)])
    alone, among = (np.array(bootstrap_interval(row[None], seed=1)).ravel() for row in (losses, padded))
    assert among == pytest.approx(alone, rel=0.03)


def test_too_few_items_give_no_interval():
    """One item cannot be resampled into an interval, and none gives none; three items of many still do."""
    losses = np.full((3, 50), NAN)
    losses[1, 0] = 7.0
    losses[2, :3] = [1.0, 2.0, 6.0]
    low, high = bootstrap_interval(losses, seed=0, resamples=2_000)
    assert np.isnan([low[0], high[0], low[1], high[1]]).all()
    assert (low[2], high[2]) == (1.0, 6.0)


def test_the_same_seed_gives_the_same_interval_whatever_stands_beside_it():
    """A model's interval does not depend on which other models are compared."""
    losses = np.random.default_rng(7).exponential(30, (6, 90))
    together = np.array(bootstrap_interval(losses, seed=8, resamples=500))
    alone = np.array(bootstrap_interval(losses[2:3], seed=8, resamples=500))
    assert together[:, 2] == pytest.approx(alone[:, 0])
    other = np.array(bootstrap_interval(losses, seed=9, resamples=500))
    assert (together != other).any()


def test_a_big_shift_is_found_and_has_the_right_sign_and_size():
    """A model that is $10 worse on every item is reported as about $10 worse, with the smallest p there can be."""
    random = np.random.default_rng(12)
    leader = random.exponential(30, 300)
    result = paired_comparison(leader, leader + 10 + random.normal(0, 5, 300), seed=1, resamples=2_000)
    assert result.low < 10 < result.high and 9 < result.difference < 11
    assert result.p_value == pytest.approx(2 / 2_001)
    assert result.n == 300


def test_paired_comparison_uses_only_shared_items():
    """Items that either model was not asked about play no part, and one row alone gives what many rows give."""
    random = np.random.default_rng(13)
    leader, other = random.exponential(30, 80), random.exponential(35, 80)
    leader[:10], other[70:] = NAN, NAN
    many = paired_comparisons(leader, np.stack([random.exponential(30, 80), other]), seed=2, resamples=3_000)
    alone = paired_comparison(leader, other, seed=2, resamples=3_000)
    assert alone == pytest.approx(many[1])
    assert alone.n == 60
    assert alone.difference == pytest.approx((other - leader)[10:70].mean())
    shared = paired_comparison(leader[10:70], other[10:70], seed=2, resamples=3_000)
    assert alone.p_value == pytest.approx(shared.p_value, abs=0.05)


def test_no_shared_items_is_no_comparison():
    """Models without an item in common get NaN, not a made-up number."""
    result = paired_comparison([1.0, 2.0, NAN, NAN], [NAN, NAN, 3.0, 4.0], seed=0, resamples=50)
    assert result.n == 0
    assert np.isnan([result.difference, result.low, result.high, result.p_value]).all()


def test_holm_by_hand():
    """Smallest times m, next times m - 1, and so on, never falling and never above one; None passes through."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, None, 0.5, NAN]) == [1.0, None, 1.0, None]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_skewed_differences_are_no_more_often_called_different() -> None:
    """64 differences of mean zero, of which a few are large: p falls below 5% in about 5% of samples, not in 11%."""
    random = np.random.default_rng(30)
    drawn = random.lognormal(0, 1, (600, 64)) - math.exp(0.5)
    p_values = [result.p_value for result in paired_comparisons(np.zeros(64), drawn, seed=1, resamples=400)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.08


@pytest.mark.parametrize("models", [2, 6])
def test_equal_models_are_called_worse_no_more_often_than_said(models: int) -> None:
    """The leader is picked on the same items; still in 5% of samples at most one of its equals is told from it."""
    random = np.random.default_rng(31)
    wrong = 0
    for sample in range(200):
        hard = random.lognormal(0, 1, (1, 100))  # items that are hard for all
        spread = np.linspace(0.3, 1.2, models)[:, None]
        losses = hard * random.lognormal(-(spread**2) / 2, spread, (models, 100))
        wrong += bool((confidence_set(losses, seed=sample, resamples=200) < 0.05).any())
    assert wrong / 200 <= 0.09


def test_a_clear_leader_is_told_from_all_others() -> None:
    """One model that is half as far off on every item is alone in its set, among ten equals too."""
    random = np.random.default_rng(32)
    losses = random.lognormal(3, 1, 250) * random.lognormal(0, 0.2, (10, 250))
    losses[3] /= 2
    p_values = confidence_set(losses, seed=0, resamples=1_000)
    assert p_values[3] == 1.0 and (np.delete(p_values, 3) < 0.05).all()


def test_models_that_are_the_same_are_never_told_apart() -> None:
    """Equal losses, and a single model, have p 1; a difference that is the same everywhere has the least p there is."""
    same = np.array([[1.0, 2, 3, 4, 5, 6], [1.0, 2, 3, 4, 5, 6], [11.0, 12, 13, 14, 15, 16]])
    assert confidence_set(same, seed=0, resamples=99).tolist() == [1.0, 1.0, 0.01]
    assert confidence_set(np.zeros((3, 6)), seed=0, resamples=99).tolist() == [1.0, 1.0, 1.0]
    assert confidence_set(np.ones((1, 6)), seed=0).tolist() == [1.0]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_than_six_items_tell_no_models_apart(n: int) -> None:
    """One of two equal models is better on each of five items in one of sixteen samples: on two items, two constants
    were told apart in more than a third of them, as the differences are all the same there."""
    truth = np.linspace(10, 60, 6)
    guesses = {"leader": truth + 1, "worse": truth + 5, "few": np.where(np.arange(6) < n, truth + 9, NAN)}
    kinds = dict.fromkeys(guesses, "baseline")
    whole = compare(truth, guesses, kinds, seed=0, resamples=200)
    assert [whole[model].rank for model in guesses] == [1, 3, 1] and whole["few"].p_value == 1.0
    short = compare(truth[:n], {model: guess[:n] for model, guess in guesses.items()}, kinds, seed=0, resamples=200)
    assert [short[model].rank for model in guesses] == [1, 1, 1] and short["worse"].p_value == 1.0
    pair = paired_comparison(np.full(n, 1.0), np.full(n, 5.0), seed=0, resamples=200)
    assert pair.p_value == 1.0 or (n == 1 and math.isnan(pair.p_value))
    assert paired_comparison(np.full(6, 1.0), np.linspace(5, 6, 6), seed=0, resamples=200).p_value < 0.05


def test_ranks_are_shared_by_all_that_cannot_be_told_from_the_best() -> None:
    """1, 1, 1 for the tied, then 4, 5 by MAE; equal MAEs share a rank."""
    maes = {"a": 10.0, "b": 10.5, "c": 11.0, "d": 14.0, "e": 12.0}
    p_values = {"a": None, "b": 0.9, "c": 0.05, "d": 0.001, "e": 0.049}
    assert shared_ranks(maes, p_values) == {"a": 1, "b": 1, "c": 1, "e": 4, "d": 5}
    told_apart = {"c": 12.0, "a": 10.0, "b": 11.0, "d": 12.0}
    assert shared_ranks(told_apart, dict.fromkeys("bcd", 0.001)) == {"a": 1, "b": 2, "c": 3, "d": 3}


def contest(seed: int = 20, n: int = 500) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, str]]:
    """A clear leader, its near twin, two that are worse, and the rows that may not lead."""
    truth, random = prices(seed, n)
    leader = noisy(truth, random, 0.2)
    some = np.arange(n) < 50
    guesses = {
        "constant": np.full(n, truth.mean()),
        "ridge": noisy(truth, random, 0.5),
        "tuned": leader,
        "twin": leader + np.where(np.arange(n) % 2, 0.01, -0.01),
        "human": np.where(some, truth, NAN),
        "nobody": np.full(n, NAN),
        "floor": truth + 0.5,
        "recorded/perfect": truth + 1.0,
        "recorded/poor": np.where(some, truth * 3, NAN),
    }
    kinds = {"constant": "baseline", "ridge": "baseline", "tuned": "finetuned", "twin": "blend", "human": "human"}
    kinds |= {"nobody": "api", "floor": "floor", "recorded/perfect": "recorded", "recorded/poor": "recorded"}
    return truth, guesses, kinds


def test_compare_ranks_a_whole_contest() -> None:
    """Whoever made it, the best complete row leads; the floor has no rank; a row of some items is ranked by those."""
    truth, guesses, kinds = contest()
    board = compare(truth, guesses, kinds, seed=1, resamples=2_000)
    assert board["recorded/perfect"].rank == 1 and board["recorded/perfect"].p_value is None
    assert board["recorded/perfect"].difference == 0
    assert board["human"].rank == 1  # perfect on the fifty items that were priced
    worse = sorted(("tuned", "twin", "constant", "ridge", "recorded/poor"), key=lambda model: board[model].mae or 0)
    ranks = [board[model].rank for model in worse]
    assert ranks[0] == 3 and ranks == sorted(ranks)
    assert board["floor"].rank is None and board["floor"].p_value is None
    assert (board["floor"].difference or 0) < 0


def test_a_row_of_cheap_items_is_ranked_by_its_distance_to_the_leader() -> None:
    """It is certainly the worst on the items that it covers; that these are cheap does not lift it over others."""
    truth, random = prices(3, 400)
    cheap = truth <= np.quantile(truth, 0.2)
    guesses = {
        "leader": noisy(truth, random, 0.2),
        "second": noisy(truth, random, 0.25),
        "cheap": np.where(cheap, truth + 10, NAN),
    }
    board = compare(truth, guesses, dict.fromkeys(guesses, "baseline"), seed=1, resamples=2_000)
    assert (board["cheap"].mae or 0) < (board["second"].mae or 0) and board["cheap"].n == cheap.sum()
    assert [board[model].rank for model in guesses] == [1, 2, 3]


def test_compare_counts_covered_items_and_compares_on_them() -> None:
    """A row of 50 items has n 50, and its difference is taken on those 50."""
    truth, guesses, kinds = contest()
    board = compare(truth, guesses, kinds, seed=1, resamples=500)
    errors = {model: absolute_error(truth, guess)[:50] for model, guess in guesses.items()}
    expected = np.mean(errors["recorded/poor"] - errors["recorded/perfect"])
    assert board["human"].n == board["recorded/poor"].n == 50
    assert board["recorded/poor"].difference == pytest.approx(expected)
    nobody = board["nobody"]
    assert nobody.n == 0
    assert {nobody.mae, nobody.mae_low, nobody.difference, nobody.p_value, nobody.rank, nobody.metrics["r2"]} == {None}


def test_compare_is_json_without_nan_and_the_same_again() -> None:
    """The result is strict JSON, and the same seed gives it again."""
    truth, guesses, kinds = contest()

    def once() -> str:
        board = compare(truth, guesses, kinds, seed=5, resamples=300)
        return json.dumps({name: dataclasses.asdict(figures) for name, figures in board.items()}, allow_nan=False)

    assert once() == once()


def test_compare_without_a_complete_row_has_no_ranks() -> None:
    """When no model answered every item there is nobody to compare with, and no rank is made up."""
    board = compare([1.0, 2.0, 3.0], {"human": [1.0, 2.5, NAN]}, {"human": "human"}, seed=0, resamples=100)
    assert board["human"].mae == 0.25
    assert board["human"].rank is None and board["human"].difference is None


@pytest.mark.parametrize(
    ("guess", "message"), [([1.0], "expected 2 guesses"), ([1.0, math.inf], "must be a finite number")]
)
def test_compare_refuses_what_it_cannot_score(guess: list[float], message: str) -> None:
    """A wrong length or an infinite price is an error that names the model."""
    with pytest.raises(ValueError, match=f"ridge: .*{message}"):
        compare([1.0, 2.0], {"ridge": guess}, {"ridge": "baseline"}, seed=0, resamples=100)


def test_a_model_that_answered_one_item_does_not_lead() -> None:
    """It is not shown to be worse, and shares the first rank; the leader is one that answered all."""
    truth, random = prices(7, 200)
    good, poor = noisy(truth, random, 0.2), noisy(truth, random, 0.9)
    one = np.where(np.arange(200) == 5, truth, NAN)
    found = compare(
        truth, {"one": one, "good": good, "poor": poor}, dict.fromkeys(("one", "good", "poor"), "baseline"), seed=0
    )
    assert (found["one"].rank, found["one"].p_value) == (1, 1.0)
    assert found["good"].p_value is None and found["good"].rank == 1
    assert found["poor"].rank == 3

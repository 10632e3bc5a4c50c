"""Intervals and tests of losses: checked against libraries, hand examples and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tasks.scoring.resampling import (
    bootstrap_interval,
    confidence_set,
    holm,
    paired_comparison,
    paired_comparisons,
)

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
    assert result.p_value == pytest.approx(1 / 2_001)
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


def test_differences_with_long_tails_are_no_more_often_called_different() -> None:
    """Of two models that are as good as each other, each is far off where the other is not: tests of each tail by
    itself, and percentile intervals, told them apart in 8% of samples. And the two never contradict each other."""
    random = np.random.default_rng(33)
    losses = random.lognormal(3, 1, (300, 1, 64)) * random.lognormal(0, 0.7, (300, 2, 64))
    found = [paired_comparison(*pair, seed=sample, resamples=400) for sample, pair in enumerate(losses)]
    assert np.mean([result.p_value < 0.05 for result in found]) <= 0.05
    assert all((result.p_value < 0.05) == (not result.low <= 0 <= result.high) for result in found)


@pytest.mark.parametrize("models", [2, 6])
def test_equal_models_are_called_worse_no_more_often_than_said(models: int) -> None:
    """The leader is picked on the same items; still in 5% of samples at most one of its equals is told from it."""
    random = np.random.default_rng(31)
    wrong = 0
    for sample in range(200):
        hard = random.lognormal(0, 1, (1, 100))  # items that are hard for all
        spread = np.linspace(0.3, 1.2, models)[:, None]
        losses = hard * random.lognormal(-(spread**2) / 2, spread, (models, 100))
        wrong += bool((confidence_set(losses, seed=sample, resamples=200).p_values < 0.05).any())
    assert wrong / 200 <= 0.09


def test_a_clear_leader_is_told_from_all_others() -> None:
    """One model that is half as far off on every item is alone in its set, among ten equals too."""
    random = np.random.default_rng(32)
    losses = random.lognormal(3, 1, 250) * random.lognormal(0, 0.2, (10, 250))
    losses[3] /= 2
    p_values = confidence_set(losses, seed=0, resamples=1_000).p_values
    assert p_values[3] == 1.0 and (np.delete(p_values, 3) < 0.05).all()


def test_models_that_are_the_same_are_never_told_apart() -> None:
    """Equal losses, and a single model, have p 1; a difference that is the same everywhere has the least p there is."""
    same = np.array([[1.0, 2, 3, 4, 5, 6], [1.0, 2, 3, 4, 5, 6], [11.0, 12, 13, 14, 15, 16]])
    assert confidence_set(same, seed=0, resamples=99).p_values.tolist() == [1.0, 1.0, 0.01]
    assert confidence_set(np.zeros((3, 6)), seed=0, resamples=99).p_values.tolist() == [1.0, 1.0, 1.0]
    assert confidence_set(np.ones((1, 6)), seed=0).p_values.tolist() == [1.0]


def test_variants_of_a_product_count_as_the_product():
    """Each item in three copies says what it said alone: the same interval, p-values and critical values. Taken for
    three items, it seems to say more."""
    random = np.random.default_rng(8)
    losses = random.exponential(30, (4, 60)) + np.array([[0.0], [4.0], [9.0], [20.0]])
    of = np.repeat(np.arange(60), 3)
    copies = losses[:, of]
    judged = {"seed": 3, "resamples": 400}
    assert np.allclose(bootstrap_interval(copies, **judged, families=of), bootstrap_interval(losses, **judged))
    alone, counted, uncounted = (
        confidence_set(losses, **judged),
        confidence_set(copies, **judged, families=of),
        confidence_set(copies, **judged),
    )
    assert np.allclose(counted, alone) and uncounted.p_values[1] < alone.p_values[1]
    pair = paired_comparison(losses[0], losses[1], **judged)
    assert paired_comparison(copies[0], copies[1], **judged, families=of)[:4] == pytest.approx(pair[:4])
    copies[1, of < 30] = NAN  # it covers half of the products
    half = paired_comparison(losses[0], np.where(np.arange(60) < 30, NAN, losses[1]), **judged)
    told = paired_comparison(copies[0], copies[1], **judged, families=of)
    assert told.p_value == pytest.approx(half.p_value) and (told.n, half.n) == (90, 30)


def test_fewer_than_six_products_tell_nothing_apart():
    """However many variants of them there are."""
    of = np.repeat(np.arange(5), 40)
    worse = 10.0 + np.arange(200) % 7
    assert paired_comparison(np.zeros(200), worse, seed=0, families=of).p_value == 1.0
    assert (confidence_set([np.zeros(200), worse], seed=0, families=of).p_values == 1).all()


def test_equal_models_are_seldom_told_apart_by_products_of_many_variants():
    """From one to nine variants each, so that products weigh differently: the errors of a product go together, and by
    items one of two equal models is often called worse."""
    wrong = np.zeros(2)
    for sample in range(100):
        random = np.random.default_rng([9, sample])
        of = np.repeat(np.arange(60), random.integers(1, 10, 60))
        losses = random.lognormal(3, 0.7, (2, 60))[:, of] * random.lognormal(0, 0.1, (2, len(of)))
        judged = {"seed": sample, "resamples": 200}
        wrong += [(confidence_set(losses, **judged, families=of).p_values < 0.05).any() for of in (of, None)]
    assert wrong[0] <= 10 and wrong[1] >= 30

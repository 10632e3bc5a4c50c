"""Metrics, intervals, comparisons and ranks: checked against libraries, hand examples and simulation."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from tasks.models.language.estimators import quantile
from tasks.models.predictor import Distribution, Predictions
from tasks.scoring.comparisons import (
    bootstrap_interval,
    compare,
    holm,
    paired_comparison,
    paired_comparisons,
    shared_ranks,
    sign_flip_p_values,
)
from tasks.scoring.metrics import METRICS, absolute_error, is_hit, measure

NAN = math.nan


def prices(seed: int, n: int = 400) -> tuple[np.ndarray, np.random.Generator]:
    random = np.random.default_rng(seed)
    return np.exp(random.normal(4, 1, n)), random


def noisy(truth: np.ndarray, random: np.random.Generator, sigma: float) -> np.ndarray:
    return truth * np.exp(random.normal(0, sigma, len(truth)))


def test_metrics_agree_with_scikit_learn():
    """Each figure is what scikit-learn computes for the same guesses."""
    truth, random = prices(0)
    guess = noisy(truth, random, 0.5)
    ours = measure(truth, guess)
    assert ours["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(truth, guess))
    assert ours["median_ae"] == pytest.approx(sklearn_metrics.median_absolute_error(truth, guess))
    assert ours["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(truth, guess))
    assert ours["rmsle"] == pytest.approx(sklearn_metrics.root_mean_squared_log_error(truth, guess))
    assert ours["r2"] == pytest.approx(sklearn_metrics.r2_score(truth, guess))


def predicted(truth: np.ndarray, guess: np.ndarray, spread: float) -> Predictions:
    """Guesses with a bell of whole prices around each, its 80% interval, and no answer where a guess is below 20."""
    support = np.arange(0.0, 1000.0)
    bells = np.exp(-(((support - guess[:, None]) / spread) ** 2) / 2)
    distribution = Distribution(support, bells / bells.sum(axis=1, keepdims=True))
    low, high = (quantile(distribution.probabilities, support, q) for q in (0.1, 0.9))
    return Predictions(guess, low, high, distribution=distribution, unparsable=np.abs(guess - truth) > 150)


def test_better_predictions_score_better_in_the_direction_each_metric_names():
    """greater_is_better points the right way for every metric that has a direction."""
    truth, random = prices(1)
    good, bad = (predicted(truth, noisy(truth, random, sigma), 100 * sigma) for sigma in (0.1, 1.0))
    for name, metric in METRICS.items():
        gain = metric.function(truth, good) - metric.function(truth, bad)
        assert metric.greater_is_better is None or (gain > 0) == metric.greater_is_better, name


@settings(max_examples=50)
@given(
    weights=st.lists(st.integers(0, 5), min_size=2, max_size=12).filter(any),
    truth=st.floats(-30, 60),
    first=st.integers(0, 20),
    step=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_crps_is_the_distance_of_the_distribution_from_the_truth(weights, truth, first, step):
    """Exactly E|X - y| - E|X - X'| / 2, the other form of the score, also for a truth outside the range."""
    p, support = np.array([weights]) / sum(weights), first + step * np.arange(len(weights))
    spread = np.abs(support[:, None] - support)
    expected = p[0] @ np.abs(support - truth) - p[0] @ spread @ p[0] / 2
    assert Distribution(support, p).crps([truth])[0] == pytest.approx(expected, abs=1e-9)


def test_crps_of_a_certain_answer_is_its_absolute_error():
    """So that the score of a distribution and the error of a point estimate can be told in one unit."""
    certain = Distribution(np.arange(5.0), np.eye(5)[[1, 4, 0]])
    assert certain.crps([3.0, 4.0, 2.5]).tolist() == [2.0, 0.0, 2.5]


def test_levels_are_even_where_the_distribution_is_the_true_one():
    """Truths drawn from the model's own distribution lie at all levels alike; outside of it, at its ends."""
    random = np.random.default_rng(30)
    p = random.dirichlet(np.ones(300), 2_000)
    support = np.arange(300) / 2
    truth = np.array([random.choice(support, p=row) for row in p])
    assert stats.kstest(Distribution(support, p).pit(truth), "uniform").pvalue > 1e-3
    ends = Distribution(support, p[:3]).pit([-5.0, 400.0, 0.0])
    assert ends.tolist() == pytest.approx([0.0, 1.0, p[2, 0] / 2])


def test_coverage_and_width_are_over_the_items_with_an_interval():
    """Both ends belong to the interval; items without one do not count, and none at all is no figure."""
    low, high = np.array([1.0, 2.0, NAN, 10.0]), np.array([3.0, 4.0, NAN, 11.0])
    answers = measure([1.0, 4.0, 5.0, 12.0], Predictions(np.full(4, 3.0), low, high))
    assert answers["coverage"] == pytest.approx(2 / 3) and answers["width"] == pytest.approx(5 / 3)
    nothing = measure([1.0], [2.0])
    assert {nothing[key] for key in ("coverage", "width", "crps", "unparsable")} == {None}


def test_unparsable_is_the_share_of_those_asked():
    """Of five items one was never asked, two were understood and two were not; the error is over the understood."""
    price = np.array([10.0, NAN, NAN, 20.0, NAN])
    failed = np.array([False, True, True, False, False])
    answers = measure(np.full(5, 12.0), Predictions(price, price * NAN, price * NAN, unparsable=failed))
    assert answers["unparsable"] == 0.5 and answers["mae"] == 5.0


def test_a_hit_is_within_forty_dollars_or_a_fifth():
    """Either condition is enough, both are strict, and a missing guess is no hit."""
    truth = [10, 10, 1000, 1000, 100, 100]
    guess = [49, 50, 801, 800, 139.5, NAN]
    assert is_hit(truth, guess).tolist() == [True, False, True, False, True, False]
    assert measure(truth, guess)["hits"] == pytest.approx(3 / 5)


def test_a_guess_below_zero_counts_as_zero_in_rmsle_only():
    """A linear model's negative guess gives a number, not NaN."""
    assert measure([9.0], [-5.0])["rmsle"] == pytest.approx(math.log(10))
    assert measure([9.0], [-5.0])["mae"] == 14


def test_metrics_are_over_covered_items_and_none_without_any():
    """Items a model was not asked about change nothing; a model asked about none has no figures."""
    truth, random = prices(2, 60)
    guess = noisy(truth, random, 0.4)
    some = np.where(np.arange(60) < 20, guess, NAN)
    assert measure(truth, some) == pytest.approx(measure(truth[:20], guess[:20]))
    assert set(measure(truth, np.full(60, NAN)).values()) == {None}
    assert measure([5.0, 5.0], [4.0, 6.0])["r2"] is None


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


def test_p_values_are_uniform_when_nothing_differs():
    """Under the null of symmetric differences, p falls below any level about that often."""
    differences = np.random.default_rng(10).laplace(0, 20, (1_500, 60))
    p_values = sign_flip_p_values(differences, seed=11, resamples=1_000)
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    assert 0.03 <= np.mean(p_values < 0.05) <= 0.07


def test_p_value_matches_the_exact_permutation_test():
    """With eight differences all 256 sign patterns can be counted; ties with the observed one count as extreme."""
    differences = np.array([3.0, 1.0, -2.0, 4.0, 4.0, 1.0, 0.0, 5.0])
    signs = 1 - 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1)
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()))
    assert sign_flip_p_values(differences, seed=0, resamples=40_000)[0] == pytest.approx(exact, abs=0.01)
    assert sign_flip_p_values(np.zeros(8), seed=0, resamples=100)[0] == 1.0


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


def test_ranks_are_shared_by_all_that_cannot_be_told_from_the_leader():
    """1, 1, 1 for the tied, then 4, 5 by MAE; a model that has no MAE has no rank."""
    maes = {"a": 10.0, "b": 10.5, "c": 11.0, "d": 14.0, "e": 12.0, "f": None}
    p_values = {"a": None, "b": 0.9, "c": 0.05, "d": 0.001, "e": 0.049}
    differences = {"a": 0.0, "b": 0.5, "c": 1.0, "d": 4.0, "e": 2.0}
    assert shared_ranks(maes, p_values, differences, "a") == {"a": 1, "b": 1, "c": 1, "e": 4, "d": 5}


def test_ranks_follow_mae_when_all_are_told_apart():
    """With every difference certain the ranks are 1, 2, 3; equal MAEs share one."""
    maes = {"c": 12.0, "a": 10.0, "b": 11.0, "d": 12.0}
    differences = {model: mae - 10 for model, mae in maes.items()}
    ranks = shared_ranks(maes, dict.fromkeys("bcd", 0.001), differences, "a")
    assert ranks == {"a": 1, "b": 2, "c": 3, "d": 3}


def contest(seed: int = 20, n: int = 500):
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


def test_compare_ranks_a_whole_contest():
    """Own complete models can lead; floor has no rank; a better partial or recorded row shares rank 1."""
    truth, guesses, kinds = contest()
    board = compare(truth, guesses, kinds, seed=1, resamples=2_000)
    leader = min(("tuned", "twin"), key=lambda model: board[model]["mae"])
    assert board[leader]["difference"] == 0 and board[leader]["p_value"] is None
    for model in ("tuned", "twin", "human", "recorded/perfect"):
        assert board[model]["rank"] == 1, model
    worse = sorted(("constant", "ridge", "recorded/poor"), key=lambda model: board[model]["mae"])
    assert [board[model]["rank"] for model in worse] == [5, 6, 7]
    assert board["floor"]["rank"] is None and board["floor"]["p_value"] is None
    assert board["floor"]["difference"] < 0
    assert board["recorded/perfect"]["difference_high"] < 0


def test_compare_counts_covered_items_and_compares_on_them():
    """A row of 50 items has n 50, and its difference is taken on those 50."""
    truth, guesses, kinds = contest()
    board = compare(truth, guesses, kinds, seed=1, resamples=500)
    leader = next(model for model in board if board[model]["difference"] == 0)
    errors = {model: absolute_error(truth, guess)[:50] for model, guess in guesses.items()}
    assert board["human"]["n"] == board["recorded/poor"]["n"] == 50
    assert board["recorded/poor"]["difference"] == pytest.approx(np.mean(errors["recorded/poor"] - errors[leader]))
    assert board["nobody"]["n"] == 0
    assert {board["nobody"][key] for key in ("mae", "mae_low", "difference", "p_value", "rank", "r2")} == {None}


def test_compare_corrects_recorded_rows_apart_from_our_own():
    """Adding recorded rows does not change the p-values of our own models, and adding own models does."""
    truth, random = prices(21, 200)
    own = {f"own{i}": noisy(truth, random, 0.4) for i in range(4)}
    extra = {f"recorded/{i}": noisy(truth, random, 0.4) for i in range(5)}

    def p_values(guesses):
        kinds = {model: "recorded" if model.startswith("recorded") else "baseline" for model in guesses}
        return {model: row["p_value"] for model, row in compare(truth, guesses, kinds, seed=3, resamples=999).items()}

    alone, beside = p_values(own), p_values(own | extra)
    assert {model: beside[model] for model in own} == alone
    fewer = p_values({model: own[model] for model in ("own0", "own1", "own2")})
    shared = [model for model in fewer if fewer[model] is not None and alone[model] is not None]
    assert any(alone[model] > fewer[model] for model in shared)


def test_compare_is_json_without_nan_and_the_same_again():
    """The result is strict JSON, and the same seed gives it again."""
    truth, guesses, kinds = contest()
    first = json.dumps(compare(truth, guesses, kinds, seed=5, resamples=300), allow_nan=False)
    assert first == json.dumps(compare(truth, guesses, kinds, seed=5, resamples=300), allow_nan=False)


def test_compare_without_a_complete_rung_has_no_ranks():
    """When no model of ours answered every item there is nobody to compare with, and no rank is made up."""
    board = compare([1.0, 2.0, 3.0], {"human": [1.0, 2.5, NAN]}, {"human": "human"}, seed=0, resamples=20)
    assert board["human"]["mae"] == 0.25
    assert board["human"]["rank"] is None and board["human"]["difference"] is None


@pytest.mark.parametrize(
    ("guess", "message"), [([1.0], "expected 2 guesses"), ([1.0, math.inf], "must be a finite number")]
)
def test_compare_refuses_guesses_it_cannot_score(guess, message):
    """A wrong length or an infinite guess is an error that names the model."""
    with pytest.raises(ValueError, match=f"ridge: .*{message}"):
        compare([1.0, 2.0], {"ridge": guess}, {"ridge": "baseline"}, seed=0, resamples=10)

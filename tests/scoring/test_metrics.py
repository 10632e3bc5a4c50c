"""Metrics, intervals, comparisons and ranks: checked against libraries, hand examples and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from tasks.models.language.estimators import quantile
from tasks.models.predictor import Distribution, Predictions
from tasks.scoring.metrics import METRICS, is_hit, measure
from tests.scoring.made import noisy, prices

NAN = math.nan


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


def test_forty_dollars_are_no_hit_among_prices_of_cents():
    """Where most prices are below $40, only the share of the price counts; answers that are missing change nothing."""
    truth = [0.004, 0.02, 0.5, 90.0]
    assert is_hit(truth, [0.0045, 0.03, 0.7, 91.0]).tolist() == [True, False, False, True]
    dear = [100.0, 120.0, 5.0, 4.0, 80.0]
    assert measure(dear, [NAN, NAN, 20.0, 90.0, NAN])["hits"] == pytest.approx(1 / 2)


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
    assert measure([0.1] * 3, [0.2] * 3)["r2"] is None  # whose mean is not 0.1, by a rounding

"""Each answer is the estimator it says it is, and a temperature widens or narrows what it is read off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.models.language.estimators import ESTIMATORS, fit_temperature, log_mean, mean, median, quantile, temper

rows = st.lists(st.integers(0, 5), min_size=3, max_size=12).filter(any)


@given(weights=rows, q=st.floats(0, 1))
def test_quantile_is_the_weighted_one(weights, q):
    """Quantiles lie at prices that can be, with at most q below and at most 1 - q above; so does the median."""
    p = np.array([weights]) / sum(weights)
    prices = np.arange(7, 7 + len(weights))
    for share, answer in ((q, quantile(p, prices, q)[0]), (0.5, median(p, prices)[0])):
        assert prices[p[0] > 0].min() <= answer <= prices[p[0] > 0].max()
        assert p[0][prices < answer].sum() <= share + 1e-9
        assert p[0][prices > answer].sum() <= 1 - share + 1e-9


@given(weights=rows, ends=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_quantiles_are_monotone(weights, ends):
    """A higher quantile is never a lower price."""
    p, prices = np.array([weights]) / sum(weights), np.arange(len(weights))
    assert quantile(p, prices, min(ends))[0] <= quantile(p, prices, max(ends))[0]


@given(weights=rows, shift=st.integers(0, 50), scale=st.integers(1, 9))
def test_estimates_move_with_prices(weights, shift, scale):
    """In another unit or from another zero, median and mean are the same price; prices that cannot be do not matter."""
    p, prices = np.array([weights]) / sum(weights), np.arange(len(weights))
    for estimate in (median, mean):
        assert estimate(p, prices * scale + shift)[0] == pytest.approx(estimate(p, prices)[0] * scale + shift)
    wider, more = np.pad(p, ((0, 0), (2, 2))), np.arange(len(weights) + 4)
    for estimate in ESTIMATORS.values():
        assert estimate(wider, more)[0] == pytest.approx(estimate(p, prices + 2)[0])


def test_exact_hit_takes_the_middle():
    """Half of the probability at 10 and half at 40: any price between is a median, and the middle is the answer."""
    p = np.array([[0.5, 0.0, 0.0, 0.5], [0.6, 0.0, 0.0, 0.4]])
    assert median(p, np.array([10, 20, 30, 40])).tolist() == [25, 10]
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile(p, np.array([10, 20, 30, 40]), 1.5)


@pytest.mark.parametrize(
    ("answer", "loss"),
    [
        ("median", lambda guess, price: abs(guess - price)),
        ("mean", lambda guess, price: (guess - price) ** 2),
        ("log_mean", lambda guess, price: (np.log1p(guess) - np.log1p(price)) ** 2),
    ],
)
@given(weights=rows)
def test_answers_are_the_best_for_their_metric(answer, loss, weights):
    """No other price has a smaller expected error of the kind the answer is for."""
    p, prices = np.array([weights]) / sum(weights), np.arange(len(weights)) * 30
    guess = ESTIMATORS[answer](p, prices)[0]
    others = np.linspace(0, prices.max(), 400)
    assert p[0] @ loss(guess, prices) <= min(p[0] @ loss(other, prices) for other in others) + 1e-9


@given(weights=rows, temperature=st.floats(0.25, 4))
def test_a_temperature_widens_or_narrows_and_keeps_the_order(weights, temperature):
    """Above 1 the most probable price loses, below it gains; what is impossible stays so, and 1 changes nothing."""
    p = np.array([weights]) / sum(weights)
    tempered = temper(p, temperature)
    assert tempered.sum() == pytest.approx(1)
    assert ((tempered > 0) == (p > 0)).all()
    assert (np.argsort(tempered[0], kind="stable") == np.argsort(p[0], kind="stable")).all()
    assert (tempered.max() - p.max()) * (1 - temperature) >= -1e-12
    assert (temper(p, 1.0) == p).all()


def test_the_temperature_of_an_overconfident_model_is_found():
    """Truths drawn from distributions that were then sharpened by two ask for a temperature of two."""
    random = np.random.default_rng(6)
    prices = np.arange(60) * 2.0
    true = temper(np.exp(-(((prices - random.uniform(20, 100, (800, 1))) / 12) ** 2)), 1.0001)
    truth = np.array([random.choice(prices, p=row) for row in true])
    assert fit_temperature(temper(true, 0.5), prices, truth) == pytest.approx(2, rel=0.15)
    assert fit_temperature(true, prices, truth) == pytest.approx(1, rel=0.15)


def test_log_mean_is_geometric():
    """The log-mean of 0 and 99 dollars is 9: the price whose logarithm lies in the middle."""
    assert log_mean(np.array([[0.5, 0.5]]), np.array([0, 99])) == pytest.approx([9])

"""How good a set of guesses is: every figure, of which `mae` is what models are chosen and ranked by.

Truth and guesses are prices in US dollars, one per item. A NaN guess means that the model was not asked about that item
(a person who priced fifty items, a recorded run of some of them) or gave no price: every figure is over the items a
model covers.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.models.predictor import Predictions

Array = NDArray[np.float64]

HIT_DOLLARS = 40.0
HIT_SHARE = 0.2


class Metric(NamedTuple):
    """function(truth [n], predictions of n items) -> float, NaN where it is not defined; and which way is better, None
    where neither is."""

    function: Callable[[Array, Predictions], float]
    greater_is_better: bool | None


def absolute_error(truth: ArrayLike, guess: ArrayLike) -> Array:
    """Absolute error per item in dollars, [..., n]; NaN where the guess is."""
    return np.abs(np.asarray(guess, dtype=float) - np.asarray(truth, dtype=float))


def is_hit(truth: ArrayLike, guess: ArrayLike) -> NDArray[np.bool_]:
    """Whether each guess is less than $40 or less than 20% of the truth away; False where the guess is NaN."""
    error = absolute_error(truth, guess)
    return (error < hit_dollars(truth)) | (error < HIT_SHARE * np.asarray(truth, dtype=float))


def hit_dollars(truth: ArrayLike) -> float:
    """The $40 of a hit, which count only where most prices are higher: of screws, every guess would be one."""
    return HIT_DOLLARS if np.size(truth) and np.median(np.asarray(truth, dtype=float)) > HIT_DOLLARS else 0.0


def _of_prices(function: Callable[[Array, Array], Any]) -> Callable[[Array, Predictions], float]:
    """A metric of truths and point estimates, over the items that have one; NaN when there are none."""

    def metric(truth: Array, predictions: Predictions) -> float:
        given = ~np.isnan(predictions.price)
        return float(function(truth[given], predictions.price[given])) if given.any() else math.nan

    return metric


def _coverage(truth: Array, predictions: Predictions) -> float:
    given = ~np.isnan(predictions.low + predictions.high)
    inside = (predictions.low <= truth) & (truth <= predictions.high)
    return float(inside[given].mean()) if given.any() else math.nan


def _width(_: Array, predictions: Predictions) -> float:
    widths = predictions.high - predictions.low
    return math.nan if np.isnan(widths).all() else float(np.nanmean(widths))


def _rmsle(truth: Array, guess: Array) -> float:
    # A linear model may guess below zero, where the logarithm has no value: it counts as a guess of zero.
    return float(np.sqrt(np.mean((np.log1p(np.maximum(guess, 0)) - np.log1p(truth)) ** 2)))


def _r2(truth: Array, guess: Array) -> float:
    if np.ptp(truth) == 0:  # their mean is not quite any of them, and the rest would be divided by that
        return math.nan
    return float(1 - np.sum((guess - truth) ** 2) / np.sum((truth - truth.mean()) ** 2))


def _unparsable(_: Array, predictions: Predictions) -> float:
    if predictions.unparsable is None:
        return math.nan
    asked = predictions.unparsable | ~np.isnan(predictions.price)
    return float(predictions.unparsable[asked].mean()) if asked.any() else math.nan


def _crps(truth: Array, predictions: Predictions) -> float:
    if predictions.distribution is None:
        return math.nan  # an interval and a point do not say what lies between and beyond them
    return float(predictions.distribution.crps(truth).mean())


def _hits(truth: Array, predictions: Predictions) -> float:
    given = ~np.isnan(predictions.price)  # which dollars count is a question of all prices, not of those answered
    return float(is_hit(truth, predictions.price)[given].mean()) if given.any() else math.nan


METRICS: dict[str, Metric] = {
    "mae": Metric(_of_prices(lambda truth, guess: np.mean(np.abs(guess - truth))), False),
    "median_ae": Metric(_of_prices(lambda truth, guess: np.median(np.abs(guess - truth))), False),
    "rmse": Metric(_of_prices(lambda truth, guess: np.sqrt(np.mean((guess - truth) ** 2))), False),
    "rmsle": Metric(_of_prices(_rmsle), False),
    "r2": Metric(_of_prices(_r2), True),
    "hits": Metric(_hits, True),
    "unparsable": Metric(_unparsable, False),
    "coverage": Metric(_coverage, None),  # of the 80% intervals, so 0.8 is best
    "width": Metric(_width, False),
    "crps": Metric(_crps, False),
}


def measure(truth: ArrayLike, predictions: Predictions | ArrayLike) -> dict[str, float | None]:
    """Every metric of METRICS, of predictions or of guesses [n] alone; None (JSON has no NaN) where it is not defined.

    Shares (hits, unparsable, coverage) are between 0 and 1; mae, median_ae, rmse, width and crps are in dollars.
    """
    truth, predictions = np.asarray(truth, dtype=float), predictions_of(predictions)
    return {name: number(metric.function(truth, predictions)) for name, metric in METRICS.items()}


def predictions_of(answers: Predictions | ArrayLike) -> Predictions:
    """Predictions as they are, and prices [n] as point estimates alone."""
    return answers if isinstance(answers, Predictions) else Predictions.points(np.asarray(answers, dtype=float))


def number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)

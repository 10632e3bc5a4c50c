"""Every model of the ladder answers one question in one way: predict(items) -> Predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

from tasks.data.items import Item


@dataclass(frozen=True)
class Distribution:
    """A model's probabilities [n, k] of k prices, evenly spaced and ascending, in US dollars; each row sums to 1."""

    prices: np.ndarray
    probabilities: np.ndarray

    def crps(self, truth: ArrayLike) -> np.ndarray:
        """Continuous ranked probability score of each item [n], in dollars: the integral of (F(x) - [x >= truth])^2.

        Exact for the discrete distribution (Gneiting and Raftery 2007); for one that is certain it is the absolute
        error, so that both compare.
        """
        truth, prices = np.asarray(truth, dtype=float)[:, None], self.prices.astype(float)
        outside = np.maximum(truth - prices[-1], 0) + np.maximum(
            prices[0] - truth, 0
        )  # where F is 1, or 0, for certain
        steps = np.diff(prices)
        below = np.clip(truth - prices[:-1], 0, steps)  # the part of each step that lies below the truth
        cumulative = self.probabilities.cumsum(axis=1)[:, :-1]
        return (cumulative**2 * below + (1 - cumulative) ** 2 * (steps - below)).sum(axis=1) + outside[:, 0]

    def pit(self, truth: ArrayLike) -> np.ndarray:
        """Probability integral transform [n]: the level at which each truth lies in its distribution, evenly spread
        over 0..1 where that is calibrated.

        Half of the probability of the truth's own price counts as below it (the mid-distribution transform).
        """
        prices, probabilities = self.prices, self.probabilities
        step = prices[1] - prices[0] if len(prices) > 1 else 1.0
        at = np.rint((np.asarray(truth, dtype=float) - prices[0]) / step)
        own = np.clip(at, 0, len(prices) - 1).astype(int)[:, None]
        upto = np.take_along_axis(probabilities.cumsum(axis=1), own, axis=1)[:, 0]
        inside = upto - np.take_along_axis(probabilities, own, axis=1)[:, 0] / 2
        return np.where(at < 0, 0.0, np.where(at >= len(prices), 1.0, inside))


@dataclass(frozen=True)
class Predictions:
    """What a model answers for n items, in the order of the items and in US dollars.

    `price`, `low` and `high` are float arrays of shape [n]: the point estimate and the ends of an 80% interval (NaN
    where the model gives none; `price` is NaN where it was not asked, or said nothing that is a price). `mass` is the
    probability that the model put on well-formed answers, shape [n], and `distribution` how it spread them;
    `unparsable`, shape [n], marks the items for which a model that answers in words was asked and not understood. Each
    of these three is None where it has no meaning.
    """

    price: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mass: np.ndarray | None = None
    distribution: Distribution | None = None
    unparsable: np.ndarray | None = None

    @classmethod
    def points(cls, price: Sequence[float] | np.ndarray) -> Self:
        """Point estimates alone."""
        price = np.asarray(price, dtype=float)
        return cls(price, np.full(price.shape, np.nan), np.full(price.shape, np.nan))


class Predictor(Protocol):
    """A model that can be saved into a folder; tasks.models.loading reads it again in another process."""

    def predict(self, items: Sequence[Item]) -> Predictions:
        """Price the items."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that loading needs into an existing, empty folder."""
        ...

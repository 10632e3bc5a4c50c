"""Every rung of the ladder answers one question in one way: predict(items) -> Predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from tasks.items import Item


@dataclass(frozen=True)
class Distribution:
    """A rung's probabilities [n, k] of k prices, evenly spaced and ascending, in US dollars; each row sums to 1."""

    prices: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Predictions:
    """What a rung answers for n items, in the order of the items and in US dollars.

    `price`, `low` and `high` are float arrays of shape [n]: the point estimate and the ends of an 80% interval (NaN
    where the rung gives none; `price` is NaN where the rung was not asked, or said nothing that is a price). `mass` is
    the probability that the rung put on well-formed answers, shape [n], and `distribution` how it spread them;
    `unparsable`, shape [n], marks the items for which a rung that answers in words was asked and not understood. Each
    of these three is None where it has no meaning. `cost` is what asking took in US dollars, where that is known.
    """

    price: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mass: np.ndarray | None = None
    distribution: Distribution | None = None
    unparsable: np.ndarray | None = None
    cost: float | None = None

    @classmethod
    def points(cls, price: Sequence[float] | np.ndarray) -> Self:
        """Point estimates alone."""
        price = np.asarray(price, dtype=float)
        return cls(price, np.full(price.shape, np.nan), np.full(price.shape, np.nan))


class Predictor(Protocol):
    """A rung that can be saved into a folder and loaded again in another process."""

    def predict(self, items: Sequence[Item]) -> Predictions:
        """Price the items."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that `load` needs into an existing, empty folder."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        ...

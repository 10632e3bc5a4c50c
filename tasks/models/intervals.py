"""80% intervals for models that answer with one price: split-conformal on the log scale (Lei et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

INTERVAL = (0.1, 0.9)  # the quantiles that bound an 80% interval
FEWEST = 9  # items: 80% of new ones lie between the least and the greatest of them; between those of fewer, less


def conformal(truth: Sequence[float | None] | np.ndarray, price: np.ndarray) -> tuple[float, float] | None:
    """How far off answers [n] were on items that they were not fitted to: quantiles of log(truth / answer).

    Quantile p of n is at rank p (n + 1), so that an interval of few items holds a new item as often as one of many.
    Fewer than FEWEST have no such ranks, and no interval: None.
    """
    if len(price) < FEWEST:
        return None
    ratios = np.log1p(np.asarray(truth, dtype=float)) - np.log1p(price)
    low, high = np.quantile(ratios, INTERVAL, method="weibull")
    return float(low), float(high)


def interval(price: np.ndarray, spread: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """The ends [n] of the intervals around answers [n], in US dollars; NaN without a `spread`."""
    if spread is None:
        return np.full(np.shape(price), np.nan), np.full(np.shape(price), np.nan)
    low, high = (_end(price, shift) for shift in spread)
    return low, high


def _end(price: np.ndarray, shift: float) -> np.ndarray:
    """One end [n], without the last bits that logarithms change: many shops ask one of a few prices, and an end that
    comes out as 9.989999999999998 would not hold the items that cost 9.99. Of millions, the cents are right."""
    end = np.maximum(np.expm1(np.log1p(price) + shift), 0.0)
    return np.where(end < 1e6, np.round(end, 6), np.round(end, 2))

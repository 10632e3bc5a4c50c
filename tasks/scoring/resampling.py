"""What resampling the items says of losses: intervals, which models may be the best, and two models side by side.

Uncertainty comes from the items alone: percentile bootstrap intervals (Efron 1979), the model confidence set for who is
as good as the best (Hansen, Lunde and Nason 2011), and a bootstrap-t for two models that were picked beforehand.
benchmarks/calibration.py measures how often they are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tasks.scoring.metrics import Array

SIGNIFICANCE = 0.05
FEWEST = 6  # items that tell two models apart: even if one is better on each of five, so is one of equals in 1 of 16
CHUNK_CELLS = 2_000_000  # resamples x items held at once: 16 MB as floats, whatever the size of the problem


class Comparison(NamedTuple):
    """Mean of other's loss minus the first one's on the n items both cover, with its interval and two-sided p-value.

    In the unit of the losses; above zero, the first one is better. NaN where too few items are shared to say.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def bootstrap_interval(
    losses: ArrayLike, *, seed: int, resamples: int = 10_000, level: float = 0.95
) -> tuple[Array, Array]:
    """Percentile bootstrap interval of each model's mean loss: losses [models, n] -> low [models], high [models].

    All models see the same resamples of the items. A model is averaged over those of its covered (not NaN) items that
    were drawn; with fewer than two covered items there is nothing to resample, and both ends are NaN.
    """
    losses = np.atleast_2d(np.asarray(losses, dtype=float))
    asked = ~np.isnan(losses)
    filled = np.where(asked, losses, 0.0).T
    weights = None if asked.all() else asked.astype(float).T
    means = np.empty((resamples, len(losses)))
    with np.errstate(invalid="ignore"):  # none of a model's few items drawn: 0/0, and that resample is left out below
        for rows, counts in _resample_counts(losses.shape[1], resamples, seed):
            means[rows] = (counts @ filled) / (losses.shape[1] if weights is None else counts @ weights)
    tail = 100 * (1 - level) / 2
    enough = asked.sum(axis=1) >= 2
    ends = np.full((2, len(losses)), math.nan)
    if enough.any():
        ends[:, enough] = _percentiles(means[:, enough], [tail, 100 - tail])
    return ends[0], ends[1]


def _percentiles(means: Array, at: list[float]) -> Array:
    """Percentiles down each column, passing over NaN; the slower NaN-aware routine only where it is needed."""
    return np.nanpercentile(means, at, axis=0) if np.isnan(means).any() else np.percentile(means, at, axis=0)


def _chunks(n: int, resamples: int) -> Iterator[slice]:
    size = max(1, CHUNK_CELLS // max(n, 1))
    return (slice(start, min(start + size, resamples)) for start in range(0, resamples, size))


def _resample_counts(n: int, resamples: int, seed: int) -> Iterator[tuple[slice, Array]]:
    """How often each of n items is in each resample, a chunk of resamples at a time: a matrix product does the rest."""
    random = np.random.default_rng([seed, 0])
    for rows in _chunks(n, resamples):
        size = rows.stop - rows.start
        drawn = random.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        yield rows, np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(float)


def bootstrap_t(values: Array, *, seed: int, resamples: int) -> tuple[Array, Array]:
    """Studentized means of values [rows, n]: those observed [rows], and those of resamples about the observed mean
    [resamples, rows].

    The bootstrap-t (Efron 1982, Hall 1988): each resample is divided by its own standard error, which makes the test
    right for skewed values too. A mean that is certainly not zero (no spread) is infinite, one that is zero stays zero.
    """
    values = np.atleast_2d(values)
    n, mean = values.shape[1], values.mean(axis=1)
    error = values.std(axis=1) / math.sqrt(n)
    both = np.concatenate([values, values**2]).T
    drawn = np.empty((resamples, len(values)))
    for rows, counts in _resample_counts(n, resamples, seed):
        sums = counts @ both / n
        means, squares = np.hsplit(sums, 2)
        spread = np.sqrt(np.maximum(squares - means**2, 0.0) / n)
        drawn[rows] = (means - mean) / np.maximum(spread, np.maximum(1e-3 * error, 1e-300))
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = np.where(mean == 0, 0.0, mean / error)  # infinite where all differ by the same
    return observed, drawn


class ConfidenceSet(NamedTuple):
    """The p-value of each model [models] that it is as good as the best, and how far from zero a studentized difference
    must lie to tell it from another one [models]: for two models, the larger of their critical values."""

    p_values: Array
    critical: Array


def confidence_set(
    losses: ArrayLike, *, seed: int, resamples: int = 10_000, level: float = SIGNIFICANCE
) -> ConfidenceSet:
    """Which models are as good as the best, from losses [models, n] of the same items.

    The model confidence set with the range statistic (Hansen, Lunde and Nason 2011): while the models left are not all
    equally good, by the largest studentized difference of any two of them, the one that is worst against another goes.
    A model's p-value is the largest of the tests up to its own; that of the best is 1. Models with p >= 0.05 hold the
    best one with 95% confidence. This holds although the best was picked on the same items, which a test of each model
    against the observed best does not. Of fewer than FEWEST items, all are 1.

    A critical value is that of the test in which a model went, or, of those that stayed, that of the test in which
    nobody went, at `level`; NaN where nothing is tested.
    """
    losses = np.asarray(losses, dtype=float)
    p_values, critical = np.ones(len(losses)), np.full(len(losses), math.nan)
    if len(losses) < 2 or losses.shape[1] < FEWEST:  # few items may show no spread, and all would look certain
        return ConfidenceSet(p_values, critical)
    one, other = np.triu_indices(len(losses), k=1)
    differences = losses[one] - losses[other]
    differences[np.abs(differences) < 1e-9] = 0.0  # equal models differ by rounding
    observed, drawn = bootstrap_t(differences, seed=seed, resamples=resamples)
    np.abs(drawn, out=drawn)
    left, highest = np.ones(len(losses), dtype=bool), 0.0
    beyond = max(math.ceil(level * (1 + resamples) - 1), 1)  # so many resamples that lie as far make no p below `level`
    for _ in range(len(losses) - 1):
        pairs = np.flatnonzero(left[one] & left[other])
        largest, farthest = np.abs(observed[pairs]).max(), drawn[:, pairs].max(axis=1)
        if highest < level:
            critical[left] = np.partition(farthest, -beyond)[-beyond] / (1 - 1e-9)
        as_far = np.sum(farthest >= largest * (1 - 1e-9)) if largest > 0 else resamples
        highest = max(highest, (1 + as_far) / (1 + resamples))
        pair = pairs[np.abs(observed[pairs]).argmax()]
        worst = one[pair] if observed[pair] > 0 else other[pair]
        p_values[worst], left[worst] = highest, False
    return ConfidenceSet(p_values, critical)


def paired_comparisons(
    leader_losses: ArrayLike, other_losses: ArrayLike, *, seed: int, resamples: int = 10_000
) -> list[Comparison]:
    """One model [n] against each of several others [models, n], on the items both cover; see Comparison.

    The p-value is a two-sided bootstrap-t: it does not take the differences for symmetric, as a sign-flip test does.
    It is for a pair that was not picked by its own figures; see `confidence_set` for a leader that was.
    """
    differences = np.atleast_2d(np.asarray(other_losses, dtype=float)) - np.asarray(leader_losses, dtype=float)
    low, high = bootstrap_interval(differences, seed=seed, resamples=resamples)
    found = []
    for row, ends in zip(differences, zip(low, high, strict=True), strict=True):
        shared = row[~np.isnan(row)]
        mean = float(shared.mean()) if len(shared) else math.nan
        p_value = _two_sided(shared, seed=seed, resamples=resamples)
        found.append(Comparison(mean, *map(float, ends), p_value, len(shared)))
    return found


def _two_sided(differences: Array, *, seed: int, resamples: int) -> float:
    """p-value that differences [n] have mean zero; 1 for fewer than FEWEST, and NaN for fewer than two."""
    if len(differences) < FEWEST:
        return math.nan if len(differences) < 2 else 1.0
    observed, drawn = bootstrap_t(differences, seed=seed, resamples=resamples)
    slack = 1e-9 * abs(observed[0])
    # Each tail by itself: of skewed differences one is much longer than the other.
    tails = np.sum(drawn[:, 0] >= observed[0] - slack), np.sum(drawn[:, 0] <= observed[0] + slack)
    return float(min(1.0, 2 * (1 + min(tails)) / (1 + resamples)))


def paired_comparison(
    leader_losses: ArrayLike, other_losses: ArrayLike, *, seed: int, resamples: int = 10_000
) -> Comparison:
    """One model [n] against one other [n], on the items both cover; see Comparison."""
    return paired_comparisons(leader_losses, other_losses, seed=seed, resamples=resamples)[0]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given; None or NaN is no test, and stays None."""
    adjusted: list[float | None] = [None] * len(p_values)
    tests = sorted((p, i) for i, p in enumerate(p_values) if p is not None and not math.isnan(p))
    highest = 0.0
    for done, (p, i) in enumerate(tests):
        highest = max(highest, min(1.0, (len(tests) - done) * p))
        adjusted[i] = highest
    return adjusted

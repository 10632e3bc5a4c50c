"""What resampling the items says of losses: intervals, which models may be the best, and two models side by side.

Uncertainty comes from the items alone: percentile bootstrap intervals (Efron 1979), the model confidence set for who is
as good as the best (Hansen, Lunde and Nason 2011), and a bootstrap-t for two models that were picked beforehand.
Errors on variants of one product go together: where the `families` [n] of the items are given, whole families are drawn
(the cluster bootstrap, Field and Welsh 2007). benchmarks/calibration.py measures how often all this is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tasks.scoring.metrics import Array

SIGNIFICANCE = 0.05
FEWEST = 6  # items, or families of them, that tell two models apart: one of equals is better on each of five in 1 of 16
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
    losses: ArrayLike,
    *,
    seed: int,
    resamples: int = 10_000,
    level: float = 0.95,
    families: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Percentile bootstrap interval of each model's mean loss: losses [models, n] -> low [models], high [models].

    All models see the same resamples of the items. A model is averaged over those of its covered (not NaN) items that
    were drawn; with fewer than two covered items (or families) there is nothing to resample, and both ends are NaN.
    """
    losses = np.atleast_2d(np.asarray(losses, dtype=float))
    asked = ~np.isnan(losses)
    sums, sizes = _by_family(np.where(asked, losses, 0.0), families), _by_family(asked.astype(float), families)
    n = sums.shape[1]
    same = bool((sizes == 1).all())
    means = np.empty((resamples, len(losses)))
    with np.errstate(invalid="ignore"):  # none of a model's few items drawn: 0/0, and that resample is left out below
        for rows, counts in _resample_counts(n, resamples, seed):
            means[rows] = (counts @ sums.T) / (n if same else counts @ sizes.T)
    tail = 100 * (1 - level) / 2
    enough = (sizes > 0).sum(axis=1) >= 2
    ends = np.full((2, len(losses)), math.nan)
    if enough.any():
        ends[:, enough] = _percentiles(means[:, enough], [tail, 100 - tail])
    return ends[0], ends[1]


def _percentiles(means: Array, at: list[float]) -> Array:
    """Percentiles down each column, passing over NaN; the slower NaN-aware routine only where it is needed."""
    return np.nanpercentile(means, at, axis=0) if np.isnan(means).any() else np.percentile(means, at, axis=0)


def _by_family(values: Array, families: ArrayLike | None) -> Array:
    """The sums of values [rows, n] over the items of each family [rows, families]; every item is one by default."""
    if families is None:
        return values
    of = np.unique(np.asarray(families), return_inverse=True)[1]
    return np.stack([np.bincount(of, weights=row) for row in values]).astype(float)


def count_of(n: int, families: ArrayLike | None) -> int:
    """How many families n items are of; by default each item is one."""
    return n if families is None else len(np.unique(np.asarray(families)))


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


def standard_error(values: Array, families: ArrayLike | None = None) -> Array:
    """The standard error of the means of values [rows, n], without the correction for few items: [rows]."""
    sizes = _by_family(np.ones((1, values.shape[1])), families)[0]
    off = _by_family(values, families) - values.mean(axis=1, keepdims=True) * sizes
    return np.sqrt((off**2).sum(axis=1)) / values.shape[1]


def bootstrap_t(values: Array, *, seed: int, resamples: int, families: ArrayLike | None = None) -> tuple[Array, Array]:
    """Studentized means of values [rows, n]: those observed [rows], and those of resamples about the observed mean
    [resamples, rows].

    The bootstrap-t (Efron 1982, Hall 1988): each resample is divided by its own standard error, which makes the test
    right for skewed values too. A mean that is certainly not zero (no spread) is infinite, one that is zero stays zero.
    """
    values = np.atleast_2d(values)
    mean, error = values.mean(axis=1), standard_error(values, families)
    sums, sizes = _by_family(values, families), _by_family(np.ones((1, values.shape[1])), families)[0]
    both, by_size = np.concatenate([sums, sums**2]).T, (sums * sizes).T
    drawn = np.empty((resamples, len(values)))
    for rows, counts in _resample_counts(len(sizes), resamples, seed):
        items = (counts @ sizes)[:, None]
        total, squares = np.hsplit(counts @ both, 2)
        with_sizes = total if families is None else counts @ by_size
        means = total / items
        off = squares - 2 * means * with_sizes + means**2 * (counts @ sizes**2)[:, None]
        spread = np.sqrt(np.maximum(off, 0.0)) / items
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
    losses: ArrayLike,
    *,
    seed: int,
    resamples: int = 10_000,
    level: float = SIGNIFICANCE,
    families: ArrayLike | None = None,
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
    # Few items may show no spread, and all would look certain.
    if len(losses) < 2 or count_of(losses.shape[1], families) < FEWEST:
        return ConfidenceSet(p_values, critical)
    one, other = np.triu_indices(len(losses), k=1)
    differences = losses[one] - losses[other]
    differences[np.abs(differences) < 1e-9] = 0.0  # equal models differ by rounding
    observed, drawn = bootstrap_t(differences, seed=seed, resamples=resamples, families=families)
    np.abs(drawn, out=drawn)
    left, highest = np.ones(len(losses), dtype=bool), 0.0
    for _ in range(len(losses) - 1):
        pairs = np.flatnonzero(left[one] & left[other])
        largest, farthest = np.abs(observed[pairs]).max(), drawn[:, pairs].max(axis=1)
        if highest < level:
            critical[left] = _critical(farthest, level)
        highest = max(highest, _p_value(largest, farthest))
        pair = pairs[np.abs(observed[pairs]).argmax()]
        worst = one[pair] if observed[pair] > 0 else other[pair]
        p_values[worst], left[worst] = highest, False
    return ConfidenceSet(p_values, critical)


def paired_comparisons(
    leader_losses: ArrayLike,
    other_losses: ArrayLike,
    *,
    seed: int,
    resamples: int = 10_000,
    families: ArrayLike | None = None,
) -> list[Comparison]:
    """One model [n] against each of several others [models, n], on the items both cover; see Comparison.

    The bootstrap-t is symmetric (Hall 1988): a difference is as far from zero as its studentized size, whatever its
    sign, and the interval holds zero where the p-value is 0.05 or more. It is for a pair that was not picked by its own
    figures; see `confidence_set` for a leader that was.
    """
    differences = np.atleast_2d(np.asarray(other_losses, dtype=float)) - np.asarray(leader_losses, dtype=float)
    found = []
    for row in differences:
        both = ~np.isnan(row)
        of = of_those(families, both)
        mean = float(row[both].mean()) if both.any() else math.nan
        found.append(
            Comparison(mean, *_tested(row[both], seed=seed, resamples=resamples, families=of), int(both.sum()))
        )
    return found


def _tested(values: Array, *, seed: int, resamples: int, families: ArrayLike | None) -> tuple[float, float, float]:
    """The ends of the 95% interval of the mean of values [n], and the p-value that it is zero; of fewer than FEWEST
    there is no interval, and p is 1 (NaN for fewer than two)."""
    if (count := count_of(len(values), families)) < FEWEST:
        return math.nan, math.nan, math.nan if count < 2 else 1.0
    observed, drawn = bootstrap_t(values, seed=seed, resamples=resamples, families=families)
    farthest, mean = np.abs(drawn[:, 0]), float(values.mean())
    reach = _critical(farthest, SIGNIFICANCE) * float(standard_error(values[None], families)[0])
    return mean - reach, mean + reach, _p_value(abs(float(observed[0])), farthest)


def _p_value(far: float, farthest: Array) -> float:
    """The share of resamples [n] whose studentized difference lies as `far` from zero, or farther."""
    return float((1 + np.sum(farthest >= far * (1 - 1e-9))) / (1 + len(farthest))) if far > 0 else 1.0


def _critical(farthest: Array, level: float) -> float:
    """How far a studentized difference must lie from zero for a p-value below `level`."""
    beyond = max(math.ceil(level * (1 + len(farthest)) - 1), 1)  # so many resamples that lie as far make none
    return float(np.partition(farthest, -beyond)[-beyond] / (1 - 1e-9))


def of_those(families: ArrayLike | None, chosen: np.ndarray) -> Array | None:
    """The families of the items that are chosen [n]."""
    return None if families is None else np.asarray(families)[chosen]


def paired_comparison(
    leader_losses: ArrayLike,
    other_losses: ArrayLike,
    *,
    seed: int,
    resamples: int = 10_000,
    families: ArrayLike | None = None,
) -> Comparison:
    """One model [n] against one other [n], on the items both cover; see Comparison."""
    return paired_comparisons(leader_losses, other_losses, seed=seed, resamples=resamples, families=families)[0]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given; None or NaN is no test, and stays None."""
    adjusted: list[float | None] = [None] * len(p_values)
    tests = sorted((p, i) for i, p in enumerate(p_values) if p is not None and not math.isnan(p))
    highest = 0.0
    for done, (p, i) in enumerate(tests):
        highest = max(highest, min(1.0, (len(tests) - done) * p))
        adjusted[i] = highest
    return adjusted

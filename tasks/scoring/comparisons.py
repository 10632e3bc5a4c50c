"""How certain a difference between models is, and who ranks where.

Uncertainty comes from the items alone: percentile bootstrap intervals (Efron 1979), the model confidence set for who is
as good as the best (Hansen, Lunde and Nason 2011), and a bootstrap-t for two models that were picked beforehand.
benchmarks/calibration.py measures how often they are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tasks.config.experiment import Experiment
from tasks.models.predictor import Predictions
from tasks.scoring.metrics import Array, absolute_error, measure, number, predictions_of

SIGNIFICANCE = 0.05
FEWEST = 6  # items that tell two models apart: even if one is better on each of five, so is one of equals in 1 of 16
FLOOR = "floor"  # the kind of the best possible guess, which is no model
CHUNK_CELLS = 2_000_000  # resamples x items held at once: 16 MB as floats, whatever the size of the problem


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How certain a mean absolute error is, and how far behind the leader's; None where there is nothing to say.

    `mae_low` to `mae_high` is the error's 95% bootstrap interval. `difference` is the mean error less the leader's, in
    dollars, on the items both answered, with its own interval. `p_value` is that of `confidence_set`.
    """

    mae_low: float | None = None
    mae_high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Figures(Standing):
    """What one model's answers are worth on a set of items; None where there is nothing to say, never NaN.

    `n` items were answered; `metrics` has every entry of METRICS.
    """

    n: int
    metrics: Mapping[str, float | None]
    rank: int | None = None

    @property
    def mae(self) -> float | None:
        """Mean absolute error in dollars."""
        return self.metrics["mae"]


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


def confidence_set(losses: ArrayLike, *, seed: int, resamples: int = 10_000) -> Array:
    """The p-value of each model [models] that it is as good as the best, from losses [models, n] of the same items.

    The model confidence set with the range statistic (Hansen, Lunde and Nason 2011): while the models left are not all
    equally good, by the largest studentized difference of any two of them, the one that is worst against another goes.
    A model's p-value is the largest of the tests up to its own; that of the best is 1. Models with p >= 0.05 hold the
    best one with 95% confidence. This holds although the best was picked on the same items, which a test of each model
    against the observed best does not. Of fewer than FEWEST items, all are 1.
    """
    losses = np.asarray(losses, dtype=float)
    p_values = np.ones(len(losses))
    if len(losses) < 2 or losses.shape[1] < FEWEST:  # few items may show no spread, and all would look certain
        return p_values
    one, other = np.triu_indices(len(losses), k=1)
    differences = losses[one] - losses[other]
    differences[np.abs(differences) < 1e-9] = 0.0  # equal models differ by rounding
    observed, drawn = bootstrap_t(differences, seed=seed, resamples=resamples)
    np.abs(drawn, out=drawn)
    left, highest = np.ones(len(losses), dtype=bool), 0.0
    for _ in range(len(losses) - 1):
        pairs = np.flatnonzero(left[one] & left[other])
        largest = np.abs(observed[pairs]).max()
        as_far = np.sum(drawn[:, pairs].max(axis=1) >= largest * (1 - 1e-9)) if largest > 0 else resamples
        highest = max(highest, (1 + as_far) / (1 + resamples))
        pair = pairs[np.abs(observed[pairs]).argmax()]
        worst = one[pair] if observed[pair] > 0 else other[pair]
        p_values[worst], left[worst] = highest, False
    return p_values


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


def shared_ranks(behind: Mapping[str, float], p_values: Mapping[str, float | None]) -> dict[str, int]:
    """Ranks with ties by evidence: 1 for the leader and all not shown to be worse; then by how far `behind` the leader
    they are (1, 1, 1, 4, 5, ...)."""

    def level(model: str) -> float:
        p_value = p_values.get(model)
        return behind[model] if p_value is not None and p_value < SIGNIFICANCE else -math.inf

    levels = {model: level(model) for model in behind}
    return {model: 1 + sum(other < mine for other in levels.values()) for model, mine in levels.items()}


def find_leader(truth: ArrayLike, prices: Mapping[str, ArrayLike], kinds: Mapping[str, str]) -> str | None:
    """The model with the lowest MAE among those that answered every item, whoever made it; None if none did."""
    maes = {
        model: float(np.mean(absolute_error(truth, price)))
        for model, price in prices.items()
        if kinds[model] != FLOOR and not np.isnan(np.asarray(price, dtype=float)).any()
    }
    return min(maes, key=maes.__getitem__, default=None)


def compare(
    truth: ArrayLike,
    answers: Mapping[str, Predictions | ArrayLike],
    kinds: Mapping[str, str],
    *,
    seed: int,
    resamples: int = 10_000,
) -> dict[str, Figures]:
    """The figures of a leaderboard: truth [n], predictions or prices [n] of each model, and its kind -> its figures.

    The leader's own difference is 0 and its p-value None. A row that covers some items only is compared on those, with
    all complete ones, and ranked by its distance to the leader on them: its p-value is corrected for the number of such
    rows (Bonferroni).

    Raises:
        ValueError: there is nothing to compare, or prices are of a wrong length or not finite.
    """
    truth = np.asarray(truth, dtype=float)
    models = list(answers)
    predictions = {model: predictions_of(answers[model]) for model in models}
    prices = {model: _checked(truth, predictions[model].price, model) for model in models}
    if not models or not len(truth):
        raise ValueError("nothing to compare: there must be at least one model and one item")
    losses = np.stack([absolute_error(truth, prices[model]) for model in models])
    low, high = bootstrap_interval(losses, seed=seed, resamples=resamples)
    figures = {
        model: Figures(
            n=int((~np.isnan(losses[i])).sum()),
            metrics=measure(truth, predictions[model]),
            mae_low=number(low[i]),
            mae_high=number(high[i]),
        )
        for i, model in enumerate(models)
    }
    leader = find_leader(truth, prices, kinds)
    if leader is None:
        return figures
    return _against_leader(figures, dict(zip(models, losses, strict=True)), kinds, leader, seed, resamples)


def _against_leader(
    figures: dict[str, Figures],
    losses: dict[str, Array],
    kinds: Mapping[str, str],
    leader: str,
    seed: int,
    resamples: int,
) -> dict[str, Figures]:
    """The figures with differences to the leader, p-values and ranks; losses [n] of each model."""
    models = list(figures)
    differences = np.stack([losses[model] for model in models]) - losses[leader]
    low, high = bootstrap_interval(differences, seed=seed, resamples=resamples)
    p_values = _p_values({model: losses[model] for model in models if kinds[model] != FLOOR}, seed, resamples)
    p_values[leader] = None
    behind = {model: float(np.nanmean(differences[i])) for i, model in enumerate(models) if figures[model].n}
    # By the distance to the leader: an error over some items alone says as much of the items as of the model.
    ranks = shared_ranks({model: behind[model] for model in behind if kinds[model] != FLOOR}, p_values)
    return {
        model: replace(
            figures[model],
            difference=behind.get(model),
            difference_low=number(low[i]),
            difference_high=number(high[i]),
            p_value=p_values.get(model),
            rank=ranks.get(model),
        )
        for i, model in enumerate(models)
    }


def _p_values(losses: dict[str, Array], seed: int, resamples: int) -> dict[str, float | None]:
    whole = {model: row for model, row in losses.items() if not np.isnan(row).any()}
    together = confidence_set(np.stack(list(whole.values())), seed=seed, resamples=resamples)
    found: dict[str, float | None] = dict(zip(whole, map(float, together), strict=True))
    parts = {model: ~np.isnan(row) for model, row in losses.items() if model not in whole}
    for model, shared in parts.items():
        if not shared.any():
            found[model] = None
            continue
        row = losses[model]
        stacked = np.stack([row[shared], *(other[shared] for other in whole.values())])
        found[model] = min(1.0, len(parts) * float(confidence_set(stacked, seed=seed, resamples=resamples)[0]))
    return found


def _checked(truth: Array, guess: ArrayLike, model: str) -> Array:
    guess = np.asarray(guess, dtype=float)
    if guess.shape != truth.shape:
        raise ValueError(f"{model}: expected {len(truth)} guesses, one per item, got shape {guess.shape}")
    if np.isinf(guess).any():
        raise ValueError(f"{model}: a guess must be a finite number of dollars, or NaN for an item it was not asked")
    return guess


def beside_person(
    truth: np.ndarray, prices: Mapping[str, np.ndarray], experiment: Experiment
) -> dict[str, dict[str, float | None]]:
    """Every other model against the person, on the items that both priced: truth [n] and prices {model: [n]}.

    `vs_human` is the model's mean absolute error less the person's, in dollars (below zero the model is better), with
    its 95% interval and a p-value, Holm corrected over all of them; `vs_human_n` says on how many items.
    """
    if "human" not in prices:
        return {}
    others = [name for name in prices if name != "human"]
    losses = [absolute_error(truth, prices[name]) for name in others]
    results = paired_comparisons(
        absolute_error(truth, prices["human"]),
        np.reshape(losses, (len(others), -1)),
        seed=experiment.seed,
        resamples=experiment.evaluate.resamples,
    )
    adjusted = holm([result.p_value for result in results])
    found = {}
    for name, result, p_value in zip(others, results, adjusted, strict=True):
        figures: dict[str, float | None] = {
            "vs_human": result.difference,
            "vs_human_low": result.low,
            "vs_human_high": result.high,
        }
        figures |= {"vs_human_p_value": p_value, "vs_human_n": result.n}
        found[name] = {key: None if value is None or math.isnan(value) else value for key, value in figures.items()}
    return found

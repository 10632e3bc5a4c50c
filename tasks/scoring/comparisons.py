"""How certain a difference between models is, and who ranks where.

Uncertainty comes from the test items alone: percentile bootstrap intervals (Efron 1979), paired sign-flip permutation
tests against the leader (Fisher 1935), and Holm's correction for having made many of them (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tasks.config.experiment import Experiment
from tasks.models.predictor import Predictions
from tasks.scoring.metrics import Array, absolute_error, measure, number, predictions_of

SIGNIFICANCE = 0.05


OWN_KINDS = frozenset({"baseline", "human", "api", "base", "finetuned", "blend"})


CHUNK_CELLS = 2_000_000  # resamples x items held at once: 16 MB as floats, whatever the size of the problem


class Comparison(NamedTuple):
    """Mean of other's loss minus the leader's on the n items both cover, with its interval and two-sided p-value.

    In the unit of the losses; above zero, the leader is better. NaN where too few items are shared to say.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def selection_key(figures: Mapping[str, Any]) -> tuple[float, float]:
    """What candidates are chosen by, the least first: more items answered before a lower error on those."""
    return -figures["n"], math.inf if figures["mae"] is None else figures["mae"]


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


def sign_flip_p_values(differences: ArrayLike, *, seed: int, resamples: int = 10_000) -> Array:
    """Two-sided p-value that each row of differences [models, n] has mean zero: [models], NaN for an empty row.

    Under the null it does not matter which of two models made which error, so each difference may change its sign. The
    observed signs count as one of the permutations, (1 + #) / (1 + R), so p is never zero (Phipson and Smyth 2010).
    NaN differences take no part.
    """
    differences = np.atleast_2d(np.asarray(differences, dtype=float))
    empty = np.isnan(differences).all(axis=1)
    filled = np.nan_to_num(differences, nan=0.0).T
    # Permutations that equal the observed one must count as such, whatever the order a product was summed in.
    observed = np.abs(filled.sum(axis=0)) - 1e-9 * np.abs(filled).sum(axis=0)
    random = np.random.default_rng([seed, 1])
    n, as_extreme = len(filled), np.zeros(len(differences))
    for rows in _chunks(n, resamples):
        size = rows.stop - rows.start
        bits = np.unpackbits(random.integers(0, 256, size=(size, -(-n // 8)), dtype=np.uint8), axis=1, count=n)
        as_extreme += np.sum(np.abs((2.0 * bits - 1.0) @ filled) >= observed, axis=0)
    return np.where(empty, math.nan, (1 + as_extreme) / (1 + resamples))


def paired_comparisons(
    leader_losses: ArrayLike, other_losses: ArrayLike, *, seed: int, resamples: int = 10_000
) -> list[Comparison]:
    """The leader [n] against each of several models [models, n], on the items both cover; see Comparison."""
    differences = np.atleast_2d(np.asarray(other_losses, dtype=float)) - np.asarray(leader_losses, dtype=float)
    shared = (~np.isnan(differences)).sum(axis=1)
    totals = np.nansum(differences, axis=1)
    low, high = bootstrap_interval(differences, seed=seed, resamples=resamples)
    p_values = sign_flip_p_values(differences, seed=seed, resamples=resamples)
    return [
        Comparison(float(totals[i] / shared[i]) if shared[i] else math.nan, *map(float, ends), int(shared[i]))
        for i, ends in enumerate(zip(low, high, p_values, strict=True))
    ]


def paired_comparison(
    leader_losses: ArrayLike, other_losses: ArrayLike, *, seed: int, resamples: int = 10_000
) -> Comparison:
    """The leader [n] against one other model [n], on the items both cover; see Comparison."""
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


def shared_ranks(
    maes: Mapping[str, float | None],
    p_adjusted: Mapping[str, float | None],
    differences: Mapping[str, float | None],
    leader: str,
) -> dict[str, int]:
    """Ranks with ties by evidence: 1 for the leader and all not shown to be worse; then by MAE (1, 1, 1, 4, 5, ...).

    A model that covers only some items cannot lead, but when it is clearly better on those it is not worse either:
    it shares rank 1. Models without an MAE get no rank; equal MAEs share one.
    """

    def place(model: str) -> float:
        p, difference = p_adjusted.get(model), differences.get(model)
        worse = p is not None and difference is not None and p < SIGNIFICANCE and difference > 0
        return maes[model] if worse and model != leader else -math.inf

    places = {model: place(model) for model, mae in maes.items() if mae is not None}
    return {model: 1 + sum(other < mine for other in places.values()) for model, mine in places.items()}


def find_leader(truth: ArrayLike, guesses: Mapping[str, ArrayLike], kinds: Mapping[str, str]) -> str | None:
    """The model of our own with the lowest MAE among those that answered every item; None if none did."""
    maes = {
        model: float(np.mean(absolute_error(truth, guess)))
        for model, guess in guesses.items()
        if kinds[model] in OWN_KINDS and not np.isnan(np.asarray(guess, dtype=float)).any()
    }
    return min(maes, key=maes.__getitem__, default=None)


def compare(
    truth: ArrayLike,
    guesses: Mapping[str, Predictions | ArrayLike],
    kinds: Mapping[str, str],
    *,
    seed: int,
    resamples: int = 10_000,
) -> dict[str, dict[str, Any]]:
    """The figures of a leaderboard: truth [n], predictions or guesses [n] of each model, and its kind -> its figures.

    Figures are n, every metric of METRICS, mae_low, mae_high, difference, difference_low, difference_high (to the
    leader, in dollars), p_value (Holm adjusted) and rank; None where there is nothing to say, never NaN. The leader's
    own difference is 0 and its p_value None. Raises ValueError for guesses of a wrong length or not finite.
    """
    truth = np.asarray(truth, dtype=float)
    models = list(guesses)
    predictions = {model: predictions_of(guesses[model]) for model in models}
    guessed = {model: _checked(truth, predictions[model].price, model) for model in models}
    if not models or not len(truth):
        raise ValueError("nothing to compare: there must be at least one model and one item")
    losses = np.stack([absolute_error(truth, guessed[model]) for model in models])
    low, high = bootstrap_interval(losses, seed=seed, resamples=resamples)
    figures: dict[str, dict[str, Any]] = {}
    for i, model in enumerate(models):
        ends = {"mae_low": number(low[i]), "mae_high": number(high[i])}
        figures[model] = {"n": int((~np.isnan(losses[i])).sum()), **measure(truth, predictions[model]), **ends}
        figures[model] |= dict.fromkeys(("difference", "difference_low", "difference_high", "p_value", "rank"))
    leader = find_leader(truth, guessed, kinds)
    if leader is not None:
        _against_leader(figures, losses, kinds, leader, seed=seed, resamples=resamples)
    return figures


def _against_leader(
    figures: dict[str, dict[str, Any]],
    losses: Array,
    kinds: Mapping[str, str],
    leader: str,
    *,
    seed: int,
    resamples: int,
) -> None:
    """Fills in differences, adjusted p-values and ranks; losses [models, n] are in the order of figures."""
    models = list(figures)
    results = paired_comparisons(losses[models.index(leader)], losses, seed=seed, resamples=resamples)
    for model, result in zip(models, results, strict=True):
        figures[model] |= {
            "difference": number(result.difference),
            "difference_low": number(result.low),
            "difference_high": number(result.high),
        }
    raw = dict(zip(models, (result.p_value for result in results), strict=True))
    own = [model for model in models if kinds[model] in OWN_KINDS and model != leader]
    recorded = [model for model in models if kinds[model] == "recorded"]
    for family in (own, recorded):
        for model, p_value in zip(family, holm([raw[model] for model in family]), strict=True):
            figures[model]["p_value"] = p_value

    def column(key: str) -> dict[str, float | None]:
        return {model: figures[model][key] for model in models if kinds[model] != "floor"}

    for model, rank in shared_ranks(column("mae"), column("p_value"), column("difference"), leader).items():
        figures[model]["rank"] = rank


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
        figures = {"vs_human": result.difference, "vs_human_low": result.low, "vs_human_high": result.high}
        figures |= {"vs_human_p_value": p_value, "vs_human_n": result.n}
        found[name] = {key: None if value is None or math.isnan(value) else value for key, value in figures.items()}
    return found

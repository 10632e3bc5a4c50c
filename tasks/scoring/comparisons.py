"""How certain a difference between the models of a leaderboard is, and who ranks where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tasks.config.experiment import Experiment
from tasks.models.predictor import Predictions
from tasks.scoring.metrics import Array, absolute_error, measure, number, predictions_of
from tasks.scoring.resampling import (
    FEWEST,
    SIGNIFICANCE,
    bootstrap_interval,
    confidence_set,
    count_of,
    holm,
    of_those,
    paired_comparisons,
    standard_error,
)

FLOOR = "floor"  # the kind of the best possible guess, which is no model


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How certain a mean absolute error is, and how far behind the leader's; None where there is nothing to say.

    `mae_low` to `mae_high` is the error's 95% bootstrap interval. `difference` is the mean error less the leader's, in
    dollars, on the items both answered, with a 95% interval that allows for the leader's having been picked on the same
    items. `p_value` is that of `confidence_set`.
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
    families: ArrayLike | None = None,
) -> dict[str, Figures]:
    """The figures of a leaderboard: truth [n], predictions or prices [n] of each model, and its kind -> its figures.

    Items of one of the `families` [n] are variants of one product, and are drawn together.

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
    judged: dict[str, Any] = {"seed": seed, "resamples": resamples, "families": families}
    low, high = bootstrap_interval(losses, **judged)
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
    return _against_leader(figures, dict(zip(models, losses, strict=True)), kinds, leader, judged)


def _against_leader(
    figures: dict[str, Figures],
    losses: dict[str, Array],
    kinds: Mapping[str, str],
    leader: str,
    judged: dict[str, Any],
) -> dict[str, Figures]:
    """The figures with differences to the leader, p-values and ranks; losses [n] of each model."""
    ranked = {model: row for model, row in losses.items() if kinds[model] != FLOOR}
    tests = _tests(ranked, leader, **judged)
    behind = {model: float(np.nanmean(losses[model] - losses[leader])) for model in figures if figures[model].n}
    # By the distance to the leader: an error over some items alone says as much of the items as of the model.
    ranks = shared_ranks(
        {model: behind[model] for model in ranked if model in behind},
        {model: test.p_value for model, test in tests.items()},
    )
    found = {}
    for model, figure in figures.items():
        difference, test = losses[model] - losses[leader], tests.get(model)
        if model == leader:
            low, high = 0.0, 0.0
        elif test is None:  # the floor, which is not ranked
            low, high = (ends[0] for ends in bootstrap_interval(difference, **judged))
        else:
            low, high = _ends(difference, test, judged["families"])
        found[model] = replace(
            figure,
            difference=behind.get(model),
            difference_low=number(low),
            difference_high=number(high),
            p_value=None if test is None or model == leader else number(test.p_value),
            rank=ranks.get(model),
        )
    return found


class _Test(NamedTuple):
    """That a model is as good as the best, and the critical value of its difference to the leader; NaN of no items."""

    p_value: float
    critical: float


def _tests(
    losses: dict[str, Array], leader: str, *, seed: int, resamples: int, families: ArrayLike | None
) -> dict[str, _Test]:
    whole = {model: row for model, row in losses.items() if not np.isnan(row).any()}
    together = confidence_set(np.stack(list(whole.values())), seed=seed, resamples=resamples, families=families)
    at = list(whole).index(leader)
    found = {
        model: _Test(float(p_value), max(float(critical), float(together.critical[at])))
        for model, p_value, critical in zip(whole, *together, strict=True)
    }
    parts = {model: ~np.isnan(row) for model, row in losses.items() if model not in whole}
    # Enough for a p that is significant after the correction, however many rows it is for.
    resamples = max(resamples, math.ceil(2 * len(parts) / SIGNIFICANCE))
    for model, shared in parts.items():
        if not shared.any():
            found[model] = _Test(math.nan, math.nan)
            continue
        stacked = np.stack([losses[model][shared], *(other[shared] for other in whole.values())])
        level = SIGNIFICANCE / len(parts)
        of = of_those(families, shared)
        own = confidence_set(stacked, seed=seed, resamples=resamples, level=level, families=of)
        p_value = min(1.0, len(parts) * float(own.p_values[0]))
        found[model] = _Test(p_value, max(float(own.critical[0]), float(own.critical[1 + at])))
    return found


def _ends(difference: Array, test: _Test, families: ArrayLike | None) -> tuple[float, float]:
    """Between how much a model is behind the leader, from its losses less the leader's [n], NaN where it has none: an
    interval that holds although the leader was picked on the same items, and never speaks against the rank.

    Of two models of the confidence set it holds zero, as no difference in it is beyond the critical value. One that
    went may have gone by its difference to a third one: that it is not behind at all is ruled out all the same.
    """
    answered = ~np.isnan(difference)
    difference, families = difference[answered], of_those(families, answered)
    if count_of(len(difference), families) < FEWEST:
        return math.nan, math.nan
    mean, reach = float(difference.mean()), test.critical * float(standard_error(difference[None], families)[0])
    low = mean - reach
    return max(low, 0.0) if mean > 0 and test.p_value < SIGNIFICANCE else low, mean + reach


def _checked(truth: Array, guess: ArrayLike, model: str) -> Array:
    guess = np.asarray(guess, dtype=float)
    if guess.shape != truth.shape:
        raise ValueError(f"{model}: expected {len(truth)} guesses, one per item, got shape {guess.shape}")
    if np.isinf(guess).any():
        raise ValueError(f"{model}: a guess must be a finite number of dollars, or NaN for an item it was not asked")
    return guess


def beside_person(
    truth: np.ndarray, prices: Mapping[str, np.ndarray], experiment: Experiment, families: np.ndarray | None = None
) -> dict[str, dict[str, float | None]]:
    """Every other model against the person, on the items that both priced: truth [n], prices {model: [n]} and the
    families [n] of the items.

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
        families=families,
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

"""Which checkpoint of a training is chosen on validation, how certain that is, and how it is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.models.predictor import Predictions
from tasks.scoring.comparisons import Standing, compare
from tasks.scoring.resampling import SIGNIFICANCE
from tasks.scoring.roles import selection_key
from tasks.scoring.wording import amount, escaped, figure, interval, span
from tasks.tracking.runs import Candidate


@dataclass(frozen=True)
class Checkpoint(Standing):
    """A candidate of a training on the validation curve, whose leader is the chosen one; a mean of checkpoints has no
    step."""

    step: int | None
    label: str
    model_id: str
    n: int
    mae: float | None
    chosen: bool = False
    train_loss: float | None = None


def curve(
    candidates: Sequence[Candidate],
    answers: Mapping[str, Predictions],
    truth: np.ndarray,
    *,
    seed: int,
    resamples: int = 10_000,
) -> list[Checkpoint]:
    """The candidates of a training in the order of their steps, means last, compared on the same validation items.

    `answers` are by model id. The one that is `chosen` has the lowest error of those that answered most; of equals it
    is the earliest.
    """
    ordered = sorted(candidates, key=lambda one: (one.step is None, one.step or 0))
    figures = compare(
        truth,
        {one.model_id: answers[one.model_id] for one in ordered},
        {one.model_id: one.kind for one in ordered},
        seed=seed,
        resamples=resamples,
    )
    best = min(ordered, key=lambda one: selection_key(figures[one.model_id].n, figures[one.model_id].mae))
    found = []
    for one in ordered:
        known = {key: value for key, value in vars(figures[one.model_id]).items() if key not in ("metrics", "rank")}
        label = f"step {one.step}" if one.step is not None else str(one.reason)
        mae = figures[one.model_id].mae
        found.append(Checkpoint(one.step, label, one.model_id, mae=mae, **known, chosen=one is best))
    return found


def chosen(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The one that was chosen."""
    return next(checkpoint for checkpoint in checkpoints if checkpoint.chosen)


def runner_up(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The best candidate of a training that was not chosen."""
    others = [one for one in checkpoints if not one.chosen]
    return min(others, key=lambda one: selection_key(one.n, one.mae), default=None)


def choice(checkpoints: Sequence[Checkpoint], unit: str = "$") -> str:
    """Which candidate of a training was chosen on validation, and how certain that is."""
    best, following = chosen(checkpoints), runner_up(checkpoints)
    if best.mae is None:
        return f"No checkpoint answered anything; {best.label} stands for them."
    ends = span(best.mae_low, best.mae_high, unit)
    items = "validation item" if best.n == 1 else "validation items"
    text = f"Chosen: {best.label}, {amount(best.mae, unit)} off on {best.n:,} {items}{ends and f', {ends}'}."
    if following is None or following.difference is None:
        return text
    certain = following.p_value is not None and following.p_value < SIGNIFICANCE
    return (
        f"{text} The next, {following.label}, is {_apart(following, best.n, unit)}, "
        f"{'more than chance explains' if certain else 'which chance alone can explain'}."
    )


def _apart(other: Checkpoint, answered: int, unit: str) -> str:
    """How far from the chosen one, which answered so many items, another one is: it may be closer on fewer items."""
    low, high, difference = other.difference_low, other.difference_high, other.difference or 0.0
    if (better := difference < 0) and low is not None and high is not None:
        low, high = -high, -low
    on = "" if other.n == answered else f" on the {other.n:,} {'item' if other.n == 1 else 'items'} that it answered"
    between = span(low, high, unit)
    return f"{amount(abs(difference), unit)} {'better' if better else 'worse'}{on}{between and f' ({between})'}"


def curve_table(checkpoints: Sequence[Checkpoint], unit: str = "$") -> str:
    """The candidates of a training as a table of Markdown, the chosen one marked."""
    headings = ["checkpoint", f"MAE {unit}", "95% interval", "behind the chosen", "n"]
    lines = [headings, ["---", *["---:"] * 4]]
    for one in checkpoints:
        mark = "◆ " if one.chosen else ""
        behind = "" if one.chosen or one.difference is None else figure(one.difference, "+.2f")
        mae = "" if one.mae is None else figure(one.mae, ".2f")
        figures = mae, interval(one.mae_low, one.mae_high), behind, f"{one.n:,}"
        lines.append([f"{mark}{escaped(one.label)}", *figures])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def with_losses(checkpoints: Sequence[Checkpoint], losses: Mapping[str, float]) -> list[Checkpoint]:
    """The checkpoints with their training losses, which are by model id."""
    return [dataclasses.replace(one, train_loss=losses.get(one.model_id)) for one in checkpoints]

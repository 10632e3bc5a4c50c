"""Which checkpoint of a training is chosen on validation, how certain that is, and how it is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.models.predictor import Predictions
from tasks.scoring.comparisons import SIGNIFICANCE, compare, selection_key
from tasks.scoring.wording import amount, escaped, span
from tasks.tracking.runs import Candidate

DIFFERENCE = ("difference", "difference_low", "difference_high")


def curve(
    candidates: Sequence[Candidate],
    answers: Mapping[str, Predictions],
    truth: np.ndarray,
    *,
    seed: int,
    resamples: int = 10_000,
) -> list[dict[str, Any]]:
    """The candidates of a training in the order of their steps, means last, compared on the same validation items.

    `answers` are by model id. The row that is `chosen` has the lowest error of those that answered most; of equals it
    is the earliest. `difference` is to that one, in dollars.
    """
    ordered = sorted(candidates, key=lambda one: (one.step is None, one.step or 0))
    figures = compare(
        truth,
        {one.model_id: answers[one.model_id] for one in ordered},
        {one.model_id: one.kind for one in ordered},
        seed=seed,
        resamples=resamples,
    )
    wanted = ("mae", "mae_low", "mae_high", "n", "p_value", *DIFFERENCE)
    rows = [
        {"step": one.step, "label": one.reason if one.step is None else f"step {one.step}", "model_id": one.model_id}
        | {key: figures[one.model_id][key] for key in wanted}
        for one in ordered
    ]
    best = min(rows, key=selection_key)
    return [{**row, "chosen": row is best} for row in rows]


def runner_up(curve: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The best candidate of a training that was not chosen."""
    return min((row for row in curve if not row["chosen"]), key=selection_key, default=None)


def choice(curve: Sequence[dict[str, Any]], unit: str = "$") -> str:
    """Which candidate of a training was chosen on validation, and how certain that is."""
    chosen, following = next(row for row in curve if row["chosen"]), runner_up(curve)
    if chosen["mae"] is None:
        return f"No checkpoint answered anything; {chosen['label']} stands for them."
    ends = f", {span(chosen, unit, 'mae')}" if chosen["mae_low"] is not None else ""
    text = f"Chosen: {chosen['label']}, {amount(chosen['mae'], unit)} off on {chosen['n']:,} validation items{ends}."
    if following is None or following["difference"] is None:
        return text
    certain = (following["p_value"] or 0) < SIGNIFICANCE
    return (
        f"{text} The next, {following['label']}, is {amount(following['difference'], unit)} worse "
        f"({span(following, unit)}), {'more than chance explains' if certain else 'which chance alone can explain'}."
    )


def curve_table(curve: Iterable[dict[str, Any]], unit: str = "$") -> str:
    """The candidates of a training as a table of Markdown, the chosen one marked."""
    headings = ["checkpoint", f"MAE {unit}", "95% interval", "behind the chosen", "n"]
    lines = [headings, ["---", *["---:"] * 4]]
    for row in curve:
        mark = "◆ " if row["chosen"] else ""
        behind = "" if row["chosen"] else _figure(row["difference"], "+.2f")
        ends = "" if row["mae_low"] is None else f"{row['mae_low']:.1f} to {row['mae_high']:.1f}"
        figures = _figure(row["mae"], ".2f"), ends, behind, f"{row['n']:,}"
        lines.append([f"{mark}{escaped(row['label'])}", *figures])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

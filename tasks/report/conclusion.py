"""What a run ends with, in plain English: who is best, what fine-tuning brought, and what to do next."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from tasks.config.experiment import Experiment
from tasks.report.headline import headline
from tasks.report.standings import Standings
from tasks.report.tables import in_order
from tasks.scoring.comparisons import SIGNIFICANCE, Comparison, paired_comparison
from tasks.scoring.metrics import absolute_error
from tasks.scoring.record import PREDICTIONS, read_run
from tasks.scoring.rows import Row
from tasks.scoring.wording import amount, interval


def conclusion(experiment: Experiment, run_id: str, standings: Standings) -> list[str]:
    """Who is best and whether that is certain, and what fine-tuning took off the error of its base model, if both ran.

    Raises:
        FileNotFoundError: the predictions of the evaluation are gone.
    """
    first, sentences = headline(in_order(standings.rows), standings.unit)
    first = " ".join([first, *sentences[:1]])  # which says how certain that is
    ran = {row.kind: row for row in standings.rows if row.mae is not None}
    if "base" not in ran or "finetuned" not in ran:
        return [first]
    base, tuned = ran["base"], ran["finetuned"]
    frame = pq.read_table(read_run(experiment, run_id).artifact(PREDICTIONS)).to_pandas()
    losses = []
    for row in (base, tuned):
        own = frame[frame["model"] == row.model].sort_values("id")
        losses.append(absolute_error(own["truth"].to_numpy(), own["price"].to_numpy()))
    both = ~np.isnan(losses).any(axis=0)
    if both.sum() < 2:
        return [first]
    resamples = experiment.evaluate.resamples
    found = paired_comparison(losses[1][both], losses[0][both], seed=experiment.seed, resamples=resamples)
    return [first, tuning(base, tuned, found, standings.unit)]


def tuning(base: Row, tuned: Row, found: Comparison, unit: str) -> str:
    """What fine-tuning brought, in a sentence; `found` is the error of the base model less that of the tuned one."""
    if found.difference == 0:
        return f"Fine-tuning left the error of its base model as it was, {amount(base.mae or 0, unit)}."
    to = f"from {amount(base.mae or 0, unit)} to {amount(tuned.mae or 0, unit)}"
    if found.difference > 0:
        ends = found.low, found.high
        told = f"Fine-tuning took {amount(found.difference, unit)} off the error of its base model"
    else:
        ends = -found.high, -found.low
        told = f"Fine-tuning added {amount(-found.difference, unit)} to the error of its base model"
    span = f"95% interval {interval(*ends, '.2f')}"
    certain = "" if found.p_value < SIGNIFICANCE else ", which chance alone can explain"
    return f"{told}, {to} ({span}){certain}."

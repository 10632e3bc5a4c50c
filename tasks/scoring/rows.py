"""What an evaluation keeps of its models: a row of the leaderboard each, and every test prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.data.items import Item
from tasks.models.predictor import Predictions
from tasks.tracking.runs import SERVABLE, Candidate, StageRun
from tasks.tracking.store import model_folder

SPENT = ("input_tokens", "output_tokens", "cost")  # on the answers of an API, the cost in dollars


def leaderboard_row(
    run: StageRun, entry: Candidate, figures: Mapping[str, Any], machine_per_hour: float | None
) -> dict[str, Any]:
    """A model's line of the leaderboard, before the registry's marks are put on it.

    `figures` are those of `tasks.scoring.comparisons.compare`; `machine_per_hour` is what an hour of this machine costs
    in dollars.
    """
    model = run.client.get_logged_model(entry.model_id)
    metrics = {metric.key: metric.value for metric in model.metrics or []}
    params = model.params or {}
    seconds = metrics.get("test_seconds_per_1000") if entry.kind != "floor" else None
    hourly = seconds and machine_per_hour and seconds / 3600 * machine_per_hour
    return {
        "model": entry.name,
        "kind": entry.kind,
        "step": entry.step,
        "status": entry.status,
        "reason": entry.reason,
        "split": "test",
        "n_train": int(params["n_train"]) if "n_train" in params else None,
        "fit_seconds": float(params["fit_seconds"]) if "fit_seconds" in params else None,
        "predict_ms": seconds,  # milliseconds an item takes are the seconds a thousand take
        "cost_per_1000": metrics.get("test_cost_per_1000", hourly),
        "size_mb": _size(run, entry),
        **{key: metrics[f"test_{key}"] for key in SPENT if f"test_{key}" in metrics},
        "model_id": entry.model_id,
        **figures,
    }


def _size(run: StageRun, entry: Candidate) -> float | None:
    """Megabytes on disk of what is kept of a model; of a language model, its adapter."""
    if entry.kind not in SERVABLE or entry.status != "ran":
        return None
    files = model_folder(run.client, entry.model_id).rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file()) / 1e6


def predictions_table(items: Sequence[Item], answers: Mapping[str, Predictions]) -> pa.Table:
    """Every prediction of every model for the same items: one row for each model and item, prices in US dollars.

    `crps`, and `level`, where the truth lies in the distribution, are NaN where there is none.
    """
    truth = np.array([item.price for item in items])
    tables = []
    for name, answer in answers.items():
        scores = np.full((2, len(items)), np.nan)
        if answer.distribution is not None:
            scores[:] = answer.distribution.crps(truth), answer.distribution.pit(truth)
        columns = {"model": [name] * len(items), "id": [item.id for item in items], "truth": truth}
        columns |= {"price": answer.price, "low": answer.low, "high": answer.high}
        tables.append(pa.table({**columns, "crps": scores[0], "level": scores[1]}))
    return pa.concat_tables(tables)

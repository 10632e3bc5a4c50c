"""What an evaluation keeps of its rungs: a row of the leaderboard each, and every test prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.items import Item
from tasks.metrics import crps_per_item, level_of_truth
from tasks.predictors import Predictions
from tasks.store import model_folder
from tasks.tracking import Candidate, StageRun

SERVABLE = ("baseline", "base", "finetuned", "blend")  # what can be loaded in another process and price a text
SPENT = ("input_tokens", "output_tokens", "cost")  # on the answers of an API, the cost in dollars


def leaderboard_row(
    run: StageRun, rung: Candidate, figures: Mapping[str, Any], machine_per_hour: float | None
) -> dict[str, Any]:
    """A rung's line of the leaderboard, before the registry's marks are put on it.

    `figures` are those of `tasks.metrics.compare`; `machine_per_hour` is what an hour of this machine costs in dollars.
    """
    model = run.client.get_logged_model(rung.model_id)
    metrics = {metric.key: metric.value for metric in model.metrics or []}
    params = model.params or {}
    seconds = metrics.get("test_seconds_per_1000") if rung.kind != "floor" else None
    hourly = seconds and machine_per_hour and seconds / 3600 * machine_per_hour
    return {
        "model": rung.name,
        "kind": rung.kind,
        "step": rung.step,
        "status": rung.status,
        "reason": rung.reason,
        "split": "test",
        "n_train": int(params["n_train"]) if "n_train" in params else None,
        "fit_seconds": float(params["fit_seconds"]) if "fit_seconds" in params else None,
        "predict_ms": seconds,  # milliseconds an item takes are the seconds a thousand take
        "cost_per_1000": metrics.get("test_cost_per_1000", hourly),
        "size_mb": _size(run, rung),
        **{key: metrics[f"test_{key}"] for key in SPENT if f"test_{key}" in metrics},
        "model_id": rung.model_id,
        **figures,
    }


def _size(run: StageRun, rung: Candidate) -> float | None:
    """Megabytes on disk of what is kept of a model; of a language model, its adapter."""
    if rung.kind not in SERVABLE or rung.status != "ran":
        return None
    files = model_folder(run.client, rung.model_id).rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file()) / 1e6


def predictions_table(items: Sequence[Item], answers: Mapping[str, Predictions]) -> pa.Table:
    """Every prediction of every rung for the same items: one row for each rung and item, prices in US dollars.

    `crps`, and `level`, where the truth lies in the distribution, are NaN where there is none.
    """
    truth = np.array([item.price for item in items])
    tables = []
    for name, answer in answers.items():
        scores = np.full((2, len(items)), np.nan)
        if answer.distribution is not None:
            scores[:] = crps_per_item(truth, answer.distribution), level_of_truth(truth, answer.distribution)
        columns = {"model": [name] * len(items), "id": [item.id for item in items], "truth": truth}
        columns |= {"price": answer.price, "low": answer.low, "high": answer.high}
        tables.append(pa.table({**columns, "crps": scores[0], "level": scores[1]}))
    return pa.concat_tables(tables)

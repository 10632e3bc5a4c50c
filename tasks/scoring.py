"""Predictions of a rung: made once for a set of items, kept on its LoggedModel, and scored from there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.items import Item
from tasks.metrics import absolute_error, bootstrap_interval, measure
from tasks.predictors import Predictions
from tasks.splits import Dataset, Split, items_digest
from tasks.tracking import Mode, StageRun, fetch


def score(
    run: StageRun,
    model_id: str,
    items: Sequence[Item],
    predict: Callable[[], Predictions],
    *,
    dataset: Dataset,
    split: Split,
    step: int = 0,
    mode: Mode = "reuse",
) -> Predictions:
    """The predictions of a model for the items, from its LoggedModel if it made them before.

    New ones are kept there per item, with every metric and its interval where it has one, and the time they took.
    """
    name = f"{split}-{items_digest(items)}.parquet"
    kept = None if mode == "again" else recall(run, model_id, name)
    if kept is not None:
        return kept
    start = time.perf_counter()
    predictions = predict()
    seconds = time.perf_counter() - start
    truth = np.array([item.price for item in items])
    metrics = measure(truth, predictions.price)
    low, high = bootstrap_interval(absolute_error(truth, predictions.price)[None], seed=0)
    metrics |= {"mae_low": float(low[0]), "mae_high": float(high[0]), "ms_per_item": 1000 * seconds / len(items)}
    if predictions.mass is not None:
        metrics["mass"] = float(predictions.mass.mean())
    run.log_metrics(
        {f"{split}_{key}": value for key, value in metrics.items()},
        step=step,
        model_id=model_id,
        dataset_name=f"{dataset.name}-{split}",
        dataset_digest=dataset.digest,
    )
    # Kept last: what is found here later has its metrics logged too.
    _keep(run, model_id, name, items, predictions)
    return predictions


def _keep(run: StageRun, model_id: str, name: str, items: Sequence[Item], predictions: Predictions) -> None:
    columns = {"id": [item.id for item in items], "truth": [item.price for item in items]}
    columns |= {key: value for key, value in vars(predictions).items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table(columns), Path(folder) / name)
        run.client.log_model_artifacts(model_id, folder, "predictions")


def recall(run: StageRun, model_id: str, name: str) -> Predictions | None:
    """The predictions kept under a name on a LoggedModel; None if there are none."""
    kept = {info.path for info in run.client.list_logged_model_artifacts(model_id, "predictions")}
    if f"predictions/{name}" not in kept:
        return None
    place = run.client.get_logged_model(model_id).artifact_location
    table = pq.read_table(fetch(f"{place}/predictions/{name}")).to_pydict()
    mass = np.array(table["mass"]) if "mass" in table else None
    return Predictions(*(np.array(table[key], dtype=float) for key in ("price", "low", "high")), mass)

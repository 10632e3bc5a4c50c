"""Predictions of a model: made once for a set of items, kept on its LoggedModel, and scored from there.

They are kept as `predictions/<split>-<digest of the items>.parquet`, one row for each item. A distribution is a column
of lists, the probabilities of evenly spaced prices; the file's metadata say which: {"first", "last", "count"}.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.data.items import Item
from tasks.data.splits import Dataset, Part, items_digest
from tasks.models.predictor import Distribution, Predictions
from tasks.scoring.metrics import absolute_error, measure
from tasks.scoring.resampling import bootstrap_interval
from tasks.tracking.runs import Mode, StageRun
from tasks.tracking.store import fetch, forget

COLUMNS = ("price", "low", "high", "mass", "unparsable")  # of Predictions; the distribution has a form of its own
PRICES = b"prices"


def score(
    run: StageRun,
    model_id: str,
    items: Sequence[Item],
    predict: Callable[[], Predictions],
    *,
    dataset: Dataset,
    split: Part,
    seed: int,
    resamples: int,
    families: np.ndarray | None = None,
    step: int = 0,
    mode: Mode = "reuse",
    timed: bool = True,
    ready: Callable[[], object] = lambda: None,
) -> Predictions:
    """The predictions of a model for the items, from its LoggedModel if it made them before.

    New ones are kept there per item, with every metric, the interval of the error by so many `resamples` of a `seed`
    (of whole `families` [n], where items are of some), and the time they took if they were made here (`timed`). What is
    done once, however many items are asked about, such as to fetch and load the model, is done in `ready`, and is no
    part of that time.
    """
    kept = None if mode == "again" else recall(run, model_id, split, items)
    if kept is not None:
        return kept
    ready()
    start = time.perf_counter()
    answered = predict()
    seconds = time.perf_counter() - start
    table = to_table(items, answered)
    predictions = from_table(table)  # as they are found again later, to the last bit
    truth = np.array([item.price for item in items])
    metrics = measure(truth, predictions)
    errors = absolute_error(truth, predictions.price)[None]
    low, high = bootstrap_interval(errors, seed=seed, resamples=resamples, families=families)
    metrics |= {"mae_low": float(low[0]), "mae_high": float(high[0])}
    if timed:
        metrics["seconds_per_1000"] = 1000 * seconds / len(items)
    if predictions.mass is not None:
        metrics["mass"] = float(predictions.mass.mean())
    # MLflow's Compare shows charts in the order of their names: what all models have, on test items, comes first.
    among = split if split in ("validation", "test") else f"validation_{split}"
    run.log_metrics(
        {f"{among}_{key}": value for key, value in metrics.items()},
        step=step,
        model_id=model_id,
        dataset_name=f"{dataset.name}-{among.replace('_', '-')}",
        dataset_digest=dataset.digest,
    )
    # Kept last: what is found here later has its metrics logged too.
    _keep(run, model_id, kept_as(split, items), table)
    return predictions


def kept_as(split: Part, items: Sequence[Item]) -> str:
    """The name under which predictions for these items are kept."""
    return f"{split}-{items_digest(items)}.parquet"


def _keep(run: StageRun, model_id: str, name: str, table: pa.Table) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(table, Path(folder) / name, compression="zstd")
        run.client.log_model_artifacts(model_id, folder, "predictions")
    forget(_address(run, model_id, name))  # a copy of those it gave before


def _address(run: StageRun, model_id: str, name: str) -> str:
    return f"{run.client.get_logged_model(model_id).artifact_location}/predictions/{name}"


def to_table(items: Sequence[Item], predictions: Predictions) -> pa.Table:
    """The predictions as they are kept: probabilities in 32 bits, everything else as it is."""
    columns = {"id": [item.id for item in items], "truth": [item.price for item in items]}
    columns |= {key: value for key in COLUMNS if (value := getattr(predictions, key)) is not None}
    table = pa.table(columns)
    distribution = predictions.distribution
    if distribution is None:
        return table
    prices = {"first": distribution.prices[0], "last": distribution.prices[-1], "count": len(distribution.prices)}
    flat = pa.array(distribution.probabilities.astype(np.float32).ravel())
    table = table.append_column("distribution", pa.FixedSizeListArray.from_arrays(flat, len(distribution.prices)))
    return table.replace_schema_metadata({PRICES: json.dumps(prices, default=float)})


def from_table(table: pa.Table) -> Predictions:
    """What `to_table` kept."""
    columns = {key: table[key].to_numpy() for key in COLUMNS if key in table.column_names}
    if "distribution" not in table.column_names:
        return Predictions(**columns)
    prices = json.loads(table.schema.metadata[PRICES])
    support = np.linspace(prices["first"], prices["last"], prices["count"])
    flat = table["distribution"].combine_chunks().flatten().to_numpy().astype(float)
    probabilities = flat.reshape(len(table), len(support))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Predictions(**columns, distribution=Distribution(support, probabilities))


def recall(run: StageRun, model_id: str, split: Part, items: Sequence[Item]) -> Predictions | None:
    """The predictions for these items kept on a LoggedModel, in the order of the items; None if there are none."""
    name = kept_as(split, items)
    kept = {info.path for info in run.client.list_logged_model_artifacts(model_id, "predictions")}
    if f"predictions/{name}" not in kept:
        return None
    table = pq.read_table(fetch(_address(run, model_id, name)))
    rows = {identity: row for row, identity in enumerate(table["id"].to_pylist())}
    return from_table(table.take([rows[item.id] for item in items]))

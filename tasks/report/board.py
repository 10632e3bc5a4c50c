"""The leaderboard as MLflow holds it: the rows of an evaluation, with the registry's marks on them."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from tasks.config.experiment import Experiment
from tasks.config.section import shown
from tasks.data.splits import read_split
from tasks.digests import digest
from tasks.errors import UserError
from tasks.report.standings import commit_here, marked_rows
from tasks.scoring.checkpoint_choice import Checkpoint
from tasks.scoring.record import Record, open_run, products, read_predictions
from tasks.scoring.rows import Row
from tasks.tracking.runs import DIGEST
from tasks.tracking.store import tracking_uri

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "scikit-learn", "mlflow", "prefect")


def read_leaderboard(experiment: Experiment, run_id: str, command: str | None = None) -> Leaderboard:
    """All that the report shows, from what MLflow keeps of the evaluation: no model is run, or even needed.

    Raises:
        UserError: the files of the evaluation or the splits are gone.
    """
    run = open_run(experiment, run_id)
    try:
        record = Record.read(run)
        dataset = record.whole_dataset(experiment)
        items = read_split(dataset, "test")
        frame = read_predictions(run)
    except FileNotFoundError as error:
        raise UserError(f"{error}. Make the evaluation again with `pricewright evaluate`.") from error
    ids = [item.id for item in items]
    predictions, intervals, pits = _answers(frame, ids)
    return Leaderboard(
        title=experiment.tracking.experiment,
        generated=dataset.generated,
        dataset={**vars(dataset), "source": record.source},
        rows=marked_rows(experiment, record.rows),
        items=[{"id": i.id, "title": i.title, "text": i.text, "category": i.category, "price": i.price} for i in items],
        predictions=predictions,
        intervals=intervals,
        pits=pits,
        families=products(frame, ids),
        curve=record.curve,
        reproduce={
            **({"command": command} if command else {}),
            **record.provenance,
            "evaluation": f"{run.run.data.tags[DIGEST]} (MLflow run {run_id})",
            "conf": yaml.safe_dump(settings(experiment), sort_keys=False, allow_unicode=True),
        },
        unit=experiment.data.unit,
    )


def _answers(
    frame: pd.DataFrame, ids: list[str]
) -> tuple[dict[str, list], dict[str, tuple[list, list]], dict[str, list]]:
    """Of every model, in the order of the items' ids: its guesses, and where it gives them, its intervals' ends and
    where the truths lie in its distributions."""
    predictions: dict[str, list] = {}
    intervals: dict[str, tuple[list, list]] = {}
    pits: dict[str, list] = {}
    for name, rows in frame.groupby("model", sort=False):
        ordered, model = rows.set_index("id").reindex(ids), str(name)
        given = {
            key: ordered[key].astype(object).where(ordered[key].notna(), None).tolist()
            for key in ("price", "low", "high", "pit")
            if key in ordered and ordered[key].notna().any()
        }
        predictions[model] = given.get("price", [None] * len(ids))
        if "low" in given and "high" in given:
            intervals[model] = given["low"], given["high"]
        if "pit" in given:
            pits[model] = given["pit"]
    return predictions, intervals, pits


def settings(experiment: Experiment) -> dict[str, Any]:
    """The conf with every default, but for where and when: what the figures depend on."""
    return shown(experiment.model_dump(mode="json", exclude={"tracking", "schedule", "gc"}))


def provenance(experiment: Experiment) -> dict[str, str]:
    """What it takes to make the same figures again."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return {
        "conf digest": digest(settings(experiment)),
        "seed": str(experiment.seed),
        "commit": commit_here(),
        "python": platform.python_version(),
        "libraries": versions,
        "tracking": tracking_uri(experiment).rpartition("@")[2],
    }


@dataclass(frozen=True)
class Leaderboard:
    """All a report shows. Prices and errors are in `unit`, which stands before a number if it is a currency sign."""

    title: str
    generated: bool  # the data is the generated sample catalogue
    dataset: dict[str, Any]  # name, digest, rows {split: count}, test_products, source
    rows: list[Row]
    items: list[dict[str, Any]]  # the test items: id, title, text, category, price
    predictions: dict[str, list[float | None]]  # model -> guess per item, in the order of items
    intervals: dict[str, tuple[list[float | None], list[float | None]]] = field(default_factory=dict)  # 80%, low, high
    pits: dict[str, list[float | None]] = field(default_factory=dict)  # where each truth lies in the distribution, 0..1
    families: np.ndarray | None = None  # the product of each test item, where some are variants of one another
    curve: list[Checkpoint] = field(default_factory=list)  # the candidates of the training, on validation
    reproduce: dict[str, str] = field(default_factory=dict)  # command, conf (YAML), digests, commit, versions ...
    unit: str = "$"

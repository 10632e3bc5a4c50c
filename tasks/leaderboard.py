"""The leaderboard as MLflow holds it: the rows of an evaluation, with the registry's marks on them."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.config import PROJECT, Experiment
from tasks.digests import digest
from tasks.registry import BEST_CHECKPOINT, CHAMPION, registered
from tasks.splits import Dataset, read_split
from tasks.tracking import StageRun, connect, tracking_uri

if TYPE_CHECKING:
    from tasks.report import Leaderboard

REPORT = "report.html"
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "scikit-learn", "mlflow", "prefect")


def open_run(experiment: Experiment, run_id: str) -> StageRun:
    """The finished run of an evaluation."""
    client = connect(experiment)
    return StageRun(client, client.get_run(run_id), "evaluate", done=True)


def marked_rows(experiment: Experiment, board: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows, best first, `champion` and `best_checkpoint` marked as the registry has them now; rows without a rank
    stand at the end."""
    from tasks.report import ROW_KEYS

    champion, best = (registered(experiment, alias) for alias in (CHAMPION, BEST_CHECKPOINT))
    rows = [
        {
            **dict.fromkeys(ROW_KEYS),
            **row,
            "champion": row["model_id"] == champion,
            "best_checkpoint": row["model_id"] == best,
        }
        for row in board["rows"]
    ]
    return sorted(rows, key=lambda row: (row["status"] != "ran", row.get("mae") is None, row.get("mae") or 0.0))


def read_leaderboard(experiment: Experiment, run_id: str) -> Leaderboard:
    """All that the report shows, from MLflow alone: no model is run, or even needed."""
    import pyarrow.parquet as pq

    from tasks.report import Leaderboard

    run = open_run(experiment, run_id)
    board = run.read_json("leaderboard.json")
    dataset = Dataset(**{key: value for key, value in board["dataset"].items() if key != "source"})
    items = read_split(dataset, "test")
    predictions: dict[str, list] = {}
    intervals: dict[str, tuple[list, list]] = {}
    frame = pq.read_table(run.artifact("predictions.parquet")).to_pandas()
    for model, rows in frame.groupby("model", sort=False):
        ordered = rows.set_index("id").loc[[item.id for item in items]]
        price, low, high = (
            ordered[key].astype(object).where(ordered[key].notna(), None) for key in ("price", "low", "high")
        )
        predictions[str(model)] = price.tolist()
        if ordered["low"].notna().all():
            intervals[str(model)] = (low.tolist(), high.tolist())
    return Leaderboard(
        title=experiment.tracking.experiment,
        generated=dataset.generated,
        dataset={**board["dataset"], "rows": dataset.rows},
        rows=marked_rows(experiment, board),
        items=[{"id": i.id, "title": i.title, "text": i.text, "category": i.category, "price": i.price} for i in items],
        predictions=predictions,
        intervals=intervals,
        curve=board["curve"],
        reproduce=board["provenance"],
    )


def publish(experiment: Experiment, run_id: str) -> Path:
    """Write the HTML report beside the leaderboard, with the marks of the registry, and say where it lies."""
    from tasks.report import write_report

    run = open_run(experiment, run_id)
    with tempfile.TemporaryDirectory() as folder:
        write_report(Path(folder) / REPORT, read_leaderboard(experiment, run_id))
        run.log_folder(Path(folder))
    return run.artifact(REPORT)


def provenance(experiment: Experiment) -> dict[str, str]:
    """What it takes to make the same figures again."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return {
        "conf digest": digest(experiment.model_dump(mode="json", exclude={"tracking", "schedule"})),
        "seed": str(experiment.seed),
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": versions,
        "tracking": tracking_uri(experiment).rpartition("@")[2],
    }


def _commit() -> str:
    git = ["git", "-C", str(PROJECT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not in a git checkout"
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")

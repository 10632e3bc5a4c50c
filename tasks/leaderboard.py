"""The leaderboard as MLflow holds it: the rows of an evaluation, with the registry's marks on them."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tasks.config import PROJECT, Experiment
from tasks.digests import digest
from tasks.errors import UserError
from tasks.registry import BEST_CHECKPOINT, CHALLENGER, CHAMPION, registered
from tasks.splits import Dataset, read_split
from tasks.store import connect, tracking_uri
from tasks.tracking import DIGEST, Candidate, StageRun, alone, whole_splits

if TYPE_CHECKING:
    from tasks.report import Leaderboard

REPORT, FIGURES = "report.html", "figures"
MARKS = {"champion": CHAMPION, "challenger": CHALLENGER, "best_checkpoint": BEST_CHECKPOINT}  # by alias
NAMES = {key: f"mae_{key}" for key in ("difference", "difference_low", "difference_high")}  # beside mae in lists
NOT_MEASURED = {"step", "n_train", "fit_seconds", "size_mb", *MARKS}  # numbers of a row that are no figures of the test
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "scikit-learn", "mlflow", "prefect")


def open_run(experiment: Experiment, run_id: str) -> StageRun:
    """The finished run of an evaluation."""
    client = connect(experiment)
    return StageRun(client, client.get_run(run_id), "evaluate", done=True)


def marked_rows(experiment: Experiment, board: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows, best first, marked as the registry has their models now; rows without a rank stand at the end."""
    from tasks.standings import ROW_KEYS

    holders = {mark: registered(experiment, alias) for mark, alias in MARKS.items()}
    rows = [
        {**dict.fromkeys(ROW_KEYS), **row, **{mark: row["model_id"] == model for mark, model in holders.items()}}
        for row in board["rows"]
    ]
    return sorted(rows, key=lambda row: (row["status"] != "ran", row.get("mae") is None, row.get("mae") or 0.0))


def read_leaderboard(experiment: Experiment, run_id: str, command: str | None = None) -> Leaderboard:
    """All that the report shows, from what MLflow keeps of the evaluation: no model is run, or even needed.

    Raises:
        UserError: the files of the evaluation or the splits are gone.
    """
    from tasks.report import Leaderboard

    run = open_run(experiment, run_id)
    try:
        board = run.read_json("leaderboard.json")
        dataset = dataset_of(experiment, board)
        items = read_split(dataset, "test")
        predictions, intervals, levels = _answers(run, [item.id for item in items])
    except FileNotFoundError as error:
        raise UserError(f"{error}. Make the evaluation again with `pricewright evaluate`.") from error
    return Leaderboard(
        title=experiment.tracking.experiment,
        generated=dataset.generated,
        dataset={**board["dataset"], "rows": dataset.rows},
        rows=marked_rows(experiment, board),
        items=[{"id": i.id, "title": i.title, "text": i.text, "category": i.category, "price": i.price} for i in items],
        predictions=predictions,
        intervals=intervals,
        levels=levels,
        curve=board["curve"],
        reproduce={
            **({"command": command} if command else {}),
            **board["provenance"],
            "evaluation": f"{run.run.data.tags[DIGEST]} (MLflow run {run_id})",
            "conf": yaml.safe_dump(settings(experiment), sort_keys=False, allow_unicode=True),
        },
    )


def dataset_of(experiment: Experiment, board: dict[str, Any]) -> Dataset:
    """The dataset of an evaluation, where it lies now: splits that were damaged and made again lie elsewhere."""
    kept = Dataset(**{key: value for key, value in board["dataset"].items() if key != "source"})
    return replace(kept, path=whole_splits(experiment, kept.digest) or kept.path)


def _answers(run: StageRun, ids: list[str]) -> tuple[dict[str, list], dict[str, tuple[list, list]], dict[str, list]]:
    """Of every model, in the order of the items' ids: its guesses, and where it gives them, its intervals' ends and
    where the truths lie in its distributions."""
    import pyarrow.parquet as pq

    predictions: dict[str, list] = {}
    intervals: dict[str, tuple[list, list]] = {}
    levels: dict[str, list] = {}
    frame = pq.read_table(run.artifact("predictions.parquet")).to_pandas()
    for name, rows in frame.groupby("model", sort=False):
        ordered, model = rows.set_index("id").reindex(ids), str(name)
        given = {
            key: ordered[key].astype(object).where(ordered[key].notna(), None).tolist()
            for key in ("price", "low", "high", "level")
            if key in ordered and ordered[key].notna().any()
        }
        predictions[model] = given.get("price", [None] * len(ids))
        if "low" in given and "high" in given:
            intervals[model] = given["low"], given["high"]
        if "level" in given:
            levels[model] = given["level"]
    return predictions, intervals, levels


def publish(experiment: Experiment, run_id: str, command: str | None = None) -> Path:
    """Show the leaderboard in MLflow, marked as the registry is: the report and its pictures beside the predictions,
    the table as the description of the run, and the figures of every rung on a run of its own, ready to be compared.

    `command` is what makes the same leaderboard again. Returns where the report lies.
    """
    with alone(run_id):
        return _publish(experiment, run_id, command)


def _publish(experiment: Experiment, run_id: str, command: str | None) -> Path:
    from tasks.report import write_figures, write_report
    from tasks.standings import as_markdown, headline, in_order

    run, board = open_run(experiment, run_id), read_leaderboard(experiment, run_id, command)
    with tempfile.TemporaryDirectory() as folder:
        write_report(Path(folder) / REPORT, board)
        write_figures(Path(folder) / FIGURES, board)
        run.log_folder(Path(folder))
    first, sentences = headline(in_order(board.rows), board.unit)
    text = f"**{first}** {' '.join(sentences)}\n\n{as_markdown(board.rows, generated=board.generated, unit=board.unit)}"
    run.describe(text)
    dataset, validation = board.dataset, run.read_json("leaderboard.json")["validation"]
    for row in board.rows:
        rung = Candidate(*(row[key] for key in ("model_id", "model", "kind", "step", "status", "reason")))
        measured = {f"test_{NAMES.get(key, key)}": value for key, value in row.items() if key not in NOT_MEASURED}
        # MLflow's Compare opens with the metric that was logged first.
        metrics = {"test_mae": row["mae"], **measured, "validation_mae": validation.get(row["model"], {}).get("mae")}
        params = {key: row[key] for key in ("kind", "n_train") if row[key] is not None}
        run.log_rung(rung, metrics, params, {mark: row[mark] for mark in MARKS})
        run.log_use(run.rung(rung), f"{dataset['name']}-test", dataset["digest"], [rung.model_id])
    run.log_use(run.id, f"{dataset['name']}-test", dataset["digest"])
    return run.artifact(REPORT, fresh=True)


def settings(experiment: Experiment) -> dict[str, Any]:
    """The conf with every default, but for where and when: what the figures depend on."""
    return experiment.model_dump(mode="json", exclude={"tracking", "schedule", "gc"})


def provenance(experiment: Experiment) -> dict[str, str]:
    """What it takes to make the same figures again."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return {
        "conf digest": digest(settings(experiment)),
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

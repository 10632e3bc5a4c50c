"""A leaderboard shown in MLflow: the report and its pictures, the table, and the figures of every model."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasks.config.experiment import Experiment
from tasks.report.board import Leaderboard, read_leaderboard
from tasks.report.headline import headline
from tasks.report.html import write_figures, write_report
from tasks.report.tables import as_markdown, in_order
from tasks.scoring.record import Record, open_run
from tasks.scoring.rows import MARKS, NUMBERS
from tasks.tracking.runs import Candidate
from tasks.tracking.stages import alone

REPORT, FIGURES = "report.html", "figures"
NAMES = {key: f"mae_{key}" for key in ("difference", "difference_low", "difference_high")}  # beside mae in lists
NOT_MEASURED = ("step", "n_train", "fit_seconds", "size_mb")  # numbers of a row that are no figures of the test


def publish(experiment: Experiment, run_id: str, command: str | None = None) -> tuple[Path, Leaderboard]:
    """Show the leaderboard in MLflow, marked as the registry is: the report and its pictures beside the predictions,
    the table as the description of the run, and the figures of every model on a run of its own, ready to be compared.

    `command` is what makes the same leaderboard again. Returns where the report lies, and what it shows.
    """
    with alone(experiment, run_id):
        return _publish(experiment, run_id, command)


def _publish(experiment: Experiment, run_id: str, command: str | None) -> tuple[Path, Leaderboard]:
    run, board = open_run(experiment, run_id), read_leaderboard(experiment, run_id, command)
    with tempfile.TemporaryDirectory() as folder:
        write_report(Path(folder) / REPORT, board)
        write_figures(Path(folder) / FIGURES, board)
        run.log_folder(Path(folder))
    first, sentences = headline(in_order(board.rows), board.unit, board.dataset.get("test_products"))
    text = f"**{first}** {' '.join(sentences)}\n\n{as_markdown(board.rows, generated=board.generated, unit=board.unit)}"
    run.describe(text)
    dataset, by_role = board.dataset, Record.read(run).by_role
    first, selection = by_role.get("first", {}), by_role.get("selection", {})
    for row in board.rows:
        entry = Candidate(row.model_id, row.model, row.kind, row.step, row.status, row.reason)
        measured = {key: row.number(key) for key in (*sorted(NUMBERS), *row.figures) if key not in NOT_MEASURED}
        # MLflow's Compare opens with the metric that was logged first.
        metrics = {"test_mae": row.mae, **{f"test_{NAMES.get(key, key)}": value for key, value in measured.items()}}
        params = {key: value for key, value in (("kind", row.kind), ("n_train", row.n_train)) if value is not None}
        run.log_entry(
            entry,
            metrics | {"validation_mae": first.get(row.model), "validation_selection_mae": selection.get(row.model)},
            params,
            {mark: getattr(row, mark) for mark in MARKS},
        )
        run.log_use(run.model_run(entry), f"{dataset['name']}-test", dataset["digest"], [entry.model_id])
    run.log_use(run.id, f"{dataset['name']}-test", dataset["digest"])
    return run.artifact(REPORT, fresh=True), board

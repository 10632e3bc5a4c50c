"""The rows of a leaderboard, with the registry's marks on them: all that a table of them takes."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasks.config.experiment import Experiment
from tasks.errors import UserError
from tasks.paths import PROJECT
from tasks.scoring.record import Record, read_run
from tasks.scoring.rows import Row
from tasks.tracking.registry import BEST_CHECKPOINT, CHALLENGER, CHAMPION, registered

ALIASES = {"champion": CHAMPION, "challenger": CHALLENGER, "best_checkpoint": BEST_CHECKPOINT}  # by mark


@dataclass(frozen=True)
class Standings:
    """The rows, best first; prices and errors are in `unit`, and `generated` data are made up by a program. `commit` is
    that of the code that made them, `test_products` what a `Dataset` says of its test items."""

    rows: list[Row]
    generated: bool
    commit: str
    unit: str = "$"
    test_products: int | None = None


def read_standings(experiment: Experiment, run_id: str) -> Standings:
    """The standings of an evaluation, from what MLflow keeps of it.

    Raises:
        UserError: its record is gone.
    """
    try:
        record = Record.read(read_run(experiment, run_id))
    except FileNotFoundError as error:
        raise UserError(f"{error}. Make the evaluation again with `pricewright evaluate`.") from error
    rows, generated = marked_rows(experiment, record.rows), record.dataset.generated
    commit, products = record.provenance["commit"], record.dataset.test_products
    return Standings(rows, generated, commit, unit=experiment.data.unit, test_products=products)


def marked_rows(experiment: Experiment, rows: Sequence[Row]) -> list[Row]:
    """The rows, best first, marked as the registry has their models now; rows without figures stand at the end."""
    holders = {mark: registered(experiment, alias) for mark, alias in ALIASES.items()}
    marked = [replace(row, **{mark: row.model_id == model for mark, model in holders.items()}) for row in rows]
    return sorted(marked, key=lambda row: (row.status != "ran", row.mae is None, row.mae or 0.0))


def commit_here() -> str:
    """The commit of the code that runs here, and whether there are changes on top of it."""
    git = ["git", "-C", str(PROJECT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not in a git checkout"
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")

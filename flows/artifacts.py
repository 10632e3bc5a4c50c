"""What Prefect's dashboard shows of a run: the leaderboard as a table, and the progress of what takes long."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast
from uuid import UUID
from weakref import WeakKeyDictionary

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact

from tasks.config.experiment import Experiment
from tasks.config.loading import command_of
from tasks.progress import Progress
from tasks.report.headline import headline
from tasks.report.publishing import publish
from tasks.report.tables import as_records, in_order

EVERY = 5  # seconds between two updates of a progress artifact
PATIENCE = 20  # a server that did not answer is asked again after so many times as long as that took

_shown: WeakKeyDictionary[Progress, tuple[UUID, float]] = WeakKeyDictionary()
_silent_until = 0.0


class Report(NamedTuple):
    """What a flow with a leaderboard returns: the MLflow run of the evaluation, and the path of its report."""

    run_id: str
    path: str


def show_leaderboard(experiment: Experiment, run_id: str, conf: str, overrides: Sequence[str] | None) -> Report:
    """Publish the leaderboard in MLflow, and as a table artifact of the flow run."""
    report, board = publish(experiment, run_id, command_of(conf, overrides))
    first, sentences = headline(in_order(board.rows), board.unit, board.dataset.get("test_products"))
    create_table_artifact(
        as_records(board.rows, board.unit), key="leaderboard", description=f"**{first}** {' '.join(sentences)}"
    )
    return Report(run_id, str(report))


def watch_progress(flow: Any, flow_run: Any, state: Any) -> None:  # noqa: ARG001 - Prefect names the arguments
    """A hook for flows that start running: from now on, whatever takes long has a progress artifact."""
    if show_progress not in Progress.watchers:
        Progress.watchers.append(show_progress)


def show_progress(progress: Progress) -> None:
    """Bring the progress artifact of a piece of work up to date, every few seconds and at its end."""
    global _silent_until
    if not progress.total:
        return
    share, now = 100 * progress.done / progress.total, time.monotonic()
    artifact, before = _shown.get(progress, (None, -EVERY))
    if now < _silent_until or (now - before < EVERY and share < 100):
        return
    # A dashboard that is gone must not stop a training, nor slow it down: Prefect's client tries for a minute.
    try:
        if artifact is None:
            key = re.sub(r"[^a-z0-9]+", "-", progress.what.lower()).strip("-")
            artifact = cast(UUID, create_progress_artifact(share, key=key, description=progress.what))
        else:
            update_progress_artifact(artifact, share)
        _shown[progress] = (artifact, now)
    except Exception:
        gone = time.monotonic()
        _silent_until = gone + PATIENCE * (gone - now)

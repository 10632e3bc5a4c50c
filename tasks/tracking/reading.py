"""What commands that only read ask of MLflow, without its client where that can be: to import it takes three seconds.

MLflow's own SQLite file, which is where a store lies by default, is read here by four queries. Everything else (a
server, another database, a file of a layout that these do not know) is asked through MLflow's client.
tests/tracking/test_reading.py holds both to the same answers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tasks.config.experiment import Experiment
from tasks.paths import PROJECT
from tasks.tracking.moved import follow
from tasks.tracking.runs import STAGE, SUPERSEDED
from tasks.tracking.store import LAYOUT, LAYOUT_TAG, connect, experiment_id, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

DEFAULT = "default"  # MLflow's one workspace, where nobody has made more of them


class SqliteReader:
    """The methods of MLflow's client that reading takes, over its SQLite file. What is not there is None."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def _rows(self, query: str, *values: Any) -> list[tuple]:
        with closing(sqlite3.connect(f"{self.file.as_uri()}?mode=ro", uri=True, timeout=60)) as store:
            return store.execute(query, values).fetchall()

    def _pairs(self, query: str, *values: Any) -> dict[str, str]:
        return dict(self._rows(query, *values))

    def knows(self, experiment: str) -> bool:
        """Whether this experiment is there in the layout that this version reads."""
        query = (
            "SELECT value FROM experiment_tags JOIN experiments USING (experiment_id)"
            " WHERE name = ? AND key = ? AND lifecycle_stage = 'active' AND workspace = ?"
        )
        return self._rows(query, experiment, LAYOUT_TAG, DEFAULT) == [(LAYOUT,)]

    def get_run(self, run_id: str) -> SimpleNamespace:
        """A run: where its artifacts lie, and its tags."""
        ((uri,),) = self._rows("SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id)
        tags = self._pairs("SELECT key, value FROM tags WHERE run_uuid = ?", run_id)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id, artifact_uri=uri), data=SimpleNamespace(tags=tags))

    def runs_with(self, experiment: str, tags: Mapping[str, str]) -> list[SimpleNamespace]:
        """The finished runs of an experiment that have these tags, the latest first."""
        query = (
            "SELECT run_uuid FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = ?"
            " AND workspace = ? AND status = 'FINISHED' AND runs.lifecycle_stage = 'active'"
        )
        query += " AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)" * len(tags)
        found = self._rows(
            f"{query} ORDER BY start_time DESC, run_uuid",
            experiment,
            DEFAULT,
            *(part for pair in tags.items() for part in pair),
        )
        return [self.get_run(run_id) for (run_id,) in found]

    def get_model_version_by_alias(self, name: str, alias: str) -> SimpleNamespace | None:
        """The version that has an alias of a registered model."""
        query = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ? AND workspace = ?"
        found = self._rows(query, name, alias, DEFAULT)
        if not found:
            return None
        ((version,),) = found
        tags = "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ? AND workspace = ?"
        return SimpleNamespace(name=name, version=str(version), tags=self._pairs(tags, name, version, DEFAULT))

    def get_logged_model(self, model_id: str) -> SimpleNamespace:
        """A LoggedModel: where its artifacts lie, its tags, and what it was made with.

        Raises:
            FileNotFoundError: it was deleted.
        """
        query = "SELECT artifact_location FROM logged_models WHERE model_id = ? AND lifecycle_stage = 'active'"
        found = self._rows(query, model_id)
        if not found:
            raise FileNotFoundError(f"Logged model with ID '{model_id}' not found.")
        ((uri,),) = found
        tags = self._pairs("SELECT tag_key, tag_value FROM logged_model_tags WHERE model_id = ?", model_id)
        params = self._pairs("SELECT param_key, param_value FROM logged_model_params WHERE model_id = ?", model_id)
        return SimpleNamespace(model_id=model_id, artifact_location=uri, tags=tags, params=params)


def reader(experiment: Experiment) -> SqliteReader | MlflowClient:
    """What to ask about a store: its SQLite file, or MLflow's client.

    Raises:
        UserError: the place cannot be written, or its password is not in the environment.
    """
    if experiment.tracking.uri is None:
        follow(PROJECT / "mlruns")
    uri = tracking_uri(experiment)
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and "?" not in uri and file.is_file():
        found = SqliteReader(file.absolute())
        try:
            if found.knows(experiment.tracking.experiment):
                return found
        except sqlite3.Error:  # damaged, or of another version of MLflow, whose client says so
            pass
    return connect(experiment)


def finished_runs(experiment: Experiment, tags: Mapping[str, str]) -> Sequence[Run | SimpleNamespace]:
    """The finished runs that have these tags, the latest first."""
    asked = reader(experiment)
    if isinstance(asked, SqliteReader):
        return asked.runs_with(experiment.tracking.experiment, tags)
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    query += " and attributes.status = 'FINISHED'"
    return asked.search_runs([experiment_id(experiment)], query, order_by=["attributes.start_time DESC"])


def latest_evaluation(experiment: Experiment, tag: str | None = None) -> str | None:
    """The id of the last run that ended with a leaderboard, of whichever conf, or with a tag; None if there is none."""
    runs = finished_runs(experiment, {STAGE: "evaluate", **({tag: "true"} if tag else {})})
    return min(runs, key=lambda run: SUPERSEDED in run.data.tags).info.run_id if runs else None


def version_with(experiment: Experiment, alias: str) -> ModelVersion | SimpleNamespace | None:
    """The version that has an alias of the registered model of the conf; None if nobody has it."""
    asked, name = reader(experiment), experiment.registered_model
    if isinstance(asked, SqliteReader):
        return asked.get_model_version_by_alias(name, alias)
    from mlflow.exceptions import MlflowException

    try:
        return asked.get_model_version_by_alias(name, alias)
    except MlflowException:
        return None

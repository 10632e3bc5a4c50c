"""The MLflow store of a conf: how it is reached, and where its artifacts lie on this machine."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from tasks.config import PROJECT, Experiment
from tasks.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient


def connect(experiment: Experiment) -> MlflowClient:
    """A client of the tracking server or database of the conf; `mlruns/mlflow.db` in the project by default.

    Raises:
        UserError: the place cannot be written.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)  # it raises what it logs
    mlflow.set_tracking_uri(tracking_uri(experiment))
    if experiment.tracking.uri is None:
        _check_writable(PROJECT / "mlruns")
    return mlflow.MlflowClient()


def tracking_uri(experiment: Experiment) -> str:
    """The tracking URI of the conf."""
    return experiment.tracking.uri or f"sqlite:///{PROJECT / 'mlruns' / 'mlflow.db'}"


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0" * 4096)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}. Make room or fix its permissions.") from error


def experiment_id(experiment: Experiment) -> str:
    """The MLflow experiment of the conf, made if it is not there."""
    client = connect(experiment)
    known = client.get_experiment_by_name(experiment.tracking.experiment)
    if known is not None:
        return known.experiment_id
    artifacts = experiment.tracking.artifacts
    if artifacts is None and experiment.tracking.uri is None:
        artifacts = (PROJECT / "mlruns" / "artifacts").as_uri()
    kind = {"mlflow.experimentKind": "custom_model_development"}
    return client.create_experiment(experiment.tracking.experiment, artifact_location=artifacts, tags=kind)


def model_folder(client: MlflowClient, model_id: str) -> Path:
    """Where the saved predictor of a LoggedModel lies on this machine."""
    return fetch(f"{client.get_logged_model(model_id).artifact_location}/artifacts/predictor")


def fetch(uri: str) -> Path:
    """Where an artifact lies on this machine: in place in a local store, else in a temporary folder.

    Raises:
        FileNotFoundError: it is gone.
    """
    place = local_path(uri)
    if place is None:
        import mlflow

        return Path(mlflow.artifacts.download_artifacts(uri))
    if not place.exists():
        raise FileNotFoundError(f"{place} is gone")
    return place


def local_path(uri: str) -> Path | None:
    """The path of a file: URI or a plain path; None for what lies elsewhere."""
    parts = urlparse(uri)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None

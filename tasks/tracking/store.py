"""The MLflow store of a conf: how it is reached, and where its artifacts lie on this machine."""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlparse, urlsplit

from tasks.config.experiment import Experiment
from tasks.config.section import PASSWORD
from tasks.errors import UserError, check_writable
from tasks.locks import locked
from tasks.paths import PROJECT, cache_folder, local_path
from tasks.progress import say
from tasks.tracking.moved import follow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment as MlflowExperiment

LAYOUT_TAG, LAYOUT = "pricewright.layout", "1"  # how runs, models and registered versions are laid out here
LOCKS = PROJECT / "mlruns" / "locks"


def connect(experiment: Experiment) -> MlflowClient:
    """A client of the tracking server or database of the conf; `mlruns/mlflow.db` in the project by default.

    Raises:
        UserError: the place cannot be written, or its password is not in the environment.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")  # no model of ours needs it
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is for scripts
    for way in ("DOWNLOAD", "UPLOAD"):  # by itself MLflow sends us to the store of its server, which we may not reach
        os.environ.setdefault(f"MLFLOW_ENABLE_PROXY_MULTIPART_{way}", "false")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)  # it raises what it logs
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").addFilter(_report_database_retries)
    mlflow.set_tracking_uri(address(experiment))
    # Models are registered where runs are, whatever MLFLOW_REGISTRY_URI says.
    mlflow.set_registry_uri(address(experiment))
    if experiment.tracking.uri is None:
        check_writable(PROJECT / "mlruns", "Fix its permissions.")
        _make_database(PROJECT / "mlruns" / "mlflow.db")
        follow(PROJECT / "mlruns")
    return mlflow.MlflowClient()


def _make_database(database: Path) -> None:
    """Make the project's database aside, and move it to its place. MLflow makes it in place, within seconds and many
    transactions: a command that is interrupted meanwhile would leave half a database, which MLflow takes for damaged.
    """
    if database.exists():
        return
    with locked(LOCKS / "database.lock"), tempfile.TemporaryDirectory(dir=database.parent, prefix=".part-") as folder:
        if database.exists():  # another process made it, and this one waited
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        made = Path(folder) / database.name
        SqlAlchemyStore(_sqlite(made), str(database.parent / "artifacts")).engine.dispose()
        made.replace(database)


def _report_database_retries(record: logging.LogRecord) -> bool:
    """Log filter: report database retries once and drop every other record, because MLflow raises those errors itself
    or they contain addresses."""
    if record.levelno == logging.WARNING and "could not be created" in record.getMessage():
        _say_that_it_is_tried_again()
    return False


@functools.cache
def _say_that_it_is_tried_again() -> None:
    say("The database of the tracking store does not answer. It is tried again for up to two minutes.")


def tracking_uri(experiment: Experiment) -> str:
    """The tracking URI as the conf has it, to be shown: without the values of the environment."""
    if experiment.tracking.uri:
        return experiment.tracking.uri
    return _sqlite(PROJECT / "mlruns" / "mlflow.db")


def _sqlite(database: Path) -> str:
    # A question mark would end the path of a plain address.
    return f"sqlite:///file:{quote(str(database))}?uri=true" if "?" in str(database) else f"sqlite:///{database}"


def address(experiment: Experiment) -> str:
    """The tracking URI to connect to, with passwords as they are in the environment, whatever characters they hold. The
    user and password of a server go to where MLflow looks for them, so that no message of its holds them.

    Raises:
        UserError: a variable that the URI names is not set.
    """
    uri = tracking_uri(experiment)
    if uri.startswith("sqlite:"):
        return uri
    try:
        quoted = {name: quote(value, safe="") for name, value in os.environ.items()}
        uri = re.sub(PASSWORD, lambda place: Template(place[0]).substitute(quoted), uri)
        uri = Template(uri).substitute(os.environ)
    except (KeyError, ValueError) as error:
        raise UserError(f"tracking.uri: {error.args[0]} is not set in the environment.") from None
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and parts.username is not None:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return uri


def experiment_id(experiment: Experiment) -> str:
    """The MLflow experiment of the conf, made if it is not there, by one process at a time: two that make a database
    at once break it.

    Raises:
        UserError: the experiment was deleted, keeps its artifacts somewhere else than the conf says, or its runs are
            laid out otherwise.
    """
    with locked(LOCKS / "store.lock"):
        return _experiment_id(experiment, connect(experiment))


def _experiment_id(experiment: Experiment, client: MlflowClient) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(experiment.tracking.experiment)
    artifacts = experiment.tracking.artifacts
    if known is not None:
        if known.lifecycle_stage == "deleted":
            raise UserError(
                f"The MLflow experiment {known.name} was deleted. Get it back by `mlflow experiments restore "
                f"--experiment-id {known.experiment_id}` with MLFLOW_TRACKING_URI set to its store, or set "
                "tracking.experiment to another name."
            )
        if artifacts is not None and (local_path(artifacts) or artifacts.rstrip("/")) != (
            local_path(known.artifact_location) or known.artifact_location.rstrip("/")
        ):
            raise UserError(
                f"The experiment {known.name} keeps its artifacts in {known.artifact_location}, not in {artifacts}. "
                "Leave tracking.artifacts out, or give tracking.experiment another name."
            )
        _check_layout(experiment, client, known)
        return known.experiment_id
    if artifacts is None and experiment.tracking.uri is None:
        artifacts = (PROJECT / "mlruns" / "artifacts").as_uri()
    tags = {"mlflow.experimentKind": "custom_model_development", LAYOUT_TAG: LAYOUT}
    try:
        return client.create_experiment(experiment.tracking.experiment, artifact_location=artifacts, tags=tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        known = client.get_experiment_by_name(experiment.tracking.experiment)  # another machine was quicker
        if known is None:
            raise
        return known.experiment_id


def _check_layout(experiment: Experiment, client: MlflowClient, known: MlflowExperiment) -> None:
    found = known.tags.get(LAYOUT_TAG)
    if found == LAYOUT:
        return
    if client.search_runs([known.experiment_id], run_view_type=3, max_results=1):  # deleted ones too
        store = tracking_uri(experiment).rpartition("@")[2]
        raise UserError(
            f"The MLflow experiment {known.name} in {store} holds runs of another layout ({found or 'none is noted'}; "
            f"this version reads {LAYOUT}). Set tracking.experiment to another name, or move mlruns/ away. Nothing was "
            "changed."
        )
    client.set_experiment_tag(known.experiment_id, LAYOUT_TAG, LAYOUT)


@contextmanager
def gone_as_file_not_found() -> Iterator[None]:
    """Within it, what MLflow no longer has is a FileNotFoundError, as files are that are gone."""
    try:
        yield
    except Exception as error:  # MLflow's own, which takes seconds to import
        if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise FileNotFoundError(str(error)) from error


def model_location(client: MlflowClient, model_id: str) -> str:
    """Where the artifacts of a LoggedModel lie in its store.

    Raises:
        FileNotFoundError: it was deleted in MLflow.
    """
    with gone_as_file_not_found():
        return str(client.get_logged_model(model_id).artifact_location)


def model_address(client: MlflowClient, model_id: str) -> str:
    """Where the saved predictor of a LoggedModel lies in its store.

    Raises:
        FileNotFoundError: it was deleted in MLflow.
    """
    return f"{model_location(client, model_id)}/artifacts/predictor"


def model_folder(client: MlflowClient, model_id: str) -> Path:
    """Where the saved predictor of a LoggedModel lies on this machine.

    Raises:
        FileNotFoundError: it is gone.
    """
    return fetch(model_address(client, model_id))


def pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """All that a search of MLflow finds, page by page; `search` takes the token of a page."""
    token = None
    while True:
        found = search(token)
        yield from found
        token = found.token
        if not token:
            return


def fetch(uri: str, *, fresh: bool = False) -> Path:
    """Where an artifact, a file or a folder, lies on this machine: in place in a local store, else in the cache, where
    each file is fetched to once. `fresh` fetches a file that may have been written again.

    Raises:
        FileNotFoundError: it is gone.
    """
    path = local_path(uri)
    if path is not None:
        if not path.exists():
            raise FileNotFoundError(f"{path} is gone")
        return path
    copy = _cached_as(uri)
    if copy.is_file() and not fresh:
        return copy
    files = listing(uri)
    if not files:
        _download(uri, copy)
    for name, size in files.items():
        if not (copy / name).is_file() or (copy / name).stat().st_size != size:
            _download(f"{uri}/{name}", copy / name)
    return copy


def listing(uri: str) -> dict[str, int]:
    """The files below an artifact location, with their sizes in bytes; none if it is a file itself or not there."""
    folder = local_path(uri)
    if folder is not None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    store, found, pending = get_artifact_repository(uri), {}, [""]
    while pending:
        for info in store.list_artifacts(pending.pop() or None):
            if info.is_dir:
                pending.append(info.path)
            else:
                found[info.path] = info.file_size
    return dict(sorted(found.items()))


def forget(uri: str) -> None:
    """Remove the copies here of what lies elsewhere: of a file, or of all files below a location."""
    if local_path(uri) is None:
        copy = _cached_as(uri)
        copy.unlink(missing_ok=True) if copy.is_file() else shutil.rmtree(copy, ignore_errors=True)


def _cached_as(uri: str) -> Path:
    """Where a copy of what lies elsewhere is kept: by its address, which MLflow gives to one thing only."""
    parts = urlparse(uri)
    names = [name for name in unquote(parts.path).split("/") if name]
    if ".." in names:
        raise ValueError(f"{uri} leads out of its store")
    return cache_folder().joinpath("artifacts", parts.scheme, parts.hostname or "store", *names)


def _download(uri: str, file: Path) -> None:
    """Fetch a file under a temporary name and rename it, so that a kill leaves no half file."""
    import mlflow
    from mlflow.exceptions import MlflowException

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".part-") as temporary:
        try:
            Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=temporary)).replace(file)
        except MlflowException as error:
            folder, _, name = uri.rpartition("/")
            if name in listing(folder):  # which fails as well, and says why, where the store cannot be reached
                raise
            raise FileNotFoundError(f"{uri} is gone") from error

"""MLflow's layout, known here alone: what a stage run holds, and where its models lie."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.paths import PROJECT
from tasks.tracking.manifest import MANIFEST, intact
from tasks.tracking.store import fetch, forget, listing, local_path, model_location, pages

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

Mode = Literal["reuse", "again", "recall", "read"]
"""reuse: do only what is not done; again: do it all the same; recall: do nothing, the result must be there; read: do
nothing, what was logged must be there, though files of it (the models) may be gone since."""

STAGE, DIGEST, MODEL, KIND = "pricewright.stage", "pricewright.digest", "pricewright.model", "pricewright.kind"
MODEL_ID, MADE_FROM = "pricewright.model_id", "pricewright.made_from"
STEP, STATUS, REASON = "pricewright.step", "pricewright.status", "pricewright.reason"
CHOSEN, DROPPED = "pricewright.chosen", "pricewright.dropped"
MAX_NOTE = 8_000  # characters that a tag of MLflow holds
MOST_PARAMS = 100  # that a request to MLflow may hold
PARENT = "mlflow.parentRunId"  # MLflow's own tag for a run within a run
EXTERNAL = "pricewright.external"
WEIGHTS = "pricewright.weights"  # the digest of what makes the weights of a training
TRAINED_IN = "pricewright.trained_in"  # the run whose checkpoints were asked again
SUPERSEDED = "pricewright.superseded"  # by the run of a later --again
CONTENT = "pricewright.content"  # the digest of the splits that a run of curate left
RULED = "pricewright.rules"  # and that of the rules that made them of raw rows
ASKED = "pricewright.answers."  # and the digest of a conf and its data, on each evaluation that answers it
KIND_OF_WORK, TOOK = "pricewright.work", "pricewright.seconds"  # dataset and base model; what the stage took
LOCK = "pricewright.lock"  # a run that is there while somebody does what has this name
CANDIDATES = "candidates.json"
RULES = "cleaning.json"  # beside a saved model
SERVABLE = ("baseline", "base", "finetuned", "blend")  # kinds that another process can load and price a text with
SERVED = PROJECT / "tasks" / "models" / "pyfunc.py"


@dataclass(frozen=True)
class Candidate:
    """A model: the handle that crosses stages. `step` is the training step of a checkpoint; `status` is ran, skipped or
    failed, and `reason` says why."""

    model_id: str
    name: str
    kind: str
    step: int | None = None
    status: str = "ran"
    reason: str | None = None


class StageRun:
    """One MLflow run of one stage; `done` says that its results are there already, and `check` raises where another
    process has taken the run over."""

    def __init__(
        self,
        client: MlflowClient,
        run: Run,
        stage: str,
        *,
        done: bool,
        rules: str | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.client, self.run, self.stage, self.done, self.rules, self.check = client, run, stage, done, rules, check
        self._model_runs: dict[str, str] | None = None
        self.shared: list[str] = []  # ids of the models of other runs that are rows of this one

    @property
    def id(self) -> str:
        return self.run.info.run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nested params by dotted names; what is logged already stays."""
        from mlflow.entities import Param

        known = self.client.get_run(self.id).data.params
        fresh = [Param(key, str(value)[:500]) for key, value in _flat(params) if key not in known]
        for start in range(0, len(fresh), MOST_PARAMS):
            self.client.log_batch(self.id, params=fresh[start : start + MOST_PARAMS])

    def log_metrics(
        self,
        metrics: Mapping[str, float | None],
        *,
        step: int = 0,
        model_id: str | None = None,
        dataset_name: str | None = None,
        dataset_digest: str | None = None,
    ) -> None:
        """Log the metrics that have a value (never NaN), on the run or, if given, on a model and the run of its model.

        The checkpoints of a training are points of one curve, on the run of the training itself. Any other model is one
        point without a step, as MLflow draws bars to compare runs only where none has steps. So is a mean of
        checkpoints, which has no step.
        """
        from mlflow.entities import Metric

        self.check()
        run_id = self.id
        if model_id is not None:
            entry = candidate(self.client.get_logged_model(model_id))
            if self.stage != "finetune" or entry.step is None:
                run_id, step = self.model_run(entry), 0
        named: dict[str, Any] = {"model_id": model_id, "dataset_name": dataset_name, "dataset_digest": dataset_digest}
        known = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
        now = int(time.time() * 1000)
        # In one request: each costs a round trip, and a database several queries.
        logged = [Metric(key, value, now, step, **named) for key, value in known.items() if not math.isnan(value)]
        self.client.log_batch(run_id, logged)

    def model_run(self, entry: Candidate) -> str:
        """The id of a model's own run within this one, made if need be: MLflow compares models as it compares runs."""
        if self._model_runs is None:
            found = self.client.search_runs([self.run.info.experiment_id], f"tags.`{PARENT}` = '{self.id}'")
            self._model_runs = {run.data.tags[MODEL_ID]: run.info.run_id for run in found}
        if entry.model_id not in self._model_runs:
            tags = {
                PARENT: self.id,
                MODEL_ID: entry.model_id,
                MODEL: entry.name,
                KIND: entry.kind,
                STATUS: entry.status,
            }
            tags |= {"mlflow.note.content": entry.reason} if entry.reason else {}
            name = entry.name if entry.step is None else f"{entry.name} step {entry.step}"
            made = self.client.create_run(self.run.info.experiment_id, run_name=name, tags=tags)
            self.client.set_terminated(made.info.run_id, "FAILED" if entry.status == "failed" else "FINISHED")
            self._model_runs[entry.model_id] = made.info.run_id
        return self._model_runs[entry.model_id]

    def log_entry(
        self, entry: Candidate, metrics: Mapping[str, Any], params: Mapping[str, Any], marks: Mapping[str, bool]
    ) -> None:
        """Complete the run of a model: the figures it has not got yet, what it was made with, and its marks as tags."""
        from mlflow.entities import Metric, Param

        run_id = self.model_run(entry)
        known, now = self.client.get_run(run_id).data, int(time.time() * 1000)
        numbers = {key: float(value) for key, value in metrics.items() if isinstance(value, int | float)}
        fresh = [
            Metric(key, value, now, 0)
            for key, value in numbers.items()
            if value == value and known.metrics.get(key) != value
        ]
        named = [Param(key, str(value)) for key, value in params.items() if key not in known.params]
        self.client.log_batch(run_id, metrics=fresh, params=named)
        for mark, holds in marks.items():
            if holds or f"pricewright.{mark}" in known.tags:
                self.client.set_tag(run_id, f"pricewright.{mark}", str(holds).lower())

    def log_use(self, run_id: str, name: str, digest: str, model_ids: Sequence[str] = ()) -> None:
        """Note on this run or one of its models which dataset it was measured on, and with which models."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        inputs = self.client.get_run(run_id).inputs
        if inputs is None or not inputs.dataset_inputs:
            dataset = Dataset(name, digest, "local", json.dumps({"uri": name}))
            context = InputTag("mlflow.data.context", name.rpartition("-")[2])
            self.client.log_inputs(run_id, [DatasetInput(dataset, [context])], [*map(LoggedModelInput, model_ids)])

    def log_models_read(self, model_ids: Sequence[str]) -> None:
        """Note which models this run is about to read: `gc` leaves them and what they were made from."""
        from mlflow.entities import LoggedModelInput

        self.client.log_inputs(self.id, models=[*map(LoggedModelInput, model_ids)])

    def describe(self, text: str) -> None:
        """What MLflow shows at the head of the run, in Markdown."""
        self.client.set_tag(self.id, "mlflow.note.content", text[:MAX_NOTE])

    def log_choice(self, model_id: str, label: str) -> None:
        """Mark the candidate of a training that is best on validation, on the run and on its LoggedModel."""
        self.client.set_tag(self.id, CHOSEN, label)
        for model in self.models():
            if model.model_id == model_id or CHOSEN in model.tags:
                self.client.set_logged_model_tags(model.model_id, {CHOSEN: str(model.model_id == model_id).lower()})

    def drop_model(self, model_id: str) -> None:
        """Delete what was saved of a LoggedModel, before the run ends; its predictions and figures stay."""
        self.check()
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        model = self.client.get_logged_model(model_id)
        if DROPPED not in model.tags:
            # Noted first: a kill in between must not leave half a model that looks like a whole one.
            self.client.set_logged_model_tags(model_id, {DROPPED: "true"})
        get_artifact_repository(model.artifact_location).delete_artifacts("artifacts")

    def log_folder(self, folder: Path, name: str | None = None) -> None:
        """Keep a folder's files as artifacts of the run."""
        self.check()
        self.client.log_artifacts(self.id, str(folder), name)

    def files(self, name: str) -> list[str]:
        """The files of a folder of the run's artifacts, by their path in the run; none if it is not there."""
        return [f"{name}/{file}" for file in listing(f"{self.run.info.artifact_uri}/{name}")]

    def fetch_folder(self, name: str, folder: Path) -> None:
        """Copy a folder of the run's artifacts to a place on this disk; the cache keeps none of it."""
        address = self.artifact_address(name)
        shutil.copytree(fetch(address), folder)
        forget(address)

    def delete_folder(self, name: str) -> None:
        """Delete a folder of the run's artifacts."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self.check()
        get_artifact_repository(str(self.run.info.artifact_uri)).delete_artifacts(name)

    def log_json(self, value: Any, name: str) -> None:
        """Keep a value as a JSON artifact."""
        self.check()
        self.client.log_text(self.id, json.dumps(value, indent=1, ensure_ascii=False), name)

    def log_dataset(self, file: Path, *, name: str, digest: str, context: str) -> None:
        """Note a parquet file as a dataset of this run, by our digest; its rows, which may be many, are not read."""
        import pyarrow.parquet as pq
        from mlflow.entities import Dataset, DatasetInput, InputTag

        table = pq.ParquetFile(file)
        columns = [{"type": str(f.type), "name": f.name, "required": True} for f in table.schema_arrow]
        dataset = Dataset(
            name=f"{name}-{context}",
            digest=digest,
            source_type="local",
            source=json.dumps({"uri": f"{self.run.info.artifact_uri}/splits/{digest}/{file.name}"}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": table.metadata.num_rows}),
        )
        self.client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def artifact_address(self, name: str) -> str:
        """The address of an artifact: its path in a local store, else its URI."""
        uri = f"{self.run.info.artifact_uri}/{name}"
        return str(local_path(uri) or uri)

    def artifact(self, name: str, *, fresh: bool = False) -> Path:
        """Where an artifact of the run lies on this machine; fetched first if the store is elsewhere, and `fresh` if it
        may have been written again."""
        return fetch(self.artifact_address(name), fresh=fresh)

    def read_json(self, name: str) -> Any:
        """What `log_json` kept."""
        return json.loads(self.artifact(name).read_text(encoding="utf-8"))

    def log_model(
        self,
        save: Callable[[Path], None],
        name: str,
        kind: str,
        *,
        step: int | None = None,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Candidate:
        """Keep what `save` writes into a folder as a LoggedModel that loads and predicts in any process with this
        package."""
        import mlflow

        self.check()
        marks = {MODEL: name, KIND: kind, STEP: step, STATUS: "ran", **(tags or {})}
        named = {**dict(_flat(params or {})), **self.client.get_run(self.id).data.params}
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "predictor"
            folder.mkdir()
            save(folder)
            if self.rules:  # by which texts were cleaned: they travel with what was trained on them
                (folder / RULES).write_text(self.rules, encoding="utf-8")
            # By ids and not within `mlflow.start_run`, which ends the run: a kill would leave half a stage as finished.
            model = mlflow.initialize_logged_model(
                slug(name if step is None else f"{name}-step-{step}"),
                source_run_id=self.id,
                experiment_id=self.run.info.experiment_id,
                params={key: str(value) for key, value in named.items()},
                tags={key: str(value) for key, value in marks.items()},
            )
            mlflow.models.Model.log(
                None,
                mlflow.pyfunc,
                model_id=model.model_id,
                run_id=self.id,
                step=step or 0,
                python_model=str(SERVED),
                artifacts={"predictor": str(folder)},
                pip_requirements=[],
            )
        return Candidate(model.model_id, name, kind, step)

    def log_absent(
        self,
        name: str,
        kind: str,
        status: str,
        reason: str | None,
        *,
        external: bool = False,
        params: Mapping[str, Any] | None = None,
    ) -> Candidate:
        """Keep the row of a model that did not run, with its reason, or whose answers come from outside (`external`):
        a LoggedModel without a model."""
        self.check()
        tags = {MODEL: name, KIND: kind, STATUS: status, **({REASON: reason[:500]} if reason else {})}
        tags |= {EXTERNAL: "true"} if external else {}
        model = self.client.create_logged_model(
            self.run.info.experiment_id,
            name=slug(name),
            source_run_id=self.id,
            tags=tags,
            params={key: str(value)[:500] for key, value in _flat(params or {})},
        )
        self.client.finalize_logged_model(model.model_id, "READY")
        return Candidate(model.model_id, name, kind, None, status, reason)

    def models(self) -> list[LoggedModel]:
        """The LoggedModels of this run that were written to their end, by name and step."""
        # By the run and not all of the experiment: a team's store holds tens of thousands.
        where, query = [self.run.info.experiment_id], f"source_run_id = '{self.id}'"
        search = partial(self.client.search_logged_models, where, query, max_results=100)
        found = pages(lambda token: search(page_token=token))
        ready = [model for model in found if str(model.status) == "READY" and MODEL in model.tags]
        return sorted(ready, key=lambda model: (model.tags[MODEL], _step(model) or 0))

    def others(self, tag: str) -> list[StageRun]:
        """The other runs of this stage with the same value of a tag, the latest first."""
        where, value = self.run.info.experiment_id, self.run.data.tags[tag]
        query = f"tags.`{STAGE}` = '{self.stage}' and tags.`{tag}` = '{value}'"
        found = self.client.search_runs([where], query, order_by=["attributes.start_time DESC"])
        runs = [StageRun(self.client, run, self.stage, done=run.info.status == "FINISHED") for run in found]
        return [run for run in runs if run.id != self.id]

    def addresses(self, shared: Iterable[str] = ()) -> dict[str, str]:
        """Where the artifacts of the run (""), of its models and of shared ones (by id) lie.

        Raises:
            FileNotFoundError: a shared one is gone.
        """
        own = {model.model_id: str(model.artifact_location) for model in self.models()}
        others = {key: model_location(self.client, key) for key in shared if key not in own}
        return {"": str(self.run.info.artifact_uri), **own, **others}

    def intact(self) -> bool:
        """Whether every file that the run left, and of the models that it shares, is still as it was."""
        try:
            noted = self.read_json(MANIFEST)
            addresses = self.addresses(key for key in noted if key)
        except (FileNotFoundError, ValueError, TypeError):
            return False
        return intact(noted, addresses)

    def candidates(self) -> list[Candidate]:
        """The handles of `models`; of a finished run those it ended with, though models may be deleted since."""
        if self.done:
            return [Candidate(**handle) for handle in self.read_json(CANDIDATES)]
        return [candidate(model) for model in self.models()]


def candidate(model: LoggedModel) -> Candidate:
    """The handle of a LoggedModel."""
    tags = model.tags
    return Candidate(model.model_id, tags[MODEL], tags[KIND], _step(model), tags[STATUS], tags.get(REASON))


def _step(model: LoggedModel) -> int | None:
    step = model.tags.get(STEP, "None")
    return int(step) if step.isdigit() else None


def slug(name: str) -> str:
    """A name that a LoggedModel accepts: it refuses / : . % and quotes."""
    return re.sub(r"[^\w-]+", "-", name).strip("-")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if not isinstance(value, Mapping):
            yield f"{prefix}{key}", value
        elif all(re.fullmatch(r"[\w. -]+", str(name)) for name in value):  # MLflow refuses other names of params
            yield from _flat(value, f"{prefix}{key}.")
        else:  # such as the category Home & Garden
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False, default=str)

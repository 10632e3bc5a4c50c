"""What may be deleted: everything but the lineage of the aliases, the best evaluations, and the last days.

A stage run goes or stays as a whole, with its models, since one that misses a file is not done any more. What stays
takes along what it was made from: an evaluation its models, those the runs that made them, and these their splits.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.cache import remove_unused, unused
from tasks.config.experiment import Experiment
from tasks.locks import is_free
from tasks.paths import PROJECT
from tasks.tracking.claims import alive
from tasks.tracking.runs import DIGEST, MADE_FROM, MODEL, MODEL_ID, PARENT, SERVABLE, STAGE
from tasks.tracking.store import LOCKS, connect, experiment_id, fetch, forget, listing, local_path, pages

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

DAY = 86_400_000  # milliseconds


@dataclass
class Plan:
    """What would be deleted, and how many bytes of files that is; `kept` counts the stage runs that stay, by why."""

    runs: list[Run] = field(default_factory=list)
    models: list[LoggedModel] = field(default_factory=list)
    versions: list[ModelVersion] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    cached: list[Path] = field(default_factory=list)
    unused_since: float = 0  # seconds: cached folders not used since this time are deleted
    bytes: int = 0
    kept: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        stages = [run for run in self.runs if STAGE in run.data.tags]
        counts = {"stage runs": len(stages), "models": len(self.models)}
        counts |= {"versions without an alias": len(self.versions)}
        counts |= {"work folders, locks and folders of the cache": len(self.folders) + len(self.cached)}
        what = ", ".join(f"{count} {name}" for name, count in counts.items())
        stay = ", ".join(f"{count} {why}" for why, count in self.kept.items())
        names = [f"  {run.info.run_name}, {_date(run)}, {run.info.status}" for run in stages]
        return "\n".join([*names, f"{what}: {self.bytes / 1e6:.1f} MB. Stage runs that stay: {stay or 'none'}."])


def plan(experiment: Experiment) -> Plan:
    """What the conf's `gc` would delete now."""
    ledger = Ledger(experiment)
    kept = ledger.kept()
    before = time.time() - experiment.gc.keep_days * DAY / 1000
    found = Plan(kept={why: len(ids) for why, ids in kept.items()}, unused_since=before)
    stay = set().union(*kept.values())
    found.runs = [run for run in ledger.runs if _owner(run) not in stay]
    found.models = [model for model in ledger.models if model.source_run_id not in stay]
    gone = {model.model_id for model in found.models}
    found.versions = [version for version in ledger.versions if version.tags[MODEL_ID] in gone]
    found.folders, found.cached = list(_left_behind(ledger.runs, stay, before)), list(unused(before))
    addresses = [str(run.info.artifact_uri) for run in found.runs]
    addresses += [str(model.artifact_location) for model in found.models]
    found.bytes = sum(sum(listing(address).values()) for address in addresses)
    found.bytes += sum(file.stat().st_size for folder in (*found.folders, *found.cached) for file in _files(folder))
    return found


def delete(experiment: Experiment, found: Plan) -> None:
    """Delete what a plan holds: files for good, and in MLflow by its mark, as its own delete does.

    Files go before the mark, so that what a kill leaves behind is found by the next plan.
    """
    client = connect(experiment)
    for version in found.versions:
        client.delete_model_version(version.name, version.version)
    for model in found.models:
        if MADE_FROM in model.tags:  # nobody shall find a model again whose files are about to go
            client.delete_logged_model_tag(model.model_id, MADE_FROM)
        _remove(model.artifact_location)
        client.delete_logged_model(model.model_id)
    for run in sorted(found.runs, key=lambda run: STAGE in run.data.tags):  # the models before the stage they belong to
        _remove(str(run.info.artifact_uri))
        if run.info.lifecycle_stage == "active":
            client.delete_run(run.info.run_id)
    for folder in found.folders:
        shutil.rmtree(folder, ignore_errors=True) if folder.is_dir() else folder.unlink(missing_ok=True)
    for folder in found.cached:
        remove_unused(folder, found.unused_since)


class Ledger:
    """All that MLflow knows of an experiment, and which of it is still of use."""

    def __init__(self, experiment: Experiment) -> None:
        from mlflow.entities import ViewType

        self.conf, self.client, self.where = experiment.gc, connect(experiment), experiment_id(experiment)
        # Others may log models and nested runs of their own in the same experiment: those bear none of our tags.
        models = pages(lambda token: self.client.search_logged_models([self.where], page_token=token))
        self.models = [model for model in models if MODEL in model.tags]
        runs = list(pages(lambda token: self.client.search_runs([self.where], "", ViewType.ALL, 1000, None, token)))
        ours = [run for run in runs if STAGE in run.data.tags or MODEL_ID in run.data.tags]
        # A run that was deleted in MLflow itself is marked there, and its files are still there.
        self.runs = [run for run in ours if run.info.lifecycle_stage == "active" or listing(run.info.artifact_uri)]
        versions = pages(lambda token: self.client.search_model_versions(page_token=token))
        self.versions = [version for version in versions if MODEL_ID in version.tags]
        # Somebody may have deleted a run in MLflow that a champion was made by: what is needed stays all the same.
        self.known = {run.info.run_id: run for run in runs if STAGE in run.data.tags}
        self.stages = {key: run for key, run in self.known.items() if run.info.lifecycle_stage == "active"}
        self.made_by = {model.model_id: model.source_run_id for model in self.models}

    def kept(self) -> dict[str, set[str]]:
        """The ids of the stage runs that stay, by why; each stands under its first reason alone."""
        since = time.time() * 1000 - self.conf.keep_days * DAY
        recent = {key for key, run in self.stages.items() if _last_seen(run) >= since}
        # A long training, of another machine maybe, began before that, and somebody works on it.
        recent |= alive(self.client, (run for key, run in self.stages.items() if key not in recent))
        found, seen = {}, set()
        reasons = {
            f"of the last {self.conf.keep_days:g} days": recent,
            "behind an alias": self._behind_aliases(),
            f"of the best {self.conf.keep_best} evaluations": self._best(),
        }
        for why, roots in reasons.items():
            found[why] = self._with_origins(roots) - seen
            seen |= found[why]
        return found

    def _behind_aliases(self) -> set[str]:
        """The evaluation that each alias was given by, and the run that made its model."""
        names = {version.name for version in self.versions}
        held = {
            (name, str(number)) for name in names for number in self.client.get_registered_model(name).aliases.values()
        }
        roots = set()
        for version in self.versions:
            if (version.name, str(version.version)) in held:
                roots |= {version.tags.get("evaluation"), self.made_by.get(version.tags[MODEL_ID])}
        return roots - {None}

    def _best(self) -> set[str]:
        """Of each dataset, the evaluations whose best model has the least error."""
        errors: dict[str, list[tuple[float, str]]] = {}
        for key, run in self.stages.items():
            rows = [row for row in self._board(run).get("rows", []) if row["kind"] in SERVABLE and row.get("mae")]
            if rows:
                data = run.data.params.get("dataset", "")
                errors.setdefault(data, []).append((min(row["mae"] for row in rows), key))
        return {key for ranked in errors.values() for _, key in sorted(ranked)[: self.conf.keep_best]}

    def _with_origins(self, roots: Iterable[str]) -> set[str]:
        """The runs, those that made the models of an evaluation among them, and the splits of all."""
        found, pending = set(), list(roots)
        while pending:
            key = pending.pop()
            if key in found:
                continue
            found.add(key)
            if key not in self.known:  # deleted for good, by MLflow's own gc: its models stay
                continue
            run = self.known[key]
            board = self._board(run)
            models = {row["model_id"] for row in (*board.get("rows", []), *board.get("curve", []))}
            if run.info.status == "RUNNING":
                models = self._read_by(run)
            pending += [self.made_by[model_id] for model_id in models & self.made_by.keys()]
            pending += self._splits(run.data.params.get("dataset"), board.get("dataset", {}).get("path", ""))
        return found

    def _read_by(self, run: Run) -> set[str]:
        """The models that a run which has no leaderboard yet noted as read."""
        inputs = self.client.get_run(run.info.run_id).inputs  # a search does not give these
        return {use.model_id for use in inputs.model_inputs} if inputs else set()

    def _splits(self, content: str | None, path: str) -> Iterator[str]:
        """The runs that hold splits of this content: the one that was read, and the newest of each conf and code."""
        newest: dict[str, str] = {}
        for key, run in sorted(self.known.items(), key=lambda item: item[1].info.start_time):
            if run.data.tags[STAGE] != "curate" or run.info.status != "FINISHED":
                continue
            place = local_path(run.info.artifact_uri) or run.info.artifact_uri
            if path.startswith(f"{place}/"):
                yield key
            if key in self.stages and any(use.dataset.digest == content for use in run.inputs.dataset_inputs):
                newest[run.data.tags[DIGEST]] = key
        yield from newest.values()

    def _board(self, run: Run) -> dict[str, Any]:
        if run.data.tags[STAGE] != "evaluate" or run.info.status != "FINISHED":
            return {}
        try:
            return json.loads(fetch(f"{run.info.artifact_uri}/leaderboard.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}


def _left_behind(runs: list[Run], stay: set[str], before: float) -> Iterator[Path]:
    """Work folders of trainings of this ledger that nobody will go on with, and locks that nobody held since then."""
    over = {run.info.run_id for run in runs if run.info.run_id not in stay or run.info.status == "FINISHED"}
    yield from (folder for folder in (PROJECT / "mlruns" / "work").glob("*") if folder.name in over)
    for lock in LOCKS.glob("*.lock"):
        if lock.stat().st_mtime < before and is_free(lock):
            yield from (lock, lock.with_suffix(".pid"))


def _owner(run: Run) -> str:
    """The stage run that a run is, or is a model of."""
    return run.data.tags.get(PARENT, run.info.run_id)


def _last_seen(run: Run) -> int:
    return max(run.info.start_time, run.info.end_time or 0)


def _date(run: Run) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(run.info.start_time / 1000))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in [folder, *folder.rglob("*")] if path.is_file())


def _remove(uri: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    forget(uri)
    place = local_path(uri)
    if place is not None:
        shutil.rmtree(place, ignore_errors=True)
    elif listing(uri):
        get_artifact_repository(uri).delete_artifacts()

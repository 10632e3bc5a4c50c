"""What a stage left behind, file by file: by this a finished run is known to be whole."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.digests import file_digest
from tasks.store import local_path

if TYPE_CHECKING:
    from tasks.tracking import StageRun

MANIFEST = "manifest.json"
REWRITTEN = {MANIFEST, "report.html"}  # the report is made again when the registry's marks change


def manifest(run: StageRun) -> dict[str, dict[str, str]]:
    """The files of a run, under "", and of each of its models, under its id."""
    places = {"": run.run.info.artifact_uri, **{model.model_id: model.artifact_location for model in run.models()}}
    return {key: _contents(place) for key, place in places.items()}


def intact(run: StageRun) -> bool:
    """Whether every file that the run left is still as its manifest says."""
    try:
        manifest = run.read_json(MANIFEST)
        places = {model.model_id: model.artifact_location for model in run.models()}
        places[""] = run.run.info.artifact_uri
        return all(_contents(places[key]).items() >= files.items() for key, files in manifest.items())
    except Exception as error:  # whatever MLflow raises for what is gone: the stage is then not done
        logging.getLogger("pricewright").info("The earlier %s run is not whole: %s", run.stage, error)
        return False


def _contents(place: str) -> dict[str, str]:
    """The files of an artifact location: by sha256 where they lie on this machine, by size elsewhere."""
    local = local_path(place)
    if local is not None:
        files = [path for path in local.rglob("*") if path.is_file() and path.name not in REWRITTEN]
        return {path.relative_to(local).as_posix(): file_digest(path) for path in sorted(files)}
    import mlflow

    found, pending = {}, [""]
    while pending:
        for info in mlflow.artifacts.list_artifacts(artifact_uri=f"{place}/{pending.pop()}".rstrip("/")):
            if info.is_dir:
                pending.append(info.path)
            elif Path(info.path).name not in REWRITTEN:
                found[info.path] = str(info.file_size)
    return found

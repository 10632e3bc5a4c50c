"""What a stage left behind, file by file: by this a finished run is known to be whole."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.digests import file_digest
from tasks.store import fetch, forget, listing, local_path

if TYPE_CHECKING:
    from tasks.tracking import StageRun

MANIFEST = "manifest.json"
REWRITTEN = {MANIFEST, "report.html"}  # the report is made again when the registry's marks change


def manifest(run: StageRun) -> dict[str, dict[str, str]]:
    """The files of a run, under "", and of each of its models, under its id."""
    places = {"": run.run.info.artifact_uri, **{model.model_id: model.artifact_location for model in run.models()}}
    return {key: _contents(place) for key, place in places.items()}


def intact(run: StageRun) -> bool:
    """Whether every file that the run left is still as its manifest says.

    Only what is gone or changed says no; a store that cannot be reached raises, since nothing is known of it.
    """
    try:
        manifest = run.read_json(MANIFEST)
        places = {model.model_id: model.artifact_location for model in run.models()}
        places[""] = run.run.info.artifact_uri
        return all(_as_noted(places[key], files) for key, files in manifest.items())
    except (FileNotFoundError, KeyError, ValueError, AttributeError) as error:
        logging.getLogger("pricewright").info("The earlier %s run is not whole: %s", run.stage, error)
        return False


def _as_noted(place: str, files: dict[str, str]) -> bool:
    if _contents(place).items() >= files.items():
        return True
    forget(place)  # where it lies elsewhere, it may be the copy here that is damaged
    return local_path(place) is None and _contents(place).items() >= files.items()


def _contents(place: str) -> dict[str, str]:
    """The sha256 of the files of an artifact location, as they can be had from there."""
    names = [name for name in listing(place) if Path(name).name not in REWRITTEN]
    if not names:
        return {}
    folder = fetch(place)
    return {name: file_digest(folder / name) for name in names}

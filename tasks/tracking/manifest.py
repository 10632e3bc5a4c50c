"""What a stage left behind, file by file: by this a finished run is known to be whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.digests import as_noted, file_digest
from tasks.tracking.store import fetch, forget, gone_as_file_not_found, listing, local_path, model_address

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

MANIFEST = "manifest.json"
REWRITTEN = {MANIFEST, "report.html"}  # the report is made again when the registry's marks change


Manifest = dict[str, dict[str, str]]
"""The sha256 of every file, by its name, of a run (under "") and of each of its models (under its id)."""


def manifest(addresses: Mapping[str, str]) -> Manifest:
    """What lies at the artifact locations of a run ("") and of its models (by id)."""
    return {key: _contents(address) for key, address in addresses.items()}


def intact(noted: Manifest, addresses: Mapping[str, str]) -> bool:
    """Whether every file of a manifest is still as it says.

    Only what is gone or changed says no; a store that cannot be reached raises, since nothing is known of it.
    """
    try:
        return all(_is_as_noted(addresses[key], files) for key, files in noted.items())
    except (FileNotFoundError, KeyError, AttributeError):
        return False


def is_whole(client: MlflowClient, model: LoggedModel) -> bool:
    """Whether every file of a LoggedModel is as the run that made it noted it; where that noted nothing, since it did
    not end or is gone, whether there are any."""
    address = str(model.artifact_location)
    try:
        with gone_as_file_not_found():
            uri = client.get_run(str(model.source_run_id)).info.artifact_uri
        noted = json.loads(fetch(f"{uri}/{MANIFEST}").read_text(encoding="utf-8"))[model.model_id]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return bool(listing(model_address(client, model.model_id)))
    return intact({model.model_id: noted}, {model.model_id: address})


def _is_as_noted(address: str, files: dict[str, str]) -> bool:
    if as_noted(_contents(address), files):
        return True
    forget(address)  # where it lies elsewhere, it may be the copy here that is damaged
    return local_path(address) is None and as_noted(_contents(address), files)


def _contents(address: str) -> dict[str, str]:
    """The sha256 of the files of an artifact location, as they can be had from there."""
    names = [name for name in listing(address) if Path(name).name not in REWRITTEN]
    if not names:
        return {}
    folder = fetch(address)
    return {name: file_digest(folder / name) for name in names}

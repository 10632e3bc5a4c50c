"""A checkout that was moved or copied: MLflow notes absolute addresses, and here they are made to follow the folder."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tasks.paths import local_path
from tasks.progress import say

# Where a database of MLflow notes addresses; in the last one among other things.
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("datasets", "dataset_source"),
)


def follow(folder: Path) -> bool:
    """Let the addresses in `<folder>/mlflow.db` name this folder, if they name another one and what its runs left lies
    here: it was moved or copied from there; whether they did. A copy whose addresses stayed would write into the
    original, and delete there."""
    database, artifacts = folder / "mlflow.db", folder / "artifacts"
    if not database.is_file() or not artifacts.is_dir():
        return False
    with closing(sqlite3.connect(database, timeout=60)) as store, store:
        store.execute("BEGIN IMMEDIATE")  # two commands that start at once: the second one finds it done
        try:
            rows = store.execute("SELECT artifact_location FROM experiments").fetchall()
        except sqlite3.OperationalError:  # a database that is being made
            return False
        paths = [path for (address,) in rows if address and (path := local_path(address)) is not None]
        # MLflow's own experiment `Default` may name the folder that the first command was started in.
        noted = {path.parent for path in paths if path.name == artifacts.name}
        others = [
            old
            for old in noted
            if old.name == folder.name
            and old != folder
            and not _is_in(old, database)
            and _lies_here(store, old, folder)
        ]
        for old in others:
            store.create_function("here", 1, _here(old, folder), deterministic=True)
            for table, column in ADDRESSES:
                if column in {name for _, name, *_ in store.execute(f"PRAGMA table_info({table})")}:
                    store.execute(f"UPDATE {table} SET {column} = here({column}) WHERE {column} != here({column})")
    for old in others:
        say(f"The store was moved or copied here from {old}: its addresses now name {folder}.")
    return bool(others)


def _is_in(folder: Path, database: Path) -> bool:
    """Whether this very database lies in a folder too, as where one of the two folders is a link to the other."""
    try:
        return (folder / database.name).samefile(database)
    except OSError:  # it is gone, or another user's
        return False


def _lies_here(store: sqlite3.Connection, old: Path, folder: Path) -> bool:
    """Whether what runs left in one folder is in another: tracking.artifacts may name a place that was never ours."""
    left = [path for (uri,) in store.execute("SELECT artifact_uri FROM runs") if (path := local_path(uri)) is not None]
    there = [path.relative_to(old) for path in left if path.is_relative_to(old)]
    return not there or any((folder / path).exists() for path in there)


def _here(old: Path, folder: Path) -> Callable[[str | None], str | None]:
    """What an address in one folder is in another: at the start of a text, or of a string of JSON, and nowhere else, as
    the path of one folder may end in that of the other."""
    names = {old.as_uri(): folder.as_uri(), str(old): str(folder)}
    address = re.compile(rf'(^|")({"|".join(map(re.escape, names))})(?=/)')
    return lambda text: text and address.sub(lambda found: found[1] + names[found[2]], text)

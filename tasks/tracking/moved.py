"""A checkout that was moved: MLflow notes absolute addresses, and here they are made to follow the folder."""

from __future__ import annotations

import sqlite3
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
    """Let the addresses in `<folder>/mlflow.db` name this folder, if they name another one that is gone; whether they
    did. A store that was copied still names what it was copied from, as long as that is there."""
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
        # MLflow's own experiment `Default` names the folder that the first command was started in.
        noted = {path.parent for path in paths if path.name == artifacts.name}
        gone = [old for old in noted if old.name == folder.name and old != folder and not old.exists()]
        for old in gone:
            for table, column in ADDRESSES:
                if column in {name for _, name, *_ in store.execute(f"PRAGMA table_info({table})")}:
                    for before, after in ((old.as_uri(), folder.as_uri()), (str(old), str(folder))):
                        store.execute(
                            f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)",
                            (f"{before}/", f"{after}/", f"{before}/"),
                        )
    for old in gone:
        say(f"The store was moved here from {old}: its addresses now name {folder}.")
    return bool(gone)

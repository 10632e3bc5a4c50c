"""Folders that are made once in a user's cache: whole, or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.digests import COMPLETE, is_whole, mark_whole
from tasks.locks import is_free, locked
from tasks.paths import cache_folder

DAY = 86_400  # seconds


def cached(target: Path, make: Callable[[Path], None]) -> Path:
    """The folder `target`, which `make` fills first if it is not whole; another process that makes it is waited for."""
    if not _is_whole(target):
        with locked(
            target.with_name(f"{target.name}.lock"), notice=f"Another process is making {target.name}; waiting."
        ):
            if not _is_whole(target):
                # A temporary name and a rename, so that a kill leaves nothing half made that looks whole.
                temporary = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
                try:
                    make(temporary)
                    mark_whole(temporary)
                    shutil.rmtree(target, ignore_errors=True)
                    temporary.rename(target)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
    used(target)
    return target


def used(target: Path) -> None:
    """Note on a folder of the cache that it is of use now, as its time of change; see `unused`."""
    with contextlib.suppress(OSError):  # a cache that others keep
        os.utime(target)


def unused(before: float) -> Iterator[Path]:
    """What can be made or fetched again, and was not used since a time in seconds, nor in the last day: converted
    models, opinions, vectors and copies of data, each with its lock. Answers of an API have cost money and stay."""
    before, cache = min(before, time.time() - DAY), cache_folder()
    found = [folder for kind in ("*", "opinions/*", "vectors/*") for folder in cache.glob(kind) if _is_made(folder)]
    for folder in sorted([*found, *(path for path in cache.glob("data/*") if path.is_dir())]):
        lock = folder.with_name(f"{folder.name}.lock")
        if folder.stat().st_mtime < before and is_free(lock):
            yield folder
            yield from (path for path in (lock, lock.with_suffix(".pid")) if path.exists())


def _is_made(folder: Path) -> bool:
    """Whether `cached` made it, whole or not."""
    return (folder / COMPLETE).is_file()


def _is_whole(target: Path) -> bool:
    """Whether every file is as it was made; read in full once a process, since a model is large."""
    if target not in _known_whole and is_whole(target):
        _known_whole.add(target)
    return target in _known_whole and _is_made(target)  # it may have gone as unused, from under a training of days


_known_whole: set[Path] = set()

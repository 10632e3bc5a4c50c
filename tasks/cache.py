"""Folders that are made once in a user's cache: whole, or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.digests import COMPLETE, is_whole, mark_whole
from tasks.locks import LockedError, is_free, locked
from tasks.paths import cache_folder

DAY = 86_400  # seconds
PART = ".part"  # behind the name of a folder that is being made


def cached(target: Path, make: Callable[[Path], None]) -> Path:
    """The folder `target`, which `make` fills first if it is not whole; another process that makes it is waited for."""
    if not _is_whole(target):
        with locked(
            target.with_name(f"{target.name}.lock"), notice=f"Another process is making {target.name}; waiting."
        ):
            if not _is_whole(target):
                # Another name and a rename, so that a kill leaves nothing half made that looks whole. One killed before
                # may have left this: whoever holds the lock is the only one to write it.
                part = target.with_name(f"{target.name}{PART}")
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
                try:
                    make(part)
                    mark_whole(part)
                    shutil.rmtree(target, ignore_errors=True)
                    part.rename(target)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    used(target)
    return target


def used(target: Path) -> None:
    """Note on a folder of the cache that it is of use now, as its time of change; see `unused`."""
    with contextlib.suppress(OSError):  # a cache that others keep
        os.utime(target)


def unused(before: float) -> Iterator[Path]:
    """Folders that can be made or fetched again, and were not used since a time in seconds, nor in the last day:
    converted models, opinions, vectors and copies of data. Answers of an API have cost money and stay."""
    cache = cache_folder()
    made = [path for kind in ("*", "opinions/*", "vectors/*") for path in cache.glob(kind) if _is_made(path)]
    fetched = [path for path in cache.glob("data/*") if path.is_dir()]
    yield from (folder for folder in sorted([*made, *fetched]) if _is_unused(folder, before))


def remove_unused(folder: Path, before: float) -> None:
    """Remove one of these with its lock, unless somebody has begun to use it meanwhile, or was quicker."""
    lock = _lock_of(folder)
    with contextlib.suppress(FileNotFoundError, LockedError), locked(lock, wait=False):
        if _is_old(folder, before):
            shutil.rmtree(folder, ignore_errors=True)
            lock.with_suffix(".pid").unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def _is_unused(folder: Path, before: float) -> bool:
    return _is_old(folder, before) and is_free(_lock_of(folder))


def _is_old(folder: Path, before: float) -> bool:
    return folder.stat().st_mtime < min(before, time.time() - DAY)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name.removesuffix(PART)}.lock")


def _is_made(folder: Path) -> bool:
    """Whether `cached` made it, or began to."""
    return (folder / COMPLETE).is_file() or (folder.name.endswith(PART) and folder.is_dir())


def _is_whole(target: Path) -> bool:
    """Whether every file is as it was made; read in full once a process, since a model is large."""
    if target not in _known_whole and is_whole(target):
        _known_whole.add(target)
    return target in _known_whole and _is_made(target)  # it may have gone as unused, from under a training of days


_known_whole: set[Path] = set()

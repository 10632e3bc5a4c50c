"""Locks between processes of this machine. The operating system releases them, however their process ends."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.progress import say


class LockedError(Exception):
    """Another process holds a lock; its message says which process, where that is known."""


@contextmanager
def locked(file: Path, *, wait: bool = True, notice: str | None = None) -> Generator[None]:
    """Hold the lock of a file. If another process holds it, `notice` is said, and this one waits.

    Raises:
        LockedError: another process holds it, and `wait` is False.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = _holder(file)
        if not wait:
            raise LockedError(f"{holder} holds {file.stem}") from None
        if notice:
            say(f"{notice} ({holder})")
        lock.acquire()
    try:
        file.with_suffix(".pid").write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        lock.release()


def is_free(file: Path) -> bool:
    """Whether nobody holds the lock of a file."""
    if not file.exists():
        return True
    try:
        with FileLock(file, timeout=0):
            return True
    except Timeout:
        return False


def _holder(file: Path) -> str:
    with suppress(OSError):
        return f"process {file.with_suffix('.pid').read_text(encoding='utf-8')}"
    return "another process"

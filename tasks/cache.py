"""Folders that are made once in a user's cache: whole, or not there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tasks.digests import is_whole, mark_whole
from tasks.locks import locked


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
    return target


def _is_whole(target: Path) -> bool:
    """Whether every file is as it was made; read in full once a process, since a model is large."""
    if target not in _known_whole and is_whole(target):
        _known_whole.add(target)
    return target in _known_whole


_known_whole: set[Path] = set()

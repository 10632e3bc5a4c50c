"""Checkpoints on disk: which of them are whole, and when one more is written."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tasks.digests import is_whole, mark_whole
from tasks.tracking.runs import StageRun

KEEP = 2  # checkpoints on disk: the last, and the one before it in case the last turns out damaged
FOLDER = "checkpoints"  # of a run, where they are kept in the store


def finish_checkpoint(checkpoint: Path) -> None:
    """Mark a checkpoint as whole and remove older ones."""
    mark_whole(checkpoint)
    for old in _by_step(checkpoint.parent)[:-KEEP]:
        shutil.rmtree(old)


def last_whole_checkpoint(work: Path) -> Path | None:
    """The latest checkpoint whose files are all as they were written; later ones that are not are removed."""
    for checkpoint in reversed(_by_step(work)):
        if is_whole(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def keep_in_store(run: StageRun, checkpoint: Path) -> None:
    """Keep a whole checkpoint with its run as well, where another machine finds it; older ones go from there."""
    run.log_folder(checkpoint, f"{FOLDER}/{checkpoint.name}")
    for old in _in_store(run)[:-KEEP]:
        run.delete_folder(f"{FOLDER}/{old}")


def bring(run: StageRun, work: Path) -> None:
    """Fetch the last whole checkpoint of a run that was kept in the store, unless a later one is on this disk."""
    here = last_whole_checkpoint(work)
    for name in reversed(_in_store(run)):
        if here is not None and _step(name) <= _step(here.name):
            return
        run.fetch_folder(f"{FOLDER}/{name}", work / name)
        if is_whole(work / name):
            return
        shutil.rmtree(work / name)  # a machine was lost while it wrote it


def forget_checkpoints(run: StageRun) -> None:
    """Remove from the store what only a training that is not done needs."""
    if _in_store(run):
        run.delete_folder(FOLDER)


def _in_store(run: StageRun) -> list[str]:
    """The names of the checkpoints that a run keeps in the store, by step."""
    return sorted({Path(file).parts[1] for file in run.files(FOLDER)}, key=_step)


def _step(name: str) -> int:
    return int(name.rpartition("-")[2])


def _by_step(work: Path) -> list[Path]:
    return sorted(work.glob("checkpoint-*[0-9]"), key=lambda folder: _step(folder.name))


class Interruption:
    """Puts SIGTERM and Ctrl-C off until what was trained since the last checkpoint is in one, and then obeys.

    A signal that finds everything saved already, and the second one, are obeyed at once. Obeying is left to the handler
    that was there before: Prefect's ends the flow run, Python's raises KeyboardInterrupt, and where there is none
    SystemExit is raised, so that the stage is closed either way. Outside the main thread nothing can be put off.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.unsaved = False  # whether a step was begun since the last checkpoint
        self.asked: int | None = None
        self.before: dict[int, Any] = {}

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Listen to the signals for as long as the block runs; to none that is ignored, as in a shell's background."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [number for number in self.SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._hear) for number in heard}
        try:
            yield
        finally:
            self._restore()

    def saved(self) -> None:
        """Say that a checkpoint is whole: the moment to leave, if that was asked for."""
        self.unsaved = False
        if self.asked is not None:
            self._obey(self.asked, None)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self.unsaved or self.asked is not None:
            self._obey(number, frame)
        self.asked = number
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\n  Interrupted: this step is finished and saved first. Once more, and it is not.\n")

    def _obey(self, number: int, frame: FrameType | None) -> None:
        before = self.before.get(number)
        self._restore()
        if callable(before):
            before(number, frame)
        raise SystemExit(128 + number)

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

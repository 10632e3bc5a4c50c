"""Progress of whatever takes longer than two seconds, on standard error: the stage, what, how far, how long still."""

from __future__ import annotations

import shutil
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Self

QUIET = 2.0  # seconds in which nothing is said: most work is done by then
RENEWED, REPEATED = 1.0, 300.0  # seconds between two looks of a terminal's line, and between two lines of a log
CLEAR = "\r\x1b[K"  # to the start of the line, and away with what stands there


class Outlook:
    """Which stage is at work, and how long the run still takes by what its stages took the last time.

    `ahead` holds the seconds of the stages that are still to come, None for one that was never timed.
    """

    def __init__(self) -> None:
        self.stage, self.ahead = "", {}
        self._usual: float | None = None
        self._since = 0.0

    def expect(self, took: Mapping[str, float | None]) -> None:
        """The stages of this run in their order, and the seconds that each took the last time."""
        self.ahead = dict(took)

    def skip(self, stage: str) -> None:
        """A stage turned out to be done."""
        self.ahead.pop(stage, None)

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Within it, the stage is at work."""
        self._usual, self.stage, self._since = self.ahead.pop(stage, None), stage, time.monotonic()
        try:
            yield
        finally:
            self.stage, self._usual = "", None

    def left(self, piece: float | None) -> tuple[float | None, float | None]:
        """Seconds that the stage, and the whole run, still take, where its present piece of work takes so many; None
        where nobody knows."""
        usual = None if self._usual is None else self._usual - (time.monotonic() - self._since)
        known = [seconds for seconds in (piece, usual) if seconds is not None and seconds > 0]
        stage = max(known, default=None)
        if stage is None or not self.ahead or any(seconds is None for seconds in self.ahead.values()):
            return stage, None
        return stage, stage + sum(seconds for seconds in self.ahead.values() if seconds is not None)


outlook = Outlook()


class Progress:
    """A line for a piece of work: in a terminal it renews itself, in a log it stands at the start, at the end and every
    five minutes. Of pieces within each other only the innermost has a terminal's line.

    Whoever else wants to know is one of `watchers`, called as often as a terminal's line is renewed by an advance.
    """

    watchers: ClassVar[list[Callable[[Progress], None]]] = []
    _open: ClassVar[list[weakref.ref[Progress]]] = []
    _writing: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, what: str, total: int | None = None, unit: str = "", done: int = 0) -> None:
        self.what, self.total, self.unit, self.done, self.before = what, total, unit, done, done
        self.start = time.monotonic()
        self.live = sys.stderr.isatty()
        self.due = self.said = self.start + QUIET  # for watchers, and for whoever reads
        self.shown, self._ended = False, threading.Event()
        self._open.append(weakref.ref(self))
        threading.Thread(target=_renew, args=(weakref.ref(self), self._ended), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._writing:
            self._ended.set()
            if self.shown or time.monotonic() > self.due:
                self._say(last=kind is None)
        if self.shown:
            self._tell()
        self._open[:] = [other for other in self._open if other() not in (self, None)]

    def advance(self, steps: int = 1) -> None:
        """Say that so many more are done."""
        self.update(self.done + steps)

    def update(self, done: int) -> None:
        """Say how many are done in all."""
        self.done = done
        if (now := time.monotonic()) >= self.due:
            self.due = now + RENEWED
            self._tell()

    def _tell(self) -> None:
        for watcher in self.watchers:
            watcher(self)

    def renew(self) -> None:
        """Say it again, if it is time."""
        now = time.monotonic()
        inner = next((one for other in reversed(self._open) if (one := other()) is not None), self)
        with self._writing:
            if now >= self.said and (inner is self or not self.live) and not self._ended.is_set():
                self.said = now + (RENEWED if self.live else REPEATED)
                self._say()

    def _say(self, *, last: bool = False) -> None:
        line = f"  {self._where()}{self.what}: {', '.join(self._parts(last=last))}"
        if self.live:
            line = line[: shutil.get_terminal_size().columns - 1]  # a line that wraps cannot be taken back
            print(f"{CLEAR}{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
        self.shown = True

    def _where(self) -> str:
        return f"{outlook.stage}, " if outlook.stage else ""

    def _parts(self, *, last: bool) -> list[str]:
        elapsed = time.monotonic() - self.start
        count = (
            f"{self.done:,}" + (f" of {self.total:,}" if self.total else "") + (f" {self.unit}" if self.unit else "")
        )
        if last:
            return [count, f"in {clock(elapsed)}"]
        piece = None
        if self.total and self.done > self.before:
            piece = elapsed * (self.total - self.done) / (self.done - self.before)
        stage, run = outlook.left(piece)
        parts = [count, f"{clock(stage)} left" if stage is not None else f"for {clock(elapsed)}"]
        return [*parts, *([f"{clock(run)} for the whole run"] if run is not None else [])]


def _renew(progress: weakref.ref[Progress], ended: threading.Event) -> None:
    """Renew the line of a piece of work until that has ended, or nobody has it any more."""
    while (one := progress()) is not None:
        wait = max(0.05, one.said - time.monotonic())
        del one
        if ended.wait(min(wait, RENEWED)):
            return
        if (one := progress()) is not None:
            one.renew()
        del one


def say(text: str) -> None:
    """A line for the user, on standard error: the one channel for what a user must know and no script wants."""
    print(f"{CLEAR if sys.stderr.isatty() else ''}  {text}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

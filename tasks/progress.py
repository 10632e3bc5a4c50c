"""Progress of whatever takes longer than two seconds, on standard error: what, how far, how long still."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import ClassVar, Self


class Progress:
    """A line that is rewritten in a terminal, and repeated every ten seconds elsewhere; silent for two seconds.

    Whoever else wants to know is one of `watchers`, called as often as the line is written.
    """

    watchers: ClassVar[list[Callable[[Progress], None]]] = []

    def __init__(self, what: str, total: int | None = None, unit: str = "", done: int = 0) -> None:
        self.what, self.total, self.unit, self.done, self.before = what, total, unit, done, done
        self.start = time.monotonic()
        self.live = sys.stderr.isatty()
        self.due = self.start + 2
        self.shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.shown or time.monotonic() > self.due:
            self._show(last=kind is None)

    def advance(self, steps: int = 1) -> None:
        """Say that so many more are done."""
        self.update(self.done + steps)

    def update(self, done: int) -> None:
        """Say how many are done in all."""
        self.done = done
        now = time.monotonic()
        if now >= self.due:
            self.due = now + (0.2 if self.live else 10)
            self._show()

    def _show(self, *, last: bool = False) -> None:
        elapsed = time.monotonic() - self.start
        parts = [f"{self.done:,}" + (f"/{self.total:,}" if self.total else "") + (f" {self.unit}" if self.unit else "")]
        if last:
            parts.append(f"in {clock(elapsed)}")
        elif self.total and self.done > self.before:
            left = elapsed * (self.total - self.done) / (self.done - self.before)
            parts.append(f"{clock(left)} left")
        line = f"  {self.what}: {', '.join(parts)}"
        if self.live:
            print(f"\r\x1b[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
        self.shown = True
        for watcher in self.watchers:
            watcher(self)


def say(text: str) -> None:
    """A line for the user, on standard error: the one channel for what a user must know and no script wants."""
    print(f"  {text}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

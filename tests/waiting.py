"""Waiting for what other processes do: for events, never for a time. The ends are for what will never come.

A machine that does ten other things takes ten times as long as an idle one; no test may depend on that.
"""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PATIENCE = 1800  # seconds
# Seconds between two looks, three times those that a look takes: one that asks a server takes processor time from it.
BETWEEN, AT_MOST, TIMES = 0.05, 0.25, 3
# As `sitecustomize.py` of another process: it stands still after a function has done its work, for as long as there is
# a file, and says so on standard error; STAND_STILL_AFTER says `module:function@file`, several with spaces between.
# So what is to come in the middle of a stage does, however fast the stage is.
STANDING_STILL = """
import functools, importlib, os, time
def still_after(whole, place, *arguments, **named):
    answer = whole(*arguments, **named)
    os.path.exists(place) and os.write(2, b"It stands still.\\n")
    while os.path.exists(place):
        time.sleep(0.05)
    return answer
for word in os.environ.get("STAND_STILL_AFTER", "").split():
    function, _, place = word.partition("@")
    if os.path.exists(place):
        module, _, name = function.partition(":")
        module = importlib.import_module(module)
        setattr(module, name, functools.partial(still_after, getattr(module, name), place))
"""
Seen = TypeVar("Seen")


def until(what: Callable[[], Seen], process: subprocess.Popen | None = None, log: Path | None = None) -> Seen:
    """Wait until something is true, for as long as a process lives; returns it. The log says why the process ended."""
    end = time.monotonic() + PATIENCE
    while True:
        began = time.monotonic()
        if value := what():
            return value
        said = log.read_text(errors="replace")[-2000:] if log else ""
        assert process is None or process.poll() is None, f"the process ended: {said}"
        assert time.monotonic() < end, f"it never came: {said}"
        time.sleep(min(max(BETWEEN, TIMES * (time.monotonic() - began)), AT_MOST))


def answers(url: str) -> bool:
    """Whether a server answers; one that is just starting may refuse the connection, or say 503."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status == 200
    except OSError:
        return False


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stop(process: subprocess.Popen) -> int:
    """End a process as a service manager does; returns its exit status."""
    process.terminate()
    return process.wait(PATIENCE)

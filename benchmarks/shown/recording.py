"""A recording of the terminal: commands run for real in a terminal of 100 columns, as asciinema keeps it and as a page.

    python -m benchmarks.shown.recording [--skip-run] [-c CONF] [key=value ...]

Writes docs/recordings/first-hour.cast (asciinema's format, version 2: `asciinema play FILE`), with the pauses cut to
two seconds. What it shows is what the store of the conf makes it show: in an empty one the run is a whole one.
benchmarks.shown.pictures makes a picture of the end of it.
"""

from __future__ import annotations

import argparse
import codecs
import html
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.config.loading import DEFAULT_CONF
from tasks.data.catalogue import generate
from tasks.paths import PROJECT

CAST = PROJECT / "docs" / "recordings" / "first-hour.cast"
COLUMNS, LINES, PAUSE = 100, 40, 2.0
TEXT = "Plimtar wiper blade, 18 inch, pack of 4"
GOODS = "waren.csv"  # what `init` looks at: a shop's export in another language
Event = tuple[float, str]  # seconds since the start, and what was written then


def export(folder: Path) -> None:
    """Write a shop's export with a German head, decimal commas and a sign behind the prices."""
    lines = ["Artikel;Bezeichnung;Beschreibung;Preis"]
    for number, row in enumerate(generate(120, seed=11)):
        words = " ".join([*row.get("features", []), *row.get("description", [])]).replace(";", ",")
        price = f"{row['price']:.2f}".replace(".", ",")
        lines.append(f"A{number:04};{row['title'].replace(';', ',')};{words};{price} €")
    (folder / GOODS).write_text("\n".join(lines), encoding="cp1252")


def played(words: Sequence[str], folder: Path) -> Iterator[Event]:
    """What a command writes into a terminal of its own, and when.

    Raises:
        SystemExit: the command failed.
    """
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": str(LINES), "TERM": "xterm-256color"}
    environment["PYTHONPATH"] = str(PROJECT)
    command = [sys.executable, "-m", "flows.cli", *words]
    streams = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(command, cwd=folder, env=environment, **streams)
    os.close(theirs)
    start, decoder = time.monotonic(), codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        try:
            written = os.read(ours, 65536)
        except OSError:  # nobody has the terminal any more
            break
        if not written:
            break
        yield time.monotonic() - start, decoder.decode(written)  # a letter may be cut in two
    os.close(ours)
    if process.wait():
        sys.exit(f"{shlex.join(words)} ended with {process.returncode}")


def record(conf: str, overrides: Sequence[str], *, skip_run: bool = False) -> list[Event]:
    """The first hour: a run, unless it is skipped, the leaderboard again, a price, and a look at one's own file."""
    options = ([] if conf == DEFAULT_CONF else ["-c", conf], list(overrides))
    commands = [*([] if skip_run else [["run"]]), ["leaderboard"], ["predict", TEXT], ["init", GOODS]]
    events, now = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder))
        for words in commands:
            shown = shlex.join(["pricewright", *words, *(options[0] if words[0] != "init" else [])])
            events.append((now, f"\x1b[1m$ {shown}\x1b[0m\r\n"))
            before, start = 0.0, now
            hidden = [*options[0], *options[1]] if words[0] != "init" else []
            for at, text in played([*words, *hidden], Path(folder)):
                now = start = start + min(at - before, PAUSE)
                before = at
                events.append((now, text.replace(f"{folder}/", "").replace(f"{PROJECT}/", "")))
            now += PAUSE
            events.append((now, "\r\n"))
    return events


def write(events: Sequence[Event], cast: Path = CAST) -> None:
    """Keep a recording as asciinema does."""
    cast.parent.mkdir(parents=True, exist_ok=True)
    head = {"version": 2, "width": COLUMNS, "height": LINES, "title": "pricewright", "env": {"TERM": "xterm-256color"}}
    lines = [json.dumps(head), *(json.dumps([round(at, 3), "o", text]) for at, text in events)]
    cast.write_text("\n".join([*lines, ""]), encoding="utf-8")


def screen(events: Sequence[Event]) -> list[str]:
    """The lines that stand in the terminal at the end, without colours: a line that was written over is gone."""
    text = re.sub(r"\x1b\[\d*(?:;\d+)*m", "", "".join(text for _, text in events)).replace("\r\n", "\n")
    return [re.split(r"\r(?:\x1b\[K)?", line)[-1].rstrip() for line in text.split("\n")]


def page(events: Sequence[Event]) -> str:
    """The end of the recording as a page."""
    rows = (f"<b>{html.escape(row)}</b>" if row.startswith("$ ") else html.escape(row) for row in screen(events))
    style = "margin:0;padding:20px;background:#16181d;color:#d7dae0;font:14px/1.4 'DejaVu Sans Mono',monospace"
    text = "\n".join(rows).strip()
    return f'<!doctype html><meta charset="utf-8"><body style="margin:0"><pre style="{style}">{text}</pre>'


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--conf", default=DEFAULT_CONF)
    parser.add_argument("--skip-run", action="store_true", help="begin with the leaderboard of a run that is there")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    write(record(arguments.conf, arguments.overrides, skip_run=arguments.skip_run))
    print(CAST)

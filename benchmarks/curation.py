"""How fast curation is, how much memory it takes, and how that compares with the recipe it started from.

    python -m benchmarks.curation [rows] [FOLDER]     (a million by default; about 3 GB of disk for them)

Writes Amazon-shaped rows, gzipped, in eight files; curates them with the recipe's gates, without and with the search
for near duplicates; and cleans a sample of the same rows in the recipe's way: one row at a time in one Python process,
with a tokenizer call for each. Prints a table for docs/benchmarks.md. A FOLDER keeps the rows for the next time.
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import NamedTuple

import orjson
import psutil

from tasks.config.loading import load
from tasks.data import catalogue
from tasks.models.language.base_model import load_tokenizer
from tasks.tracking.store import connect, experiment_id

CONF = "conf/files.yaml"
TOKENIZER = "smollm2-135m"
GATES = (f"data.tokenizer={TOKENIZER}", "data.tokens_min=151", "data.body_min=300", "data.name=benchmark")
SAMPLE = 10_000  # rows in the recipe's way
UNPRICED = 0.25  # of the rows, as in Amazon's metadata many have no price
FULL = 48_000_000  # products in Amazon Reviews 2023


BOILERPLATE = {"Date First Available": "May 2, 2020", "Is Discontinued By Manufacturer": "No"}


def amazon_rows(count: int, seed: int = 1) -> Iterator[dict]:
    """Rows in the shape of Amazon's metadata: titles, prices and details of the generated catalogue, among texts of a
    vocabulary of 20,000 words, in 5% of the rows those of another row with a word in twenty changed."""
    rng = random.Random(seed)
    letters = "bcdfghklmnprstvw"
    words = [
        "".join(rng.choice(letters) + rng.choice("aeiou") for _ in range(rng.randint(1, 4))) for _ in range(20_000)
    ]
    weights = list(accumulate(1 / (rank + 10) for rank in range(len(words))))
    texts: list[list[str]] = []
    for number, row in enumerate(catalogue.generate(count, seed)):
        body = rng.choices(words, cum_weights=weights, k=min(400, max(20, int(rng.lognormvariate(4.9, 0.6)))))
        if texts and rng.random() < 0.05:
            body = [word if rng.random() > 0.05 else rng.choice(words) for word in rng.choice(texts)]
        texts = [*texts[-200:], body]
        third = len(body) // 3
        yield {
            "main_category": row["category"],
            "title": row["title"],
            "average_rating": round(rng.uniform(1, 5), 1),
            "rating_number": rng.randint(1, 5000),
            "features": [" ".join(body[:third]), " ".join(body[third : 2 * third])],
            "description": [*row["description"], " ".join(body[2 * third :])],
            "price": None if rng.random() < UNPRICED else row["price"],
            "images": [{"thumb": f"https://example.com/{number}_{size}.jpg", "variant": "MAIN"} for size in range(4)],
            "store": row["details"].get("Brand"),
            "categories": [row["category"]],
            "details": json.dumps({**row["details"], "Item model number": f"XK{number:08}", **BOILERPLATE}),
            "category": row["category"],
            "parent_asin": f"B{number:09}",
            "id": f"B{number:09}",
        }  # fmt: skip


def write(folder: Path, count: int) -> float:
    """Write the rows, unless they are there; megabytes before compression."""
    noted, size = folder / f"{count}.size", 0
    if noted.exists():
        return int(noted.read_text()) / 1e6
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(gzip.open(folder / f"{n}.jsonl.gz", "wb", compresslevel=1)) for n in range(8)]
        for number, row in enumerate(amazon_rows(count)):
            line = orjson.dumps(row) + b"\n"
            size += len(line)
            files[number % 8].write(line)
    noted.write_text(str(size))
    return size / 1e6


REMOVED = ("Batteries Included?", "Batteries Required?", "By Manufacturer", "Date First", "Best Sellers", "Number of")


def recipe_way(folder: Path, count: int) -> float:
    """Rows a second of cleaning in the recipe's way."""
    tokenizer = load_tokenizer(TOKENIZER)
    lines: list[str] = []
    for file in sorted(folder.glob("*.gz")):
        with gzip.open(file, "rt") as opened:
            lines += islice(opened, count // 8)
    start = time.perf_counter()
    kept = 0
    for line in lines:
        row = json.loads(line)
        try:
            price = float(row["price"])
        except (TypeError, ValueError):
            continue
        contents = "\n".join(row["description"]) + "\n" + "\n".join(row["features"]) + "\n" + row["details"]
        for boilerplate in REMOVED:
            contents = contents.replace(boilerplate, "")
        if not 0.5 <= price <= 999.49 or len(contents) <= 300:
            continue
        parts = []
        for part in (row["title"], contents[: 160 * 7]):
            part = re.sub(r'[:\[\]"{}【】\s]+', " ", part).strip().replace(" ,", ",").replace(",,,", ",")
            parts.append(" ".join(w for w in part.split(" ") if len(w) < 7 or not any(c.isdigit() for c in w)))
        tokens = tokenizer.encode("\n".join(parts), add_special_tokens=False)
        if len(tokens) > 150:
            kept += bool(tokenizer.decode(tokens[:160]))
    return len(lines) / (time.perf_counter() - start)


class Measured(NamedTuple):
    """One curation: seconds of the stage and of the whole command, cores busy, gigabytes of all its processes."""

    stage: float
    command: float
    cores: float
    memory: float
    rows: dict[str, float]


def curate(folder: Path, store: Path, *overrides: str) -> Measured:
    """Curate in a process of its own and measure it."""
    store.mkdir()
    options = [f"tracking.uri=sqlite:///{store}/mlflow.db", f"tracking.artifacts={store}/artifacts"]
    words = ["curate", "-c", CONF, f"data.path={folder}", *GATES, *overrides, *options]
    before, start, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0
    said = store / "stderr.txt"
    with said.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words], stdout=subprocess.DEVNULL, stderr=stderr
        )
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            peak = max(peak, sum(_memory(member) for member in [watched, *watched.children(recursive=True)]))
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"pricewright {' '.join(words)} failed:\n{said.read_text()}")
    seconds, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    experiment = load(CONF, options)
    (run,) = connect(experiment).search_runs([experiment_id(experiment)])
    stage = (run.info.end_time - run.info.start_time) / 1000
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(stage, seconds, busy / seconds, peak / 1e9, run.data.metrics)


def _memory(process: psutil.Process) -> int:
    return getattr(process.memory_full_info(), "pss", process.memory_info().rss)  # shared pages count once


def main(rows: int, kept: str | None = None) -> None:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(kept or temporary) / "rows"
        size = write(folder, rows)
        recipe = recipe_way(folder, min(SAMPLE, rows))
        without = curate(folder, Path(temporary) / "without", "data.near=null")
        near = curate(folder, Path(temporary) / "near")
        again = recipe_way(folder, min(SAMPLE, rows))
    recipe = (recipe + again) / 2  # before and after: other work on the machine hits both
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}: "
          f"`python -m benchmarks.curation {rows}` ({size:,.0f} MB of JSON)\n")  # fmt: skip
    print("| what | without near duplicates | with | reach |\n|---|---|---|---|")
    for name, values, reach in (
        ("rows read a second", [f"{rows / one.stage:,.0f}" for one in (without, near)], ""),
        ("times the recipe's way", [f"{rows / one.stage / recipe:.1f}" for one in (without, near)], "10 without"),
        ("seconds of the stage", [f"{one.stage:.0f}" for one in (without, near)], ""),
        ("seconds of the command", [f"{one.command:.0f}" for one in (without, near)], ""),
        ("cores busy on average", [f"{one.cores:.2f}" for one in (without, near)], "2"),
        ("peak memory, all processes", [f"{one.memory:.2f} GB" for one in (without, near)], "1.5 GB"),
        ("train items", [f"{one.rows['rows_train']:,.0f}" for one in (without, near)], ""),
        (f"{FULL / 1e6:.0f} million rows would take", [f"{FULL / rows * one.stage / 3600:.1f} h"
                                                      for one in (without, near)], ""),
    ):  # fmt: skip
        print(f"| {name} | {' | '.join(values)} | {reach} |")
    print(f"\nThe recipe's way: {recipe:,.0f} rows a second ({min(SAMPLE, rows):,} rows, one process).")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, *sys.argv[2:3])

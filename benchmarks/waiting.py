"""How long a person waits for the commands of the first hour, beside `import mlflow`.

    python -m benchmarks.waiting [--rounds N] [-c CONF] [key=value ...]

Needs a finished `pricewright run` of the same conf. Each command is run in processes of its own, in turn, so that all
of them meet the same load; the table has the processor seconds of the process and its children (user and system), the
least of all rounds, since whatever else the machine does only adds to them. Since machines differ, and one machine from
hour to hour, they stand beside those of `import mlflow`. `predict --file` prices 10,000 made items;
what it takes above a single text is theirs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from tasks.config.loading import DEFAULT_CONF
from tasks.data.catalogue import generate

ITEMS = 10_000
# Processor seconds, on a machine where `import mlflow` takes UNIT of them.
UNIT, REACH = 1.8, {"leaderboard": 2.8, "predict": 3.5, "doctor": 4.0, "run": 10.0}
TEXT = "Plimtar stainless cordless drill, 18 V, refurbished"


def seconds(words: list[str]) -> float:
    """Processor seconds of a command and of all its children.

    Raises:
        SystemExit: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr[-1000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(conf: str, overrides: list[str], rounds: int) -> None:
    """Measure and print the table."""
    options = ["-c", conf, *overrides]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "items.jsonl"
        rows = ({key: value for key, value in row.items() if key != "price"} for row in generate(ITEMS, seed=5))
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        ours = ["-m", "flows.cli"]
        commands = {
            "import mlflow": ["-c", "import mlflow"],
            "leaderboard": [*ours, "leaderboard", *options],
            "predict": [*ours, "predict", TEXT, *options],
            "doctor": [*ours, "doctor", *options],
            "run": [*ours, "run", *options],
            f"predict --file, {ITEMS:,} items": [*ours, "predict", "--file", str(file), "--json", *options],
        }
        seconds(commands["run"])  # so that the others have something to show, and a run nothing to do
        least = dict.fromkeys(commands, float("inf"))
        for _ in range(rounds):
            for name, words in commands.items():
                least[name] = min(least[name], seconds(words))
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}: "
          f"`python -m benchmarks.waiting {' '.join(['--rounds', str(rounds), *options])}`\n")  # fmt: skip
    print(f"| command | processor seconds | where `import mlflow` takes {UNIT} | to reach |\n|---|---|---|---|")
    whole = least["import mlflow"]
    for name, took in least.items():
        print(f"| {name} | {took:.2f} | {UNIT * took / whole:.2f} | {REACH.get(name, '')} |")
    many = least[f"predict --file, {ITEMS:,} items"] - least["predict"]
    print(f"\nItems a second of processor time, beyond a single text: {ITEMS / many:,.0f}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--conf", default=DEFAULT_CONF)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    main(arguments.conf, arguments.overrides, arguments.rounds)

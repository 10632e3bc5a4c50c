"""The default run against its budget, and the claims made of it beforehand.

    python -m benchmarks.laptop [key=value ...]

Runs `pricewright run` twice in an empty store and prints a table for docs/benchmarks.md: time in all and outside the
language model, peak memory of the process and its children, time and stages done again of the second run, and whether
the chosen checkpoint beats the base model and the constant median on test, and is not worse than ridge, each by one
paired test.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil
import pyarrow.parquet as pq

from tasks.config.loading import load
from tasks.scoring.metrics import absolute_error
from tasks.scoring.resampling import paired_comparison
from tasks.tracking.runs import STAGE
from tasks.tracking.store import connect, experiment_id, local_path

CLAIMS = ("base", "constant_median")  # what the chosen checkpoint must beat; declared before any run
EQUAL = "tfidf_ridge"  # what it must not be worse than: the interval of the difference reaches down to zero
ALPHA = 0.05


def timed(words: list[str]) -> tuple[float, float, str]:
    """Seconds, peak resident gigabytes of the process and its children, and standard output of a command."""
    start, peak = time.monotonic(), 0
    process = subprocess.Popen([sys.executable, "-m", "flows.cli", *words], stdout=subprocess.PIPE, text=True)
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            family = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in family))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.5)
    if process.returncode:
        sys.exit(process.returncode)
    return time.monotonic() - start, peak / 1e9, process.stdout.read()


def main(overrides: list[str]) -> None:
    """Run and print the table."""
    with tempfile.TemporaryDirectory() as store:
        options = [*overrides, f"tracking.uri=sqlite:///{store}/mlflow.db", f"tracking.artifacts={store}/artifacts"]
        experiment = load(overrides=options)
        first, peak, _ = timed(["run", *options])
        client, where = connect(experiment), experiment_id(experiment)
        runs = {run.data.tags[STAGE]: run for run in client.search_runs([where]) if STAGE in run.data.tags}
        second, _, _ = timed(["run", *options])
        again = sum(STAGE in run.data.tags for run in client.search_runs([where])) - len(runs)
        evaluation = local_path(runs["evaluate"].info.artifact_uri)
        rows = {row["model"]: row for row in json.loads((evaluation / "leaderboard.json").read_text())["rows"]}
        stage_seconds = {name: (run.info.end_time - run.info.start_time) / 1000 for name, run in runs.items()}
        # The checkpoint was scored on validation while it was trained; the base model is scored on both here, and each
        # on the items of the blend if it beats a constant.
        scored = {"base": experiment.finetune.score_items, "finetuned": 0}
        for name in scored:
            kept = {metric.key for metric in client.get_logged_model(rows[name]["model_id"]).metrics}
            scored[name] += experiment.evaluate.blend_items if "validation_blend_mae" in kept else 0
        language = stage_seconds["finetune"] + sum(
            rows[name]["predict_ms"] * (rows[name]["n"] + extra) / 1000 for name, extra in scored.items()
        )
        frame = pq.read_table(evaluation / "predictions.parquet").to_pandas()
    errors = {
        name: absolute_error(group["truth"], group["price"]) for name, group in frame.groupby("model", sort=False)
    }
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}: "
          f"`python -m benchmarks.laptop {' '.join(overrides)}`\n")  # fmt: skip
    print("| what | measured | budget |\n|---|---|---|")
    print(f"| first run | {first:.0f} s | 600 s |")
    print(f"| of it outside the language model | {first - language:.0f} s | 150 s |")
    print(f"| peak memory | {peak:.1f} GB | 5 GB |")
    print(f"| second run | {second:.0f} s | 45 s |")
    print(f"| stages done again | {again} | 0 |")
    for name, seconds in stage_seconds.items():
        print(f"| stage {name} | {seconds:.0f} s | |")
    for name, row in rows.items():
        said = f"${row['mae']:.2f}" if row["status"] == "ran" else row["status"]
        print(f"| {name}: error on test | {said} | |")
    for name in (*CLAIMS, EQUAL):
        result = paired_comparison(np.array(errors[name]), np.array(errors["finetuned"]), seed=0)
        what = f"is not worse than {name}" if name == EQUAL else f"beats {name}"
        holds = result.low <= 0 if name == EQUAL else result.difference < 0 and result.p_value < ALPHA
        span = f"{result.difference:+.2f} ({result.low:+.2f} to {result.high:+.2f})"
        needed = "0 or less within" if name == EQUAL else f"p < {ALPHA}"
        verdict = "holds" if holds else "DOES NOT HOLD"
        print(f"| finetuned {what}: {verdict} | {span}, p = {result.p_value:.4f} | {needed} |")


if __name__ == "__main__":
    main(sys.argv[1:])

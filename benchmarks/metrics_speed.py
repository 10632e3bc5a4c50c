"""How long the uncertainty of a large leaderboard takes.

    python -m benchmarks.metrics_speed [resamples] [models] [items]

Prints a line for docs/benchmarks.md: every metric, interval, paired test and rank of 40 models on 2,000 items, from
10,000 resamples each.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
import time

import numpy as np

from tasks.scoring.comparisons import compare


def main(resamples: int = 10_000, models: int = 40, items: int = 2_000) -> None:
    """Run and print the line."""
    random = np.random.default_rng(0)
    truth = np.exp(random.normal(4, 1, items))
    guesses = {f"model {i}": truth * np.exp(random.normal(0, 0.3 + 0.01 * i, items)) for i in range(models)}
    start, busy = time.perf_counter(), time.process_time()
    compare(truth, guesses, dict.fromkeys(guesses, "baseline"), seed=0, resamples=resamples)
    took, busy = time.perf_counter() - start, time.process_time() - busy
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{datetime.date.today()}, {machine}: `python -m benchmarks.metrics_speed {' '.join(sys.argv[1:])}`".rstrip())
    print(f"{models} models, {items:,} items, {resamples:,} resamples: {took:.1f} s ({busy:.1f} s of processor time)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

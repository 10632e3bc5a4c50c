"""How many of the true neighbours the index for many rows finds, and how much sooner.

    PRICEWRIGHT_DATA=folder python -m benchmarks.told.neighbours [copies]

Prints a table for docs/benchmarks.md. The products are those of amazon_course_like; with `copies` above 1 each is there
so many times with a third of its words changed, to see what hundreds of thousands of rows take.
"""

from __future__ import annotations

import datetime
import gzip
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from tasks.data.items import from_row
from tasks.models.neighbours import NeighbourIndex
from tasks.models.terms import content_words, words

ASKED = 1_000


def corpus() -> list[str]:
    """The texts of the products."""
    file = Path(os.environ["PRICEWRIGHT_DATA"]) / "amazon_course_like" / "items.jsonl.gz"
    return words([from_row({**row, "price": 1}) for row in map(json.loads, gzip.open(file, "rt", encoding="utf-8"))])


def grown(texts: list[str], copies: int) -> list[str]:
    """Every text so many times, a third of the words of each copy exchanged for words of the next text."""
    random, found = np.random.default_rng(0), list(texts)
    for _ in range(copies - 1):
        for text, other in zip(texts, [*texts[1:], texts[0]], strict=True):
            mine, theirs = text.split(), other.split() or [""]
            for n in np.flatnonzero(random.random(len(mine)) < 1 / 3):
                mine[n] = theirs[n % len(theirs)]
            found.append(" ".join(mine))
    return found


def timed(index: NeighbourIndex, asked: csr_matrix) -> tuple[np.ndarray, float]:
    """The 20 nearest of each row, and the milliseconds of processor time that one took."""
    start = time.process_time()
    _, places = index.nearest(asked, 20)
    return places, 1000 * (time.process_time() - start) / asked.shape[0]


def main(copies: int = 1) -> None:
    """Look up and print the table."""
    rows = content_words().fit_transform(grown(corpus(), copies)).astype(np.float32).tocsr()
    asked = rows[np.random.default_rng(1).choice(rows.shape[0], ASKED, replace=False)]
    true, exact = timed(NeighbourIndex(rows, exact=rows.shape[0]), asked)
    print(f"{datetime.date.today()}: `python -m benchmarks.told.neighbours {copies}`, {rows.shape[0]:,} rows\n")
    print("| terms of at most | of the 8 nearest found | of the 20 nearest | ms an item | exact | all rows |")
    print("|---|---|---|---|---|---|")
    for common in (100, 400, 1_600):
        found, took = timed(NeighbourIndex(rows, exact=0, common=common), asked)
        shares = [np.mean([len({*a[:n]} & {*b[:n]}) / n for a, b in zip(found, true, strict=True)]) for n in (8, 20)]
        hours = f"{rows.shape[0] * took / 3.6e6:.2f} h for {rows.shape[0] * exact / 3.6e6:.2f} h"
        print(
            f"| {common:,} rows | {shares[0]:.1%} | {shares[1]:.1%} | {took:.2f} | {exact:.2f} | {hours} |", flush=True
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

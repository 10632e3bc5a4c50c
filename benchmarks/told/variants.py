"""What variants of a product among the training items do to models that learn from their neighbours' prices.

    PRICEWRIGHT_DATA=folder python -m benchmarks.told.variants STORE

Takes 4,000 training items of `amazon_course_like`, each three times with two words of its own, as a shop lists colours.
No validation item has a near duplicate among them. `boosting` and `network` are fitted as they are, and without the
rule that the figures of a training item leave out its near duplicates. The test items are not looked at.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from benchmarks.finetune_quality import CONF, difference, error_of, heading, options
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.splits import read_split, sample
from tasks.models.classic import Classic

COUNT, COLOURS = 4_000, ("red", "blue", "green")
MODELS = ("boosting", "network")


def main(store: Path) -> None:
    """Print the table."""
    experiment = load(CONF, options(store, ["data.validation_items=null"]))
    dataset = curate(experiment)
    train = sample(read_split(dataset, "train"), COUNT, experiment.seed)
    validation = read_split(dataset, "validation")
    truth = np.array([item.price for item in validation])
    variants = [
        dataclasses.replace(item, id=f"{item.id}-{colour}", text=f"{item.text} colour {colour}")
        for item in train
        for colour in COLOURS
    ]
    heading("STORE", "told.variants")
    print(f"{len(truth):,} validation items.\n")
    print("| model | each item | near duplicates | error | 95% interval | difference |\n|---|---|---|---|---|---|")
    for name in MODELS:
        ways = (("once", train, None), ("three times", variants, None), ("three times", variants, experiment.data.near))
        prices = [
            Classic.fit(name, items, [], experiment.seed, near).predict(validation).price for _, items, near in ways
        ]
        for (often, _, near), price in zip(ways, prices, strict=True):
            told = "left out" if near else "" if often == "once" else "not left out"
            beside = difference(truth, price, prices[1]) if near else ""
            print(f"| {name} | {often} | {told} | {error_of(truth, price)} | {beside} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))

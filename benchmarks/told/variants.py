"""What variants of a product among the training items do to models that learn from their neighbours' prices.

    PRICEWRIGHT_DATA=folder python -m benchmarks.told.variants STORE

Takes 4,000 training items of `amazon_course_like`, each three times with two words of its own, as a shop lists colours.
No validation item has a near duplicate among them. `boosting` and `network` are fitted as they are, and without the
rule that the figures of a training item leave out its near duplicates; on all items as they come, too. The test items
are not looked at.
"""

from __future__ import annotations

import dataclasses
import itertools
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
    dataset, near = curate(experiment), experiment.data.near
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    some, truth = sample(train, COUNT, experiment.seed), np.array([item.price for item in validation])
    variants = [
        dataclasses.replace(item, id=f"{item.id}-{colour}", text=f"{item.text} colour {colour}")
        for item in some
        for colour in COLOURS
    ]
    corpora = {f"{COUNT:,}, each once": some, f"{COUNT:,}, each three times": variants, f"all {len(train):,}": train}
    heading("STORE", "told.variants")
    print(f"{len(truth):,} validation items.\n")
    print("| model | training items | near duplicates | error | 95% interval | difference |\n|---|---|---|---|---|---|")
    for name, (corpus, items) in itertools.product(MODELS, corpora.items()):
        before = None
        for rule, told in ((None, "not left out"), (near, "left out")):
            price = Classic.fit(name, items, [], experiment.seed, rule).predict(validation).price
            beside = "" if before is None else difference(truth, price, before)
            print(f"| {name} | {corpus} | {told} | {error_of(truth, price)} | {beside} |", flush=True)
            before = price


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))

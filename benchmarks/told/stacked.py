"""What a fine-tuned model knows that classic models do not: in a stack, and where.

    PRICEWRIGHT_DATA=folder python -m benchmarks.told.stacked STORE [key=value ...]

Fine-tunes by `conf/files.yaml` and these words, or takes the model that `benchmarks.finetune_quality run STORE` with
the same words has chosen, and asks it for all validation items. Beside it stand the models whose opinions it is told,
or, if it is told none, `network` and `boosting`. A stack is fitted on nine tenths of the items and asked for the last
one, ten times: on what these models say, and on that and the quantiles of the fine-tuned model's distribution. Then its
error is compared with that of these models' mean, by category, price and length of the text. The test items are not
looked at.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import QuantileRegressor
from sklearn.model_selection import KFold, cross_val_predict

from benchmarks.finetune_quality import CONF, difference, error_of, heading, options
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.items import Item
from tasks.data.splits import Dataset, read_split
from tasks.finetuning import finetune
from tasks.models.classic import Classic
from tasks.models.language.estimators import quantile
from tasks.models.language.model import LanguageModel
from tasks.tracking.runs import CHOSEN
from tasks.tracking.store import connect, model_folder

CLASSIC = ("network", "boosting")
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
PRICES, CATEGORIES = (0, 30, 100, 250, np.inf), 5  # ends of the price bands in dollars; the largest categories
STACKS = {
    "linear, of absolute errors": QuantileRegressor(alpha=1e-4, solver="highs"),
    "boosting, of absolute errors": HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=100, learning_rate=0.05, max_leaf_nodes=8, random_state=0
    ),
}


def chosen(experiment: Experiment, dataset: Dataset) -> LanguageModel:
    """The checkpoint that the training of the store has chosen; it is trained first if need be."""
    candidates, client = finetune(experiment, dataset), connect(experiment)
    tags = {one.model_id: client.get_logged_model(one.model_id).tags for one in candidates}
    (model_id,) = (model_id for model_id, marks in tags.items() if marks.get(CHOSEN) == "true")
    return LanguageModel.load(model_folder(client, model_id))


def said_beside(tuned: LanguageModel, experiment: Experiment, dataset: Dataset, items: list[Item]) -> pd.DataFrame:
    """What the models say that it is told of, or else CLASSIC, of the items, in dollars: a column for each [n]."""
    if tuned.spec.opinions is not None:
        return pd.DataFrame(tuned.spec.opinions.ask(items), columns=list(tuned.spec.opinions.models))
    train, seed, near = read_split(dataset, "train"), experiment.seed, experiment.data.near
    fitted = {name: Classic.fit(name, train, [], seed, near) for name in CLASSIC}
    return pd.DataFrame({name: model.predict(items).price for name, model in fitted.items()})


def slices(items: Sequence[Item], truth: np.ndarray) -> dict[str, np.ndarray]:
    """Which items [n] are of each category, price band and length of text, by name; an item is in several."""
    categories, lengths = np.array([item.category for item in items]), np.array([len(item.text) for item in items])
    names, counts = np.unique(categories, return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")][:CATEGORIES]
    found = {f"category {name}" if name else "no category": categories == name for name in largest}
    for low, high in itertools.pairwise(PRICES):
        found[f"price from ${low}" + (f" to {high}" if high < np.inf else "")] = (truth >= low) & (truth < high)
    short, long = np.quantile(lengths, [1 / 3, 2 / 3])
    found["the shortest third of the texts"] = lengths <= short
    found["the longest third of the texts"] = lengths > long
    return found


def main(store: Path, overrides: list[str]) -> None:
    """Ask and print both tables."""
    experiment = load(CONF, options(store, overrides))
    dataset = curate(experiment)
    tuned, items = chosen(experiment, dataset), read_split(dataset, "validation")
    beside = said_beside(tuned, experiment, dataset, items)
    truth, told, answer = np.array([item.price for item in items]), np.log1p(beside.to_numpy()), tuned.predict(items)
    known = answer.distribution
    assert known is not None, "only greedy text has no distribution"
    own = np.log1p(np.column_stack([quantile(known.probabilities, known.prices, q) for q in QUANTILES]))
    mean = np.expm1(told.mean(axis=1))

    heading(" ".join(["STORE", *overrides]), "told.stacked")
    print(f"{len(items)} validation items.\n")
    print("| what | error | 95% interval | difference |\n|---|---|---|---|")
    print(f"| the mean of {' and '.join(beside)} | {error_of(truth, mean)} | |")
    print(f"| finetuned | {error_of(truth, answer.price)} | {difference(truth, answer.price, mean)} (to the mean) |")
    three = np.expm1(np.column_stack([told, np.log1p(answer.price)]).mean(axis=1))
    print(f"| the mean of all of them | {error_of(truth, three)} | {difference(truth, three, mean)} (to the mean) |")
    folds = KFold(10, shuffle=True, random_state=0)
    for name, stack in STACKS.items():
        without, together = (
            np.expm1(cross_val_predict(stack, features, np.log1p(truth), cv=folds))
            for features in (told, np.hstack([told, own]))
        )
        gained = difference(truth, together, without)
        print(f"| stack ({name}) without finetuned | {error_of(truth, without)} | |")
        print(f"| stack ({name}) with it | {error_of(truth, together)} | {gained} |", flush=True)
    print("\n| where | items | finetuned | 95% interval | difference to the mean |\n|---|---|---|---|---|")
    for name, rows in slices(items, truth).items():
        figures = truth[rows], answer.price[rows]
        print(f"| {name} | {rows.sum()} | {error_of(*figures)} | {difference(*figures, mean[rows])} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])

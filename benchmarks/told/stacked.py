"""What a fine-tuned model knows that the models whose opinions it is told do not: in a stack, and where.

    PRICEWRIGHT_DATA=folder python -m benchmarks.told.stacked STORE [key=value ...]

Takes the fine-tuned model that `benchmarks.finetune_quality run STORE` with the same words has chosen, and asks it for
all validation items. A stack is fitted on nine tenths of them and asked for the last one, ten times: on what the other
models say, and on that and the quantiles of the fine-tuned model's distribution. Then its error is compared with that
of the mean of what it is told, by category, price and length of the text. The test items are not looked at.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import QuantileRegressor
from sklearn.model_selection import KFold, cross_val_predict

from benchmarks.finetune_quality import CONF, difference, error_of, heading, options
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.items import Item
from tasks.data.splits import read_split
from tasks.models.language.estimators import quantile
from tasks.models.language.model import LanguageModel
from tasks.scoring.record import Record
from tasks.tracking.reading import latest_evaluation
from tasks.tracking.runs import StageRun
from tasks.tracking.store import connect, model_folder

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
PRICES, CATEGORIES = (0, 30, 100, 250, np.inf), 5  # ends of the price bands in dollars; the largest categories
STACKS = {
    "linear, of absolute errors": QuantileRegressor(alpha=1e-4, solver="highs"),
    "boosting, of absolute errors": HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=100, learning_rate=0.05, max_leaf_nodes=8, random_state=0
    ),
}


def chosen(store: Path, overrides: list[str]) -> tuple[LanguageModel, list[Item]]:
    """The fine-tuned model of the store's last evaluation, and the validation items."""
    experiment = load(CONF, options(store, overrides))
    run_id = latest_evaluation(experiment)
    if run_id is None:
        sys.exit(f"No evaluation in {store}: first python -m benchmarks.finetune_quality run STORE with these words.")
    client = connect(experiment)
    rows = Record.read(StageRun(client, client.get_run(run_id), "evaluate", done=True)).rows
    (model_id,) = (row.model_id for row in rows if row.model == "finetuned")
    return LanguageModel.load(model_folder(client, model_id)), read_split(curate(experiment), "validation")


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
    tuned, items = chosen(store, overrides)
    if tuned.spec.opinions is None:
        sys.exit("The fine-tuned model is told no opinions. Give the words that it was trained with.")
    truth, told = np.array([item.price for item in items]), np.log1p(tuned.spec.opinions.ask(items))
    answer = tuned.predict(items)
    known = answer.distribution
    assert known is not None, "only greedy text has no distribution"
    own = np.log1p(np.column_stack([quantile(known.probabilities, known.prices, q) for q in QUANTILES]))
    mean = np.expm1(told.mean(axis=1))

    heading(" ".join(["STORE", *overrides]), "told.stacked")
    print(f"{len(items)} validation items.\n")
    print("| what | error | 95% interval | difference |\n|---|---|---|---|")
    print(f"| the mean of {' and '.join(tuned.spec.opinions.models)} | {error_of(truth, mean)} | |")
    print(f"| finetuned | {error_of(truth, answer.price)} | {difference(truth, answer.price, mean)} (to the mean) |")
    folds = KFold(10, shuffle=True, random_state=0)
    for name, stack in STACKS.items():
        without, beside = (
            np.expm1(cross_val_predict(stack, features, np.log1p(truth), cv=folds))
            for features in (told, np.hstack([told, own]))
        )
        print(f"| stack ({name}) without finetuned | {error_of(truth, without)} | |")
        print(
            f"| stack ({name}) with it | {error_of(truth, beside)} | {difference(truth, beside, without)} |", flush=True
        )
    print("\n| where | items | finetuned | 95% interval | difference to the mean |\n|---|---|---|---|---|")
    for name, rows in slices(items, truth).items():
        figures = truth[rows], answer.price[rows]
        print(f"| {name} | {rows.sum()} | {error_of(*figures)} | {difference(*figures, mean[rows])} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])

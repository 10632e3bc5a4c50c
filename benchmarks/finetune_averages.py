"""Whether it pays to end a training early, to average checkpoints, and to average trainings of several seeds.

    PRICEWRIGHT_DATA=folder python -m benchmarks.finetune_averages STORE [key=value ...]

Trains an adapter for each of three seeds, by conf/files.yaml on one dataset (`amazon_course_like` with `course_test`
apart), for two epochs with a checkpoint every quarter of one. What is chosen or averaged by some validation items is
asked for others, by which no seed chose. The test items are not looked at.
STORE is a folder that keeps what is done: the same command again goes on.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.finetune_quality import CONF, SEEDS, heading, options, run_of
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.items import Item
from tasks.data.splits import Dataset, read_split, sample
from tasks.finetuning import finetune
from tasks.models.language.model import LanguageModel, ModelSpec
from tasks.models.language.price_head import mean_head
from tasks.scoring.metrics import absolute_error
from tasks.scoring.predictions import recall
from tasks.scoring.resampling import bootstrap_interval, paired_comparison
from tasks.scoring.roles import Roles
from tasks.tracking.store import connect, model_folder
from tasks.training.candidates import mean_adapter

BEST, PATIENCE, ASKED = 3, 2, 200  # adapters averaged; checkpoints without a better one; validation items asked
SETTINGS = ["finetune.sft.num_train_epochs=2", "finetune.checkpoints=8", "finetune.keep=null"]
SETTINGS += [f"finetune.average={BEST}", "data.validation_items=null"]


@dataclass(frozen=True)
class Training:
    """The checkpoints of one seed: their folders and their errors on the items it chooses by, each by its step, and the
    folder of the mean of the best."""

    folders: dict[int, Path]
    errors: dict[int, float]
    mean: Path

    def best(self, until: int) -> int:
        """The step of the checkpoint with the lowest error, of those up to a step."""
        return min((step for step in self.errors if step <= until), key=lambda step: (self.errors[step], step))

    def ended(self) -> int:
        """The step that `finetune.patience` would have ended the training at."""
        for step in (steps := sorted(self.errors)):
            if sum(self.best(step) < other <= step for other in steps) >= PATIENCE:
                return step
        return steps[-1]


def train(experiment: Experiment, dataset: Dataset) -> Training:
    """Train by one seed, or find what is trained."""
    candidates = finetune(experiment, dataset)
    client, items = connect(experiment), Roles.of(experiment, dataset).first
    run = run_of(client, candidates[0])
    truth, folders, errors = np.array([item.price for item in items]), {}, {}
    for one in candidates:
        answer = recall(run, one.model_id, "validation", items)
        assert answer is not None, "every candidate was scored"
        folders[one.step] = model_folder(client, one.model_id)
        errors[one.step] = float(absolute_error(truth, answer.price).mean())
    mean = folders.pop(None)
    return Training(folders, {step: errors[step] for step in folders}, mean)


def asked(folders: Sequence[Path], items: Sequence[Item]) -> dict[Path, np.ndarray]:
    """What the model in each folder answers; one that is in several rows of the table is asked once."""
    return {folder: LanguageModel.load(folder).predict(items).price for folder in sorted(set(folders))}


def as_one(folders: Sequence[Path], items: Sequence[Item]) -> np.ndarray:
    """What the model answers whose adapter and head are the means of those in several folders."""
    adapters = [folder / "adapter" for folder in folders]
    with tempfile.TemporaryDirectory() as mean:
        mean_adapter(adapters, Path(mean))
        mean_head(adapters, Path(mean))
        return LanguageModel.of(ModelSpec.load(folders[0])).with_adapter(Path(mean)).predict(items).price


def main(store: Path, overrides: list[str]) -> None:
    """Train, ask and print the table."""
    given = load(CONF, options(store, [*SETTINGS, *overrides]))
    dataset = curate(given)
    experiments = [given.model_copy(update={"seed": seed}) for seed in SEEDS]
    trainings = [train(experiment, dataset) for experiment in experiments]
    chose = {item.id for experiment in experiments for item in Roles.of(experiment, dataset).first}
    unseen = [item for item in read_split(dataset, "validation") if item.id not in chose]
    items = sample(unseen, ASKED, given.seed)
    truth = np.array([item.price for item in items])

    by_one = {
        "the best checkpoint": [one.folders[one.best(max(one.errors))] for one in trainings],
        "the last checkpoint": [one.folders[max(one.errors)] for one in trainings],
        f"the best until {PATIENCE} were no better": [one.folders[one.best(one.ended())] for one in trainings],
        f"the mean of the {BEST} best": [one.mean for one in trainings],
    }
    known = asked([folder for folders in by_one.values() for folder in folders], items)
    rows = {name: np.array([known[folder] for folder in folders]) for name, folders in by_one.items()}
    chosen = by_one["the best checkpoint"]
    singles = rows["the best checkpoint"]
    rows["three seeds' best, their adapters averaged"] = as_one(chosen, items)[None]
    rows["three seeds' best, their prices averaged"] = np.expm1(np.log1p(singles).mean(axis=0))[None]

    heading(" ".join(["STORE", *overrides]), "finetune_averages")
    print("| what | error | 95% interval | difference to the first | for each seed |\n|---|---|---|---|---|")
    first = absolute_error(truth, singles)
    for name, prices in rows.items():
        errors = absolute_error(truth, prices)
        low, high = bootstrap_interval(errors.mean(axis=0)[None], seed=0)
        beside = each = ""
        if prices is not singles:
            found = paired_comparison(first.mean(axis=0), errors.mean(axis=0), seed=0)
            beside = f"{found.difference:+.2f} ({found.low:+.2f} to {found.high:+.2f}), p = {found.p_value:.4f}"
            each = ", ".join(f"{worse:+.2f}" for worse in (errors - first).mean(axis=1))
        print(f"| {name} | {errors.mean():.2f} | {low[0]:.2f} to {high[0]:.2f} | {beside} | {each} |", flush=True)
    count = len(Roles.of(given, dataset).first)
    print(f"\n{len(items)} validation items; the errors on the {count} that are chosen by:\n")
    steps = sorted(trainings[0].errors)
    print(f"| seed | {' | '.join(f'step {step}' for step in steps)} | ended at |\n|---|{'---|' * (len(steps) + 1)}")
    for seed, one in zip(SEEDS, trainings, strict=True):
        print(f"| {seed} | {' | '.join(f'{one.errors[step]:.2f}' for step in steps)} | {one.ended()} |")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])

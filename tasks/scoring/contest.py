"""The models of an evaluation and what they answered: every answer is made once, and kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.config.experiment import Experiment
from tasks.data.items import Item
from tasks.data.splits import Dataset, Part, read_split
from tasks.models.external import ExternalPredictions
from tasks.models.predictor import Predictions
from tasks.scoring.checkpoint_choice import Checkpoint
from tasks.scoring.lineage import families
from tasks.scoring.metrics import absolute_error
from tasks.scoring.predictions import score
from tasks.scoring.roles import Roles
from tasks.scoring.rows import Row, last_metric
from tasks.tracking.runs import Candidate, Mode, StageRun


@dataclass
class Contest:
    """What an evaluation works with: the items by what they serve for, and what was answered so far.

    `validation` holds the price that a model gave to an item, by name and id; `test` all it answered there. `families`
    [n] are those of the test items, where they matter.
    """

    run: StageRun
    experiment: Experiment
    dataset: Dataset
    mode: Mode
    roles: Roles
    test_items: list[Item]
    families: np.ndarray | None = None
    validation: dict[str, dict[str, float]] = field(default_factory=dict)
    test: dict[str, Predictions] = field(default_factory=dict)
    curve: list[Checkpoint] = field(default_factory=list)
    external: dict[str, ExternalPredictions] = field(default_factory=dict)

    @classmethod
    def of(cls, run: StageRun, experiment: Experiment, dataset: Dataset, mode: Mode) -> Contest:
        """A contest in which nobody has answered anything yet."""
        items = read_split(dataset, "test")
        of = families(items, dataset, experiment.data.near)
        return cls(run, experiment, dataset, mode, Roles.of(experiment, dataset), items, of)

    def answer(
        self,
        entry: Candidate,
        part: Part,
        items: Sequence[Item],
        ask: Callable[[], Predictions],
        *,
        timed: bool = True,
        ready: Callable[[], object] = lambda: None,
    ) -> Predictions:
        """The answers of a model: those it gave before, or new ones, before which it is made `ready`."""
        # A checkpoint was scored on validation as it was made; asking it again would cost as much as it did then.
        mode = "reuse" if entry.kind == "finetuned" and part == "validation" else self.mode
        answers = score(
            self.run,
            entry.model_id,
            items,
            ask,
            dataset=self.dataset,
            split=part,
            seed=self.experiment.seed,
            resamples=self.experiment.evaluate.resamples,
            families=self.families if part == "test" else None,
            step=entry.step or 0,
            mode=mode,
            timed=timed,
            ready=ready,
        )
        if part == "test":
            self.test[entry.name] = answers
        else:
            known = self.validation.setdefault(entry.name, {})
            known |= {item.id: price for item, price in zip(items, answers.price.tolist(), strict=True)}
        return answers

    def note_interval(self, row: Row) -> None:
        """A model that was scored before has the interval of then, which may be by another seed or other resamples: it
        gets that of its row, so that MLflow shows one interval of one error."""
        ends = {"test_mae_low": row.mae_low, "test_mae_high": row.mae_high}
        model = self.run.client.get_logged_model(row.model_id)
        known = {key: last_metric(model, key, self.dataset.digest) for key in ends}
        if any(new is not None and not math.isclose(new, known[key] or 0.0, rel_tol=1e-9) for key, new in ends.items()):
            name, digest = f"{self.dataset.name}-test", self.dataset.digest
            self.run.log_metrics(ends, model_id=row.model_id, dataset_name=name, dataset_digest=digest)

    def errors(self, name: str, items: Sequence[Item]) -> np.ndarray | None:
        """Absolute errors [n] of a model on validation items; None where it did not answer all of them."""
        known = self.validation.get(name, {})
        if any(item.id not in known for item in items):
            return None
        return absolute_error(truth(items), [known[item.id] for item in items])

    def promising(self, name: str) -> bool:
        """Whether a model answers every item, and better than a constant price would; others only cost time."""
        first = self.roles.first
        errors, prices = self.errors(name, first), truth(first)
        if errors is None or not first:
            return False
        return bool(errors.mean() < np.abs(prices - np.median(prices)).mean())  # False where an answer is NaN


def truth(items: Sequence[Item]) -> np.ndarray:
    """The prices [n] of items."""
    return np.array([item.price for item in items], dtype=float)

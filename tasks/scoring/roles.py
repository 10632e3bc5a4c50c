"""Which validation item serves for what. No item serves twice, so that no choice is judged by what it was made on.

| role | what it is for | who answers |
|---|---|---|
| first | the checkpoint is chosen; models that are no better than a constant price are left out of the next two | all |
| temperature | `finetune.answer.temperature=fit` | the language model, if it asks for one |
| blend | the weights of the blend | models that beat a constant price |
| selection | the challenger is chosen | classic models and the blend all of it, language models a sample |

Test items serve for one thing only: the figures of the leaderboard, once for each model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.config.experiment import Experiment
from tasks.data.items import Item
from tasks.data.splits import Dataset, read_split, sample

TEMPERATURE_ITEMS = 64


@dataclass(frozen=True)
class Roles:
    """The validation items by what they serve for; `sampled` are those of `selection` that a language model answers."""

    first: list[Item]
    temperature: list[Item]
    blend: list[Item]
    selection: list[Item]
    sampled: list[Item]

    @classmethod
    def of(cls, experiment: Experiment, dataset: Dataset) -> Roles:
        """Deal out the validation items of a dataset, by the hash of their ids.

        Each role gets what the conf asks for, but at most a quarter of all, so that few items are shared fairly; what
        is left is for the selection. Of one to three items the first one is `first`. Which items are `first` depends on
        `finetune.score_items` alone, so that no other change makes checkpoints be scored again.
        """
        conf = experiment.finetune
        items = sample(read_split(dataset, "validation"), None, experiment.seed)
        wanted = {
            "first": conf.score_items,
            "temperature": TEMPERATURE_ITEMS if conf.answer.temperature == "fit" else 0,
            "blend": experiment.evaluate.blend_items,
        }
        share = len(items) // 4
        dealt, start = {}, 0
        for role, count in wanted.items():
            least = 1 if role == "first" else 0
            dealt[role] = items[start : start + max(min(count, share), least)]
            start += len(dealt[role])
        return cls(**dealt, selection=items[start:], sampled=items[start : start + conf.score_items])


def selection_key(answered: int, error: float | None) -> tuple[int, float]:
    """What candidates are chosen by, the least first: more items answered before a lower error on those, which is None
    where there are none."""
    return -answered, math.inf if error is None else error


def mean_error(errors: np.ndarray) -> float:
    """The mean of absolute errors [n] over the items that have a price; infinite where none has one."""
    return math.inf if np.isnan(errors).all() else float(np.nanmean(errors))


def estimated_errors(whole: Mapping[str, np.ndarray], sampled: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean error of each model on all selection items, in dollars.

    `whole` are the absolute errors [n] of models that answered all of them, `sampled` those [m] of models that answered
    only the first m. The error of these is estimated as the best complete model's on all items plus the difference to
    it on the sample (the difference estimator of survey sampling, Cochran 1977): what chance made hard in the sample is
    hard for both.
    """
    estimates = {name: mean_error(errors) for name, errors in whole.items()}
    complete = [name for name, errors in whole.items() if not np.isnan(errors).any()]
    reference = min(complete, key=estimates.__getitem__, default=None)
    for name, errors in sampled.items():
        beside = 0.0 if reference is None else whole[reference].mean() - whole[reference][: len(errors)].mean()
        estimates[name] = mean_error(errors) + beside
    return estimates

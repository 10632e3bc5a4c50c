"""Several models that answer as one: a weighted mean of their prices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from tasks.data.items import Item
from tasks.models.intervals import conformal, interval
from tasks.models.predictor import Predictions, Predictor

SMALLEST = 0.01  # a member with less weight than this is left out
MIN_ITEMS = 16  # fewer say nothing about the weights of several models


@dataclass
class Blend:
    """A weighted mean of other models, its members: `weights` by name, which add up to 1, and where each was saved.

    A member is loaded by `load_member` when it is asked; `spread` are the quantiles of log(truth / answer) which make
    its 80% interval, on other items than those it was weighed on; None where too few of them say so.
    """

    weights: dict[str, float]
    spread: tuple[float, float] | None = None
    folders: dict[str, Path] = field(default_factory=dict)
    load_member: Callable[[Path], Predictor] | None = None

    @classmethod
    def fit(cls, truth: np.ndarray, prices: Mapping[str, np.ndarray]) -> Self:
        """Weigh models by the prices [n] they gave items of known price [n], which none of them has learned from."""
        names = list(prices)
        raw = least_absolute_weights(truth, np.stack([prices[name] for name in names], axis=1))
        kept = {name: float(weight) for name, weight in zip(names, raw, strict=True) if weight >= SMALLEST}
        return cls({name: weight / sum(kept.values()) for name, weight in kept.items()})

    def judge(self, truth: np.ndarray, prices: Mapping[str, np.ndarray]) -> None:
        """Learn from items of known price [n] that it was not weighed on how far off it is: on those that it was, its
        errors are the smallest there could be."""
        price = mean(prices, self.weights)
        priced = ~np.isnan(price)
        self.spread = conformal(truth[priced], price[priced])

    def answer(self, prices: Mapping[str, np.ndarray]) -> Predictions:
        """What it answers where its members gave these prices, each [n]; NaN where one of them gave none."""
        price = mean(prices, self.weights)
        return Predictions(price, *interval(price, self.spread))

    def predict(self, items: Sequence[Item]) -> Predictions:
        """Price the items with every member, one after the other, so that only one is in memory."""
        return self.answer({name: self._member(name).predict(items).price for name in self.weights})

    def _member(self, name: str) -> Predictor:
        if self.load_member is None:
            raise ValueError("a blend that was fitted here answers from the prices of its members; load it to predict")
        return self.load_member(self.folders[name])

    def save(self, folder: Path) -> None:
        """Write the weights, and a copy of every member, so that it outlives the runs they come from."""
        fields = {"predictor": "blend", "weights": self.weights, "spread": self.spread}
        (folder / "predictor.json").write_text(json.dumps(fields, indent=1), encoding="utf-8")
        for place, name in enumerate(self.weights):
            shutil.copytree(self.folders[name], folder / "members" / str(place))

    @classmethod
    def load(cls, folder: Path, load_member: Callable[[Path], Predictor]) -> Self:
        """Read what `save` wrote; `load_member` reads what a member saved."""
        fields = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
        folders = {name: folder / "members" / str(place) for place, name in enumerate(fields["weights"])}
        spread = fields["spread"] and tuple(fields["spread"])
        return cls(fields["weights"], spread, folders, load_member)


def mean(prices: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """The weighted mean of prices [n] by name, shape [n]."""
    return np.sum([weight * np.asarray(prices[name]) for name, weight in weights.items()], axis=0)


def least_absolute_weights(truth: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """The weights [members], none negative and adding up to 1, whose mean of the prices [n, members] has the least
    absolute error against the truth [n].

    A stack of models is better with such bounds than without (Breiman 1996); under absolute error it is the linear
    program  min sum(e)  with  -e <= prices @ weights - truth <= e.
    """
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, hstack, vstack

    items, members = prices.shape
    one = eye_array(items)
    found = linprog(
        c=np.r_[np.zeros(members), np.ones(items)],
        A_ub=vstack([hstack([prices, -one]), hstack([-prices, -one])]),
        b_ub=np.r_[truth, -truth],
        A_eq=np.r_[np.ones(members), np.zeros(items)][None],
        b_eq=[1.0],
        method="highs",
    )
    if not found.success:
        raise ValueError(f"the weights of the blend were not found: {found.message}")
    return np.clip(found.x[:members], 0, 1)

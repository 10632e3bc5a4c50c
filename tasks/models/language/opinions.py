"""What classic models say of an item: told to a language model, which then learns what they miss."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from joblib import Parallel, delayed
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupKFold

from tasks.data import minhash
from tasks.data.items import Item
from tasks.errors import UserError
from tasks.models.classic import BASELINES, Classic
from tasks.models.estimator_files import dump, read
from tasks.models.terms import words
from tasks.progress import Progress

FOLDS = 4
MANY = 4_000  # training items: with so many each fit may have a process of its own
KNOWN = "known.skops"


@dataclass(frozen=True, eq=False)
class Opinions:
    """Classic models by name, fitted on all training items, and what they said of these: `said` [n, models] in dollars,
    of the items `ids` [n]."""

    models: dict[str, Classic]
    ids: np.ndarray
    said: np.ndarray

    @classmethod
    def fit(cls, names: Sequence[str], train: Sequence[Item], seed: int) -> Self:
        """Fit the models, and ask them about the training items by folds that saw neither them nor their near
        duplicates (stacked generalization, Wolpert 1992): a language model that is told what a model says of an item
        that it knows by heart would trust it more than it may.

        Raises:
            UserError: there is no such model, or there are too few items to fold.
        """
        check(names)
        groups = alike(words(train))
        if len(set(groups.tolist())) < FOLDS:
            raise UserError(
                f"finetune.prompt.opinions needs {FOLDS} training items that are not near duplicates of each other; "
                f"there are {len(set(groups.tolist()))}. Give more data, or set finetune.prompt.opinions=[]."
            )
        said, everything = np.zeros((len(train), len(names))), np.arange(len(train))
        folds = [*GroupKFold(FOLDS).split(said, groups=groups), (everything, everything[:0])]
        work = [(name, *fold) for name in names for fold in folds]
        # A few items are learned from in less time than a process takes to start.
        jobs = 1 if len(train) < MANY else max(1, min(os.cpu_count() or 1, len(work)))
        models = {}
        with Progress("what classic models say", len(work), "fits") as progress:
            fits = (delayed(_fit_and_ask)(name, train, *rows, seed) for name, *rows in work)
            for (name, _, asked), (model, prices) in zip(
                work, Parallel(jobs, return_as="generator")(fits), strict=True
            ):
                said[asked, names.index(name)] = prices
                models[name] = model  # the last one of a name is fitted on everything
                progress.advance()
        return cls(models, np.array([item.id for item in train]), said)

    def ask(self, items: Sequence[Item]) -> np.ndarray:
        """What each model says of each item, in dollars [m, models]; of the training items what the folds said."""
        places = {identity: place for place, identity in enumerate(self.ids.tolist())}
        own = np.array([places.get(item.id, -1) for item in items], dtype=int)
        new = [item for item, place in zip(items, own, strict=True) if place < 0]
        answers = self.said[own]
        if new:
            answers[own < 0] = np.column_stack([model.predict(new).price for model in self.models.values()])
        return answers

    def save(self, folder: Path) -> None:
        """Write them into a new folder, each model in one of its own."""
        for name, model in self.models.items():
            (folder / name).mkdir(parents=True)
            model.save(folder / name)
        dump({"names": list(self.models), "ids": self.ids, "said": self.said}, folder / KNOWN)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        known = read(folder / KNOWN)
        return cls({name: Classic.load(folder / name) for name in known["names"]}, known["ids"], known["said"])


def _fit_and_ask(
    name: str, train: Sequence[Item], fitted_on: np.ndarray, asked: np.ndarray, seed: int
) -> tuple[Classic, np.ndarray]:
    model = Classic.fit(name, [train[row] for row in fitted_on], [], seed)
    return model, model.predict([train[row] for row in asked]).price if len(asked) else np.zeros(0)


def check(names: Sequence[str]) -> None:
    """Refuse names of models that do not exist.

    Raises:
        UserError: there are such.
    """
    if unknown := [name for name in names if name not in BASELINES]:
        raise UserError(
            f"finetune.prompt.opinions: there is no model {unknown[0]!r}. Expected names of {', '.join(BASELINES)}."
        )


def alike(texts: Sequence[str]) -> np.ndarray:
    """The number of each text's group [n]: near duplicates, and near duplicates of those, are of one group."""
    signatures = minhash.signatures(texts)
    pairs = []
    for band in minhash.bands(signatures).T:
        order = np.argsort(band, kind="stable")
        same = band[order][1:] == band[order][:-1]
        pairs.append(np.column_stack([order[:-1][same], order[1:][same]]))
    one, other = np.concatenate(pairs).T
    near = minhash.likeness(signatures[one], signatures[other]) >= minhash.NEAR
    edges = coo_matrix((np.ones(near.sum()), (one[near], other[near])), shape=(len(texts), len(texts)))
    return connected_components(edges, directed=False)[1]

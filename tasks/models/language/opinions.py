"""What classic models say of an item: told to a language model, which then learns what they miss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from sklearn.model_selection import GroupKFold

from tasks.cache import cached
from tasks.data import minhash
from tasks.data.items import Item
from tasks.data.splits import item_digest
from tasks.digests import code_digest, digest, versions
from tasks.errors import UserError
from tasks.models.classic import BASELINES, Classic
from tasks.models.estimator_files import dump, read
from tasks.models.language.prompts import TOLD_LIBRARIES
from tasks.models.terms import words
from tasks.paths import cache_folder
from tasks.progress import Progress

FOLDS = 4
LIBRARIES = (*TOLD_LIBRARIES, "torch")
KNOWN = "known.skops"


@dataclass(frozen=True, eq=False)
class Opinions:
    """Classic models by name, fitted on all training items, and what they said of these: `said` [n, models] in dollars,
    of the items whose digests are `known` [n]."""

    models: dict[str, Classic]
    known: np.ndarray
    said: np.ndarray

    @classmethod
    def of(cls, names: Sequence[str], train: Sequence[Item], seed: int, near: float | None = minhash.NEAR) -> Self:
        """The opinions of these models; fitted once, since that takes minutes, and kept in the user's cache: for a
        training that is taken up again, and for the next one that differs in something else.

        Raises:
            UserError: there are too few items to fold, or a model cannot be fitted on them.
        """
        parts = {
            "near": near,
            "models": list(names),
            "items": [item_digest(item) for item in train],
            "seed": seed,
            "code": code_digest("tasks.models.language.opinions"),
            "libraries": versions(*LIBRARIES),
        }
        folder = cache_folder() / "opinions" / digest(parts)
        return cls.load(cached(folder, lambda new: cls.fit(names, train, seed, near).save(new)))

    @classmethod
    def fit(cls, names: Sequence[str], train: Sequence[Item], seed: int, near: float | None = minhash.NEAR) -> Self:
        """Fit the models, and ask them about the training items by folds that saw neither them nor their near
        duplicates, which are texts as alike as `near` (stacked generalization, Wolpert 1992): a language model that is
        told what a model says of an item that it knows by heart would trust it more than it may.

        Raises:
            UserError: there is no such model, there are too few items to fold, or a model cannot be fitted on them.
        """
        check(names)
        groups = minhash.groups(words(train), near)
        if len(set(groups.tolist())) < FOLDS:
            raise UserError(
                f"finetune.prompt.opinions needs {FOLDS} training items that are not near duplicates of each other; "
                f"there are {len(set(groups.tolist()))}. Give more data, or set finetune.prompt.opinions=[]."
            )
        said, models = np.zeros((len(train), len(names))), {}
        folds = list(GroupKFold(FOLDS).split(said, groups=groups))
        with Progress("what classic models say", len(names) * (FOLDS + 1), "fits") as progress:
            for column, name in enumerate(names):
                for fitted_on, asked in folds:
                    model = _fitted(name, [train[row] for row in fitted_on], seed, near)
                    said[asked, column] = model.predict([train[row] for row in asked]).price
                    progress.advance()
                models[name] = _fitted(name, train, seed, near)
                progress.advance()
        return cls(models, np.array([item_digest(item) for item in train]), said)

    def ask(self, items: Sequence[Item]) -> np.ndarray:
        """What each model says of each item, in dollars [m, models]; of the training items what the folds said.

        These are known by all that they hold: another shop's product may have the id of one.
        """
        places = {digest: place for place, digest in enumerate(self.known.tolist())}
        own = np.array([places.get(item_digest(item), -1) for item in items], dtype=int)
        new = [item for item, place in zip(items, own, strict=True) if place < 0]
        answers = self.said[own]
        if new:
            answers[own < 0] = np.column_stack([model.predict(new).price for model in self.models.values()])
        return answers

    def save(self, folder: Path) -> None:
        """Write them into a folder, each model into one of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in self.models.items():
            (folder / name).mkdir()
            model.save(folder / name)
        dump({"names": list(self.models), "known": self.known, "said": self.said}, folder / KNOWN)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        kept = read(folder / KNOWN)
        return cls({name: Classic.load(folder / name) for name in kept["names"]}, kept["known"], kept["said"])


def check(names: Sequence[str]) -> None:
    """Refuse names of models that do not exist, or that stand there twice.

    Raises:
        UserError: a name is unknown, or stands there twice.
    """
    if unknown := [name for name in names if name not in BASELINES]:
        raise UserError(
            f"finetune.prompt.opinions: there is no model {unknown[0]!r}. Expected names of {', '.join(BASELINES)}."
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"finetune.prompt.opinions: {twice[0]!r} is there twice. Name each model once.")


def _fitted(name: str, train: Sequence[Item], seed: int, near: float | None) -> Classic:
    try:
        return Classic.fit(name, train, [], seed, near)
    except ValueError as error:  # as a baseline it would keep its row with this reason
        raise UserError(
            f"finetune.prompt.opinions: {name} cannot be fitted on {len(train)} items ({error}). Leave it out, or "
            "set finetune.prompt.opinions=[]."
        ) from error

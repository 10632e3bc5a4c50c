"""What classic models say of an item: told to a language model, which then learns what they miss."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.model_selection import GroupKFold
from sklearn.utils.parallel import Parallel, delayed

from tasks.cache import cached
from tasks.data import minhash
from tasks.data.items import Item
from tasks.data.splits import item_digest
from tasks.digests import code_digest, digest, versions
from tasks.errors import UserError
from tasks.models.classic import BASELINES, Classic
from tasks.models.estimator_files import dump, read
from tasks.models.language.hardware import free_memory
from tasks.models.language.prompts import TOLD_LIBRARIES
from tasks.models.terms import words
from tasks.paths import cache_folder
from tasks.progress import Progress

FOLDS = 4
ALONE = 1_000  # items: fewer are fitted in the time that other processes take to start
FIXED, EACH = 600 << 20, 64 << 10  # bytes of memory of a fit, and for each item; 1.0 GiB were measured for 13,000 items
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
        said = np.zeros((len(train), len(names)))
        folds = list(GroupKFold(FOLDS).split(said, groups=groups))
        calls: list[tuple] = [(_told, name, train, *fold, seed, near) for name in names for fold in folds]
        calls += [(_fitted, name, train, seed, near) for name in names]
        with Progress("what classic models say", len(calls), "fits") as progress:
            found = []
            for result in _side_by_side(calls, len(train)):
                found.append(result)
                progress.advance()
        told, fitted = found[: -len(names)], found[-len(names) :]
        for (column, (_, asked)), prices in zip(itertools.product(range(len(names)), folds), told, strict=True):
            said[asked, column] = prices
        return cls(dict(zip(names, fitted, strict=True)), np.array([item_digest(item) for item in train]), said)

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


def _side_by_side(calls: Sequence[tuple], items: int) -> Iterator[Any]:
    """What functions return for their arguments, in the order given; in several processes if there are cores and
    memory."""
    room = max(1, free_memory("cpu") // (FIXED + EACH * items))
    processes = min(len(calls), os.cpu_count() or 1, room) if items > ALONE else 1
    # Processes that have nothing left to do would keep their memory from the training that comes next.
    parallel = Parallel(processes, "loky", return_as="generator", idle_worker_timeout=1)
    done = 0
    try:
        for result in parallel(delayed(_called)(os.getpid(), *call) for call in calls):
            yield result
            done += 1
    except BrokenProcessPool:  # the system ended one, mostly for its memory
        yield from (function(*words) for function, *words in calls[done:])


def _called(by: int, function: Callable[..., Any], *words: Any) -> Any:
    """What a function returns, called by the process `by`."""
    if by != os.getpid():
        _end_with(by)
    return function(*words)


@functools.cache
def _end_with(parent: int) -> None:
    """End this process with the one that started it: if that is killed, nobody else ends this one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _told(
    name: str, train: Sequence[Item], fitted_on: np.ndarray, asked: np.ndarray, seed: int, near: float | None
) -> np.ndarray:
    """What a model that was fitted on some items says of others [len(asked)], in dollars."""
    return _fitted(name, [train[row] for row in fitted_on], seed, near).predict([train[row] for row in asked]).price


def _fitted(name: str, train: Sequence[Item], seed: int, near: float | None) -> Classic:
    try:
        return Classic.fit(name, train, [], seed, near)
    except ValueError as error:  # as a baseline it would keep its row with this reason
        raise UserError(
            f"finetune.prompt.opinions: {name} cannot be fitted on {len(train)} items ({error}). Leave it out, or "
            "set finetune.prompt.opinions=[]."
        ) from error

"""What classic models say of an item, as a language model is told it."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tasks.data.items import Item
from tasks.errors import UserError
from tasks.models.classic import Classic
from tasks.models.language import opinions as module
from tasks.models.language.opinions import Opinions
from tasks.paths import PROJECT
from tests.waiting import until

NOUNS = ["kettle", "chair", "lamp", "drill", "piano", "rug", "knife", "tent"]
FINISHES = ["steel", "oak", "copper", "plastic", "silver", "glass"]


def shop(seed: int = 0, n: int = 160) -> list[Item]:
    """Products whose noun and finish make the price, up to chance."""
    random, items = np.random.default_rng(seed), []
    for number in range(n):
        noun, finish = random.integers(len(NOUNS)), random.integers(len(FINISHES))
        price = float(10 * 1.5 ** (noun + finish / 2) * np.exp(random.normal(0, 0.2)))
        extra = " ".join(f"w{random.integers(300)}" for _ in range(8))
        items.append(Item(f"{seed}-{number}", f"{FINISHES[finish]} {NOUNS[noun]}", extra, price=price))
    return items


def test_a_training_item_is_told_what_models_say_that_have_not_seen_it() -> None:
    """An item whose price is absurd is told a price like those of its kind, and not its own; and so are the near
    duplicates that share its price. A new item with the same text is told by models that have seen them."""
    items = shop()
    absurd = [dataclasses.replace(items[3], id=f"x{number}", text=f"{items[3].text} again", price=90_000.0)
              for number in range(3)]  # fmt: skip
    opinions = Opinions.fit(["neighbours"], [*items, *absurd], seed=1)
    said = opinions.ask([*absurd, dataclasses.replace(absurd[0], id="new")])
    assert said.shape == (4, 1) and (said[:3] < 1_000).all() and said[3] > 10_000


def test_opinions_are_about_the_price_and_the_same_each_time(tmp_path: Path) -> None:
    """As good on training items, by folds, as on new ones; in the order asked for; and as before once saved."""
    items, others = shop(0), shop(1)
    opinions = Opinions.fit(["tfidf_ridge", "constant_median"], items, seed=1)
    for asked in (items, others):
        truth, said = np.array([item.price for item in asked]), opinions.ask(asked)
        errors = np.abs(said - truth[:, None]).mean(axis=0)
        assert errors[0] < 0.85 * errors[1]
    mixed = [others[0], items[5], others[1]]
    np.testing.assert_array_equal(
        opinions.ask(mixed), np.stack([opinions.ask(others)[0], opinions.said[5], opinions.ask(others)[1]])
    )
    opinions.save(tmp_path / "kept")
    np.testing.assert_array_equal(Opinions.load(tmp_path / "kept").ask(mixed), opinions.ask(mixed))
    np.testing.assert_array_equal(Opinions.fit(["tfidf_ridge"], items, seed=1).said[:, 0], opinions.said[:, 0])


def test_an_id_alone_makes_no_training_item() -> None:
    """Another shop's product may have the same one: it is asked about, and not taken for the other."""
    items = shop()
    opinions = Opinions.fit(["tfidf_ridge"], items, seed=1)
    cheap, dear = (sorted(items, key=lambda item: item.price)[place] for place in (0, -1))
    stranger = dataclasses.replace(dear, id=cheap.id)
    assert opinions.ask([stranger]) == opinions.ask([dataclasses.replace(dear, id="new")]) != opinions.ask([cheap])


def test_what_cannot_be_asked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that does not exist or is named twice, a corpus where all texts are alike, or one that a model cannot be
    fitted on. A lack of memory is no fault of the items."""
    with pytest.raises(UserError, match=r"no model 'ridge'.*tfidf_ridge"):
        Opinions.fit(["ridge"], shop(), seed=1)
    with pytest.raises(UserError, match=r"'constant' is there twice"):
        Opinions.fit(["constant", "tfidf_ridge", "constant"], shop(), seed=1)
    figures = [Item(f"a{number}", f"{number}{number}", f"{number}", price=20.0) for number in range(6)]
    with pytest.raises(UserError, match=r"word2vec_linear cannot be fitted on 4 items .*opinions=\[\]"):
        Opinions.fit(["word2vec_linear"], figures, seed=1)
    monkeypatch.setattr(Classic, "fit", lambda *_: torch.empty(1 << 60))
    with pytest.raises(RuntimeError, match="memory"):
        Opinions.fit(["network"], figures, seed=1)
    monkeypatch.undo()
    same = [Item(f"s{number}", "Steel kettle", "of brushed steel", price=20.0) for number in range(9)]
    with pytest.raises(UserError, match=r"opinions needs 4 training items.*there are 1"):
        Opinions.fit(["constant"], same, seed=1)


def test_a_small_shop_has_opinions_too() -> None:
    """Where fewer terms stand in two texts than boosting has themes."""
    items = shop(n=24)
    assert np.isfinite(Opinions.fit(["boosting"], items, seed=1).ask(items)).all()


def test_fits_side_by_side_say_what_they_say_one_after_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One at a time where memory is short; in several processes; and in this one once the system ended one of those."""
    items, names = shop(), ["tfidf_ridge", "network"]
    alone = Opinions.fit(names, items, seed=1)
    monkeypatch.setattr(module, "ALONE", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    here, told = os.getpid(), module._told
    for free in (1, 1 << 40):
        seen = tmp_path / str(free)
        seen.mkdir()
        monkeypatch.setattr(module, "free_memory", lambda _, free=free: free)
        monkeypatch.setattr(module, "_told", functools.partial(ended_elsewhere, here, seen, told))
        together = Opinions.fit(names, items, seed=1)
        assert ({file.name for file in seen.iterdir()} == {str(here)}) == (free == 1)
        np.testing.assert_array_equal(together.said, alone.said)
        np.testing.assert_array_equal(together.ask(shop(1)), alone.ask(shop(1)))


def ended_elsewhere(here: int, seen: Path, told: Callable[..., np.ndarray], name: str, *words: Any) -> np.ndarray:
    """What a fold says; but another process ends at `network`, as the system ends one that takes too much memory. Which
    processes asked ridge is left in a folder, before that."""
    if name == "network" and os.getpid() != here:
        until(lambda: any(seen.iterdir()))
        os.kill(os.getpid(), signal.SIGKILL)
    (seen / str(os.getpid())).touch()
    return told(name, *words)


def test_processes_that_fit_end_with_the_one_that_is_killed(tmp_path: Path) -> None:
    """Otherwise they would wait for ever for what comes next, with their memory."""
    asking = subprocess.Popen([sys.executable, "-c", ASKING, tmp_path], cwd=PROJECT, stderr=subprocess.DEVNULL)
    fitting = until(lambda: (seen := list(tmp_path.iterdir()))[1:] and [psutil.Process(int(one.name)) for one in seen])
    asking.kill()
    asking.wait()
    until(lambda: not any(process.is_running() for process in fitting))


ASKING = """
import os, sys
from tasks.models.language import opinions
from tests.models.language.test_opinions import stay
opinions.ALONE, os.cpu_count = 0, lambda: 2
list(opinions._side_by_side([(stay, sys.argv[1])] * 2, 1))
"""


def stay(folder: str) -> None:
    """Say which process this is, and never come back."""
    Path(folder, str(os.getpid())).touch()
    threading.Event().wait()


def test_opinions_are_fitted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For the same models, items and seed; another seed, other items, another order of the models or another idea of
    near duplicates are another thing, and what was not kept whole is made again."""
    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path))
    fitted, fit = [], Opinions.fit
    monkeypatch.setattr(Opinions, "fit", lambda *args: fitted.append(args) or fit(*args))
    items, names = shop(), ["tfidf_ridge", "constant_median"]
    first, again = (Opinions.of(names, items, 1) for _ in range(2))
    np.testing.assert_array_equal(first.ask(shop(1)), again.ask(shop(1)))
    assert len(fitted) == 1
    for other in ((names, items, 2), (names, items[1:], 1), (names[::-1], items, 1), (names, items, 1, 0.5)):
        Opinions.of(*other)
    assert len(fitted) == 5
    with pytest.raises(UserError, match="no model"):
        Opinions.of(["ridge"], items, 1)

"""Items that are nearly the same: those that a model knows from its training, and variants among test items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.data import minhash
from tasks.data.items import Item
from tasks.data.splits import Dataset


def known_from_training(items: Sequence[Item], training: Sequence[Item], near: float | None) -> np.ndarray:
    """Which of the items [n] stand among training items, by their id, their text, or a text as alike as `near`."""
    ids, texts = {item.id for item in training}, {_words(item) for item in training}
    known = np.array([item.id in ids or _words(item) in texts for item in items], dtype=bool)
    others = [place for place, same in enumerate(known) if not same]
    if not others or not training:
        return known
    words = [_words(item) for item in training]
    in_band: dict[tuple[int, int], list[int]] = {}
    for row, bands in enumerate(minhash.bands(minhash.signatures(words)).tolist()):
        for band in enumerate(bands):
            in_band.setdefault(band, []).append(row)
    theirs = minhash.bands(minhash.signatures([_words(items[place]) for place in others])).tolist()
    for place, bands in zip(others, theirs, strict=True):
        met = {row for band in enumerate(bands) for row in in_band.get(band, [])}
        known[place] = any(minhash.jaccard(_words(items[place]), words[row]) >= (near or minhash.NEAR) for row in met)
    return known


def families(items: Sequence[Item], dataset: Dataset, near: float | None) -> np.ndarray | None:
    """The number of the family [n] that each test item is of, where many are variants of one another; None where the
    error on each says something by itself, as everywhere but in some fixed test sets."""
    return minhash.groups([f"{item.title}\n{item.text}" for item in items], near) if dataset.test_products else None


def _words(item: Item) -> str:
    return f"{item.title}\n{item.text}".casefold()

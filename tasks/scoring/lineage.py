"""Whether a model knows an item from its training: the item itself, or one that is nearly the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.data import minhash
from tasks.data.items import Item


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


def _words(item: Item) -> str:
    return f"{item.title}\n{item.text}".casefold()

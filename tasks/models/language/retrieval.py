"""What the most similar training items cost: told to a language model, which then need not know it by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix

from tasks.data import minhash
from tasks.data.items import Item
from tasks.models.estimator_files import dump, read
from tasks.models.neighbours import NeighbourIndex
from tasks.models.terms import Tfidf, content_words, words

SPARE = 24  # neighbours looked at beyond those wanted, since some may be near duplicates


@dataclass(frozen=True, eq=False)
class Comparables:
    """n training items to look similar ones up in: their TF-IDF `rows` [n, terms], their `prices` [n] in US dollars."""

    terms: Tfidf
    rows: csr_matrix
    prices: np.ndarray
    ids: np.ndarray
    signatures: np.ndarray  # [n, SLOTS] of uint32: by these near duplicates are known

    @classmethod
    def fit(cls, items: Sequence[Item]) -> Self:
        """Keep the items, which have prices."""
        terms, texts = content_words(), words(items)
        rows = terms.fit_transform(texts).astype(np.float32)
        prices, ids = np.array([item.price for item in items]), np.array([item.id for item in items])
        return cls(terms, rows, prices, ids, minhash.signatures(texts))

    def look_up(self, items: Sequence[Item], count: int) -> np.ndarray:
        """What the `count` most similar items cost, or all where there are fewer, the most similar first: [m, count].

        A kept item retrieves neither itself nor its near duplicates: none of those stands in another split, and a model
        trained on them would learn to trust prices more than it may.
        """
        count = min(count, len(self.ids) - 1)
        if not items or count < 1:
            return np.zeros((len(items), 0))
        texts, ids = words(items), np.array([item.id for item in items])
        wanted = min(count + 1 + SPARE, len(self.ids))
        asked = self.terms.transform(texts).astype(np.float32)
        _, found = NeighbourIndex(self.rows).nearest(asked, wanted)
        last = 2 * (self.ids[found] == ids[:, None])
        own = np.flatnonzero(np.isin(ids, self.ids))
        signatures = minhash.signatures([texts[row] for row in own])
        for row, signature in zip(own, signatures, strict=True):
            near = minhash.likeness(signature[None], self.signatures[found[row]]) >= minhash.NEAR
            last[row] = np.maximum(last[row], near)
        order = np.argsort(last, axis=1, kind="stable")[:, :count]
        return self.prices[np.take_along_axis(found, order, axis=1)]

    def save(self, file: Path) -> None:
        """Write them."""
        dump(vars(self), file)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the file asks for types that no comparables have.
        """
        return cls(**read(file))

"""What the most similar training items cost: told to a language model, which then need not know it by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors

from tasks.data.items import Item
from tasks.models.estimator_files import dump, read
from tasks.models.terms import Tfidf, content_words, words


@dataclass(frozen=True, eq=False)
class Comparables:
    """n training items to look similar ones up in: their TF-IDF `rows` [n, terms], their `prices` [n] in US dollars."""

    terms: Tfidf
    rows: csr_matrix
    prices: np.ndarray
    ids: np.ndarray

    @classmethod
    def fit(cls, items: Sequence[Item]) -> Self:
        """Keep the items, which have prices."""
        terms = content_words()
        rows = terms.fit_transform(words(items)).astype(np.float32)
        return cls(terms, rows, np.array([item.price for item in items]), np.array([item.id for item in items]))

    def look_up(self, items: Sequence[Item], count: int) -> np.ndarray:
        """What the `count` most similar items cost, or all where there are fewer, the most similar first: [m, count].

        A kept item is not among those similar to itself: a model trained on them learns what others are worth knowing.
        """
        count = min(count, len(self.ids) - 1)
        if not items or count < 1:
            return np.zeros((len(items), 0))
        index = NearestNeighbors(n_neighbors=count + 1, metric="cosine", algorithm="brute").fit(self.rows)
        _, found = index.kneighbors(self.terms.transform(words(items)).astype(np.float32))
        itself = self.ids[found] == np.array([item.id for item in items])[:, None]
        others_first = np.argsort(itself, axis=1, kind="stable")[:, :count]
        return self.prices[np.take_along_axis(found, others_first, axis=1)]

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

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
from tasks.data.splits import item_digest
from tasks.errors import UserError
from tasks.models.estimator_files import dump, read
from tasks.models.neighbours import NeighbourIndex
from tasks.models.terms import Tfidf, content_words, words

SPARE = 24  # neighbours looked at beyond those wanted, since some may be near duplicates
MOST_VARIANTS = 1_000  # neighbours looked at in all, where an item has many variants


@dataclass(frozen=True, eq=False)
class Comparables:
    """n training items to look similar ones up in: their TF-IDF `rows` [n, terms], their `prices` [n] in US dollars and
    the digests by which they are `known` [n]."""

    terms: Tfidf
    rows: csr_matrix
    prices: np.ndarray
    known: np.ndarray
    signatures: np.ndarray  # [n, SLOTS] of uint32: by these near duplicates are known

    @classmethod
    def fit(cls, items: Sequence[Item]) -> Self:
        """Keep the items, which have prices.

        Raises:
            UserError: their texts have no words.
        """
        texts = words(items)
        terms, rows = _fitted(texts)
        prices, known = np.array([item.price for item in items]), np.array([item_digest(item) for item in items])
        return cls(terms, rows, prices, known, minhash.signatures(texts))

    def look_up(self, items: Sequence[Item], count: int) -> np.ndarray:
        """What the `count` most similar items cost, or all where there are fewer, the most similar first: [m, count].

        A kept item retrieves neither itself nor its near duplicates: none of those stands in another split, and a model
        trained on them would learn to trust prices more than it may.
        """
        count = min(count, len(self.known) - 1)
        if not items or count < 1:
            return np.zeros((len(items), 0))
        asked = self.terms.transform(words(items)).astype(np.float32)
        index, places = NeighbourIndex(self.rows), {digest: place for place, digest in enumerate(self.known)}
        # Where a kept item lies, -1 for a new one.
        own = np.array([places.get(item_digest(item), -1) for item in items])
        prices, pending, wanted = np.zeros((len(items), count)), np.arange(len(items)), count + 1 + SPARE
        while len(pending):
            wanted = min(wanted, len(self.known))
            _, found = index.nearest(asked[pending], wanted)
            last = np.stack([self._last(place, row) for place, row in zip(own[pending], found, strict=True)])
            order = np.argsort(last, axis=1, kind="stable")[:, :count]
            prices[pending] = self.prices[np.take_along_axis(found, order, axis=1)]
            if wanted >= min(MOST_VARIANTS, len(self.known)):
                break
            pending, wanted = pending[(last == 0).sum(axis=1) < count], min(8 * wanted, MOST_VARIANTS)
        return prices

    def _last(self, place: int, found: np.ndarray) -> np.ndarray:
        """Which of the neighbours [k] of the kept item at `place` come last: its near duplicates (1) and itself (2)."""
        if place < 0:
            return np.zeros(len(found), dtype=int)
        near = minhash.likeness(self.signatures[place][None], self.signatures[found]) >= minhash.NEAR
        return np.where(found == place, 2, near.astype(int))

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


def _fitted(texts: Sequence[str]) -> tuple[Tfidf, csr_matrix]:
    """The terms of texts and their rows; of few texts, or such that share no words, every word is a term."""
    for least in (2, 1):
        terms = content_words().set_params(min_df=least)
        try:
            return terms, terms.fit_transform(texts).astype(np.float32)
        except ValueError:  # no term stands in so many texts
            continue
    raise UserError("The training texts have no words to find similar ones by. Set finetune.prompt.comparables=0.")

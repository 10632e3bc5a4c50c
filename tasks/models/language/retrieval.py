"""What the most similar training items cost: told to a language model, which then need not know it by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix

from tasks.config.experiment import Prompt
from tasks.data import minhash
from tasks.data.items import Item
from tasks.data.splits import item_digest
from tasks.errors import UserError
from tasks.models.estimator_files import dump, read
from tasks.models.language.encoder import asked_for, identity, loaded, vectors_of
from tasks.models.language.prompts import ENOUGH
from tasks.models.neighbours import NeighbourIndex
from tasks.models.terms import Tfidf, content_words, words

SPARE = 24  # neighbours looked at beyond those wanted, since some may be near duplicates
MOST_VARIANTS = 1_000  # neighbours looked at in all, where an item has many variants
FUSION = 60  # of reciprocal rank fusion (Cormack et al. 2009): how little the first ranks count more than the next


@dataclass(frozen=True, eq=False)
class Comparables:
    """n training items to look similar ones up in: their `prices` [n] in US dollars, the digests by which they are
    `known` [n], and what similar is told by: the TF-IDF `rows` [n, terms] of their words, the `vectors` [n, size] of
    what they mean by an `encoder`, or both."""

    prices: np.ndarray
    known: np.ndarray
    groups: np.ndarray  # [n]: near duplicates are of one group
    terms: Tfidf | None = None
    rows: csr_matrix | None = None
    encoder: tuple[str, str] | None = None  # its name, and what it was
    vectors: np.ndarray | None = None
    titles: np.ndarray | None = None  # [n], where a prompt holds them

    @classmethod
    def fit(
        cls, items: Sequence[Item], prompt: Prompt, near: float | None = minhash.NEAR, device: str = "auto"
    ) -> Self:
        """Keep of the items, which have prices, what a prompt tells of them. `near` says how alike near duplicates are;
        None where none are kept out of the other splits. An encoder computes on the `device`.

        Raises:
            UserError: their texts have no words, or there is no such encoder.
        """
        texts = words(items)
        kept: dict[str, Any] = {}
        if prompt.nearest != "meaning":
            kept["terms"], kept["rows"] = _fitted(texts)
        if asked_for(prompt):
            kept["encoder"] = prompt.encoder, identity(prompt.encoder)
            kept["vectors"] = vectors_of(prompt.encoder, texts, device)
        if prompt.titles:
            kept["titles"] = np.array([item.title[: ENOUGH * prompt.titles] for item in items])
        prices, known = np.array([item.price for item in items]), np.array([item_digest(item) for item in items])
        return cls(prices, known, minhash.groups(texts, near), **kept)

    def look_up(self, items: Sequence[Item], count: int, device: str = "auto") -> np.ndarray:
        """The places of the `count` most similar items, or of all where there are fewer, the most similar first:
        [m, count].

        A kept item retrieves neither itself nor its near duplicates: none of those stands in another split, and a model
        trained on them would learn to trust prices more than it may.

        Raises:
            ModelGoneError: the encoder is not the one that made the vectors.
        """
        count = min(count, len(self.known) - 1)
        if not items or count < 1:
            return np.zeros((len(items), 0), dtype=int)
        places = {digest: place for place, digest in enumerate(self.known)}
        # Where a kept item lies, -1 for a new one.
        own = np.array([places.get(item_digest(item), -1) for item in items])
        ways = self._ways(items, own, device)
        chosen, pending, wanted = np.zeros((len(items), count), dtype=int), np.arange(len(items)), count + 1 + SPARE
        while len(pending):
            wanted = min(wanted, len(self.known))
            found = fused([NeighbourIndex(rows).nearest(asked[pending], wanted)[1] for rows, asked in ways])
            last = np.stack([self._last(place, row) for place, row in zip(own[pending], found, strict=True)])
            order = np.argsort(last, axis=1, kind="stable")[:, :count]
            chosen[pending] = np.take_along_axis(found, order, axis=1)
            if wanted >= min(MOST_VARIANTS, len(self.known)):
                break
            pending, wanted = pending[(last == 0).sum(axis=1) < count], min(8 * wanted, MOST_VARIANTS)
        return chosen

    def _ways(self, items: Sequence[Item], own: np.ndarray, device: str) -> list[tuple[Any, Any]]:
        """Rows of the kept items and rows of those asked about, for each way to tell how similar they are."""
        texts, ways = words(items), []
        if self.terms is not None:
            ways.append((self.rows, self.terms.transform(texts).astype(np.float32)))
        if self.vectors is not None:
            asked = self.vectors[own]
            if (own < 0).any():
                new = [text for text, place in zip(texts, own, strict=True) if place < 0]
                assert self.encoder is not None, "who keeps vectors keeps the name of what made them"
                asked[own < 0] = loaded(*self.encoder, device).vectors(new)
            ways.append((self.vectors, asked))
        return ways

    def _last(self, place: int, found: np.ndarray) -> np.ndarray:
        """Which of the neighbours [k] of the kept item at `place` come last: its near duplicates (1) and itself (2)."""
        if place < 0:
            return np.zeros(len(found), dtype=int)
        return np.where(found == place, 2, self.groups[found] == self.groups[place])

    def save(self, file: Path) -> None:
        """Write them."""
        dump(vars(self), file)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote. Those of an earlier version know no groups: they answer new items as they did, and a
        training item, on which nobody trains any more, is told of its near duplicates, too.

        Raises:
            ValueError: the file asks for types that no comparables have.
        """
        kept = read(file)
        if "groups" not in kept:
            kept = {name: value for name, value in kept.items() if name not in ("signatures", "near")}
            kept["groups"] = np.arange(len(kept["known"]))
        return cls(**kept)


def fused(ways: Sequence[np.ndarray]) -> np.ndarray:
    """One ranking of several [m, count] by reciprocal rank fusion: what stands high in all of them comes first."""
    if len(ways) == 1:
        return ways[0]
    fused = np.zeros_like(ways[0])
    for row, ranked in enumerate(zip(*ways, strict=True)):
        score: dict[int, float] = {}
        for places in ranked:
            for rank, place in enumerate(places.tolist(), start=1):
                score[place] = score.get(place, 0) + 1 / (FUSION + rank)
        # Ties by place, so that the order is the same each time.
        fused[row] = sorted(score, key=lambda place: (-score[place], place))[: fused.shape[1]]
    return fused


def _fitted(texts: Sequence[str]) -> tuple[Tfidf, csr_matrix]:
    """The terms of texts and their rows."""
    terms = content_words()
    rows = terms.fit_transform(texts).astype(np.float32)
    if not rows.nnz:
        raise UserError("The training texts have no words to find similar ones by. Set finetune.prompt.comparables=0.")
    return terms, rows

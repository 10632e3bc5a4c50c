"""The most similar rows of a sparse matrix: exact for some thousands of rows, nearly so for hundreds of thousands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from sklearn import config_context
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

EXACT = 20_000  # rows: with more, looking up all of them among themselves takes hours
COMMON = 400  # rows: a term that more of them hold names no candidates where there are more rows than EXACT
CANDIDATES = 100  # of which the most similar ones are found exactly
CHUNK = 1_000  # rows looked up at once
MOST_ALIKE = 500  # rows looked up at once for each, so that enough are left without those of its group
AT_ONCE = 64  # MiB of distances, of which scikit-learn keeps a GiB: twice as fast, since they stay nearer the processor


@dataclass(eq=False)
class NeighbourIndex:
    """n rows [n, features] to look similar ones up in, by the cosine.

    With more than EXACT rows the terms that many of them hold are left out when candidates are looked for: they make
    nearly all of the work and say least. The candidates are then ranked by all terms. How many of the true neighbours
    that finds, and in which time, is measured by benchmarks/told/neighbours.py. Of dense rows all are compared.
    """

    rows: csr_matrix | np.ndarray
    exact: int = EXACT
    common: int = COMMON

    def nearest(
        self, queries: csr_matrix | np.ndarray | None, count: int, groups: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The similarities [m, count] and the places [m, count] of the most similar rows, the most similar first.

        Without `queries`, those of the n rows themselves, of which none is its own neighbour, nor is any of its group
        [n]; if too few others are left, some of the group come last, as similar as nothing.
        """
        if groups is None:
            groups = np.arange(self.rows.shape[0])
        # So many more are looked up as the largest group has: all of them may be nearer than any other row.
        most = int(np.bincount(groups).max()) - 1 if queries is None else 0
        looked_up = max(count, min(count + most, len(groups) - 1))
        few = self.rows.shape[0] <= self.exact
        if isinstance(self.rows, np.ndarray) or (few and (not most or looked_up <= MOST_ALIKE)):
            return self._among_all(queries, count, looked_up, groups)
        asked = self.rows if queries is None else queries
        rows = normalize(self.rows)
        rare = np.bincount(self.rows.indices, minlength=self.rows.shape[1]) <= (len(groups) if few else self.common)
        columns = rows[:, rare].T.tocsr()
        found = []
        for start in range(0, asked.shape[0], CHUNK):
            some = normalize(asked[start : start + CHUNK])
            own = start + np.arange(some.shape[0]) if queries is None else None
            found.append(self._ranked(rows, columns, some, some[:, rare], own, count, groups))
        similarities, places = zip(*found, strict=True)
        return np.concatenate(similarities), np.concatenate(places)

    def _among_all(
        self, queries: csr_matrix | np.ndarray | None, count: int, looked_up: int, groups: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        index = NearestNeighbors(n_neighbors=looked_up, metric="cosine", algorithm="brute").fit(self.rows)
        with config_context(working_memory=AT_ONCE):
            distances, places = index.kneighbors(queries)
        similarities = 1 - distances
        if queries is not None:
            return similarities, places
        own = groups[places] == groups[:, None]
        order = np.argsort(own, axis=1, kind="stable")[:, :count]
        similarities, places, own = (np.take_along_axis(one, order, axis=1) for one in (similarities, places, own))
        return np.where(own, 0.0, similarities), places

    def _ranked(
        self,
        rows: csr_matrix,
        columns: csr_matrix,
        asked: csr_matrix,
        rare: csr_matrix,
        own: np.ndarray | None,
        count: int,
        groups: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        shared = (rare @ columns).tocsr()
        similarities, places = np.empty((asked.shape[0], count)), np.empty((asked.shape[0], count), dtype=np.int64)
        for row in range(asked.shape[0]):
            span = slice(shared.indptr[row], shared.indptr[row + 1])
            met, score = shared.indices[span], shared.data[span]
            group = -1 if own is None else groups[own[row]]
            other = groups[met] != group
            met, score = met[other], score[other]
            if len(met) > CANDIDATES:
                met = met[np.argpartition(-score, CANDIDATES)[:CANDIDATES]]
            if len(met) < count:  # it has hardly a rare term: all rows are candidates
                met = np.flatnonzero(groups != group)
            if own is not None and len(met) < count:  # nearly all are of its group
                met = np.delete(np.arange(rows.shape[0]), own[row])
            met = np.sort(met)
            exact = (rows[met] @ asked[row].T).toarray()[:, 0]
            exact[groups[met] == group] = 0
            best = np.argsort(-exact, kind="stable")[:count]
            similarities[row], places[row] = exact[best], met[best]
        return similarities, places

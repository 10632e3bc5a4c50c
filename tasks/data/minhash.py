"""How alike two texts are: MinHash signatures, and the bands by which like ones find each other.

The likeness of two texts is the Jaccard index of their words and pairs of neighbouring words. A signature estimates it
(Broder 1997; computed by rensa); texts that agree in all slots of a band are compared (locality-sensitive hashing).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

NEAR = 0.7  # texts this alike are near duplicates, where no conf says otherwise
ERROR = 0.12  # an estimate lies at most so far below the Jaccard index, but for 1 in 400
SLOTS, ROWS = 120, 5  # 24 bands of 5: two texts of likeness 0.7 meet with a probability of 0.99, of 0.8 with 0.9999
# Han and kana, whose words no spaces part. In Thai, Khmer and Burmese vowel signs, which are no \w, cut the lines up.
UNSPACED = r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
BATCH = 500  # texts whose words are held at once
MOST_WORDS = 1_000  # of a long text, its start
HELD = 10_000  # texts whose words are kept for the next comparison, with a few KB each
BESIDE = 16  # texts of a band that each text is compared with; near duplicates share other, smaller bands, too


def word_pattern(least: int = 1) -> str:
    """A regular expression for words of `least` letters and more; each Chinese or Japanese character is one."""
    return rf"[^\W{UNSPACED}]{{{least},}}|[{UNSPACED}](?<=\w)"


WORD = re.compile(word_pattern())
ASCII_WORD = re.compile(r"\w+")  # finds the same in ASCII, in three quarters of the time


def signatures(texts: Sequence[str]) -> np.ndarray:
    """The signatures of texts, as (texts, SLOTS) of uint32; the same on any machine."""
    import rensa

    digests = np.empty((len(texts), SLOTS), np.uint32)
    for start in range(0, len(texts), BATCH):
        shingles = [_shingles(text) for text in texts[start : start + BATCH]]
        digests[start : start + BATCH] = rensa.RMinHash.digest_matrix_from_token_sets(shingles, SLOTS, 1).to_rows()
    return digests


def _shingles(text: str) -> list[str]:
    words = _words(text)
    return [*words, *map(" ".join, pairwise(words))]


def _words(text: str) -> list[str]:
    pattern = ASCII_WORD if text.isascii() else WORD
    return pattern.findall(text.casefold())[:MOST_WORDS]


def jaccard(one: str, other: str) -> float:
    """The Jaccard index of the words and word pairs of two texts, which the signatures estimate."""
    both = np.sort(np.concatenate([_hashes(one), _hashes(other)]))
    shared = np.count_nonzero(both[1:] == both[:-1])
    return shared / max(1, len(both) - shared)


@functools.lru_cache(HELD)
def _hashes(text: str) -> np.ndarray:
    """Numbers of 64 bits for the distinct words and word pairs of a text, in a tenth of the memory of a set of strings.

    They are kept: where every text holds the same terms of delivery, each one is compared with dozens of others.
    """
    words = np.fromiter(map(hash, _words(text)), np.int64)
    both = np.sort(np.concatenate([words, 3 * words[:-1] + 5 * words[1:]]))
    return np.concatenate([both[:1], both[1:][both[1:] != both[:-1]]])


def bands(signature: np.ndarray) -> np.ndarray:
    """One number for each band of each signature, as (texts, SLOTS // ROWS) of uint64: equal bands, equal numbers."""
    rows = signature.reshape(len(signature), SLOTS // ROWS, ROWS).astype(np.uint64)
    mixed = np.broadcast_to(np.arange(SLOTS // ROWS, dtype=np.uint64), rows.shape[:2]).copy()
    for slot in range(ROWS):
        mixed = (mixed ^ rows[:, :, slot]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The estimated Jaccard index of each pair of signatures; its standard error is at most 0.05."""
    return (one == other).mean(axis=1)


def groups(texts: Sequence[str], near: float | None = NEAR) -> np.ndarray:
    """The number of each text's group [n]: near duplicates, and near duplicates of those, are of one group. Without
    `near` each text is a group, as where no near duplicates are kept out of the other splits."""
    if near is None:
        return np.arange(len(texts))
    signed, met = signatures(texts), []
    for band in bands(signed).T:
        order = np.argsort(band, kind="stable")
        for step in range(1, BESIDE + 1):
            same = band[order][step:] == band[order][:-step]
            met.append(np.column_stack([order[:-step][same], order[step:][same]]))
    pairs = np.unique(np.sort(np.concatenate(met), axis=1), axis=0)
    pairs = pairs[likeness(*(signed[side] for side in pairs.T)) >= near - ERROR]
    alike = np.array([jaccard(texts[one], texts[other]) >= near for one, other in pairs], dtype=bool)
    edges = coo_matrix((np.ones(alike.sum()), pairs[alike].T), shape=(len(texts), len(texts)))
    return connected_components(edges, directed=False)[1]

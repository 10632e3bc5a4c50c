"""What the classic models see of an item, and the transformers that scikit-learn does not have."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin, clone
from sklearn.model_selection import GroupKFold, cross_val_predict

from tasks.data import minhash
from tasks.data.items import Item
from tasks.digests import fraction
from tasks.models.neighbours import NeighbourIndex
from tasks.models.terms import content_words, words

if TYPE_CHECKING:
    from pandas import DataFrame

POUNDS = {"pound": 1, "lb": 1, "ounce": 1 / 16, "oz": 1 / 16, "gram": 0.00220462, "kilogram": 2.20462, "kg": 2.20462}
# A number is begun at its first digit alone, and spaces are matched in one way: a text of thousands of digits would
# otherwise be tried from each of them, for hours.
WEIGHT = re.compile(r"(?<![\d.,])([\d.,]*\d)\s*(hundredths\s+)?(pound|lb|ounce|oz|kilogram|kg|gram)", re.IGNORECASE)
# A comma before one or two last digits, or behind a lone zero, is that of 0,75 kg; before three, that of 1,500 pounds.
DECIMAL_COMMA = re.compile(r"(\d+|\d{1,3}(?:\.\d{3})+),\d{1,2}|0,\d+")
RANK = re.compile(r"#?(?<![\d,])([\d,]*\d)\s+in\b")
BY = r"\"?\s*[x\u00d7]\s*"
SIDE = r"(\d+(?:\.\d*)?)"
# Without a unit of those who write decimals so, a comma may part two measures: a wheel of 20x12,6x135 has six bolts.
COMMA_SIDE = r"(\d+(?:,\d{1,2})?)"
SIZE = re.compile(
    rf"(?<!\d)(?:(?<!\d[.,]){COMMA_SIDE}{BY}{COMMA_SIDE}{BY}{COMMA_SIDE}(?=\s*[cdm\u0441\u0434\u043c]?[m\u043c]\b)"
    rf"|{SIDE}{BY}{SIDE}{BY}{SIDE})",
    re.IGNORECASE,
)
PACK = re.compile(r"(?:pack|set|box|case) of (\d+)|(?<!\d)(\d+)(?:\s*-)?\s*(?:pack|pcs|pieces?|count)\b", re.IGNORECASE)
NUMBER = re.compile(r"\d+\.?\d*")
# The recipe's own list of electronics brands that sell for more.
TOP_BRANDS = {"hp", "dell", "lenovo", "samsung", "asus", "sony", "canon", "apple", "intel"}
# The numeric columns of `table`; logarithms of what spans magnitudes.
STRUCTURED = ["weight", "heaviest", "volume", "pack", "title_length", "text_length", "numbers", "largest_number"]


def nothing(items: Sequence[Item]) -> np.ndarray:
    """No information at all, shape [n, 1]."""
    return np.zeros((len(items), 1))


def drawn(items: Sequence[Item]) -> np.ndarray:
    """A number in [0, 1) drawn by the hash of the text, shape [n], so that it is the same in every process."""
    return np.array([fraction(0, text) for text in words(items)], dtype=float)


def basic_features(items: Sequence[Item]) -> np.ndarray:
    """The recipe's four features, shape [n, 4]: weight in pounds, best sellers rank, text length, top brand; NaN where
    the details do not say."""
    rows = [
        [_detail_weight(item), _rank(item), len(item.title) + len(item.text), _top_brand(item)]
        for item in items
    ]  # fmt: skip
    return np.array(rows, dtype=float)


def _detail_weight(item: Item) -> float:
    return next(iter(weights(item.details.get("Item Weight", ""))), np.nan)


def weights(text: str) -> list[float]:
    """The weights that a text states, in pounds, in their order; none that no number can hold."""
    found = WEIGHT.findall(text)
    return [
        weight
        for number, hundredths, unit in found
        if number.count(".") < 2
        and math.isfinite(weight := float(_plain(number)) * POUNDS[unit.lower()] / (100 if hundredths else 1))
    ]


def _plain(number: str) -> str:
    """A number with a point before its decimals, and no other marks."""
    number = number.lstrip(",")  # of the words before it
    if DECIMAL_COMMA.fullmatch(number):
        number = number.replace(".", "").replace(",", ".")
    return number.replace(",", "")


def sizes(text: str) -> list[tuple[str, str, str]]:
    """The three sides of what a text measures, in its order and with a point before decimals; none of a volume that no
    number can hold."""
    found = (tuple(_plain(side) for side in groups if side) for groups in SIZE.findall(text))
    return [(a, b, c) for a, b, c in found if math.isfinite(_volume((a, b, c)))]


def _rank(item: Item) -> float:
    ranks = [float(rank.replace(",", "")) for rank in RANK.findall(item.details.get("Best Sellers Rank", ""))]
    mean = sum(ranks) / len(ranks) if ranks else np.nan
    return mean if math.isfinite(mean) else np.nan


def _top_brand(item: Item) -> float:
    return float(item.details.get("Brand", "").lower() in TOP_BRANDS)


def table(items: Sequence[Item]) -> DataFrame:
    """One row for each item: `words`, `title`, `category` and the columns STRUCTURED, NaN where it does not say."""
    import pandas as pd

    frame = pd.DataFrame([_structured(item) for item in items], columns=STRUCTURED, dtype=float)
    frame["words"] = words(items)
    frame["title"] = [item.title for item in items]
    frame["category"] = [item.category for item in items]
    return frame


def _structured(item: Item) -> list[float]:
    text = f"{item.title}\n{item.text}"
    heavy = weights(text)
    volumes, pieces = [_volume(sides) for sides in sizes(text)], packs(text)
    numbers = [float(number[:12]) for number in NUMBER.findall(item.title)]
    return [
        np.log(heavy[0] + 1e-3) if heavy else np.nan,
        np.log(max(heavy) + 1e-3) if heavy else np.nan,
        np.log1p(max(volumes)) if volumes else np.nan,
        np.log(max(pieces)) if pieces else np.nan,
        np.log1p(len(item.title)),
        np.log1p(len(item.text)),
        len(numbers),
        np.log1p(max(numbers)) if numbers else np.nan,
    ]


def stated(item: Item) -> str:
    """The heaviest weight, the largest measures and the largest pack that a text states, such as "Weight 0.75 pounds,
    pack of 2"; empty where it states none."""
    text, parts = f"{item.title}\n{item.text}", []
    if heavy := weights(text):
        parts.append(f"weight {round(max(heavy), 2):g} pounds")
    if found := sizes(text):
        parts.append(" x ".join(max(found, key=_volume)))
    if pieces := packs(text):
        parts.append(f"pack of {max(pieces)}")
    words = ", ".join(parts)
    return f"{words[:1].upper()}{words[1:]}"


def packs(text: str) -> list[int]:
    """How many pieces packs, sets and boxes hold that a text states, in their order; below 1,000."""
    return [size for match in PACK.findall(text) if 0 < (size := int((match[0] or match[1])[:6])) < 1000]


def _volume(sides: Sequence[str]) -> float:
    return math.prod(map(float, sides))


class WordVectors(TransformerMixin, BaseEstimator):
    """The mean of the word2vec vectors of a text's words (Mikolov et al. 2013), learned from the training texts: texts
    [n] -> [n, size]. The recipe's settings."""

    def __init__(self, size: int = 400, random_state: int = 0) -> None:
        self.size, self.random_state = size, random_state

    def fit(self, texts: Sequence[str], target: Any = None) -> Self:
        """Learn the vectors of the words; `target` is not looked at.

        Raises:
            ValueError: there are no words.
        """
        del target
        from gensim.models import Word2Vec

        tokens = [_tokens(text) for text in texts]
        if not any(tokens):
            raise ValueError("word vectors need words of 2 to 15 letters, and no training item has one")
        # More than one worker would train in another order each time.
        model = Word2Vec(
            tokens,
            vector_size=self.size,
            window=5,
            min_count=1,
            workers=1,
            seed=self.random_state,
        )
        self.words_, self.vectors_ = np.array(model.wv.index_to_key), model.wv.vectors
        return self

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """The mean vector of each text; zero where it holds no known word."""
        place = {word: row for row, word in enumerate(self.words_.tolist())}
        means = np.zeros((len(texts), self.size))
        for row, text in enumerate(texts):
            known = [place[token] for token in _tokens(text) if token in place]
            if known:
                means[row] = self.vectors_[known].mean(axis=0)
        return means


def _tokens(text: str) -> list[str]:
    from gensim.utils import simple_preprocess

    return simple_preprocess(text)


class Neighbours(RegressorMixin, TransformerMixin, BaseEstimator):
    """What the most similar training items cost.

    Similarity is the cosine of two rows, its `power` the weight of a neighbour. As a regressor it answers with the
    weighted median of the targets, which fits absolute error; as a transformer it gives six figures: their weighted
    mean and median, the nearest one's target and similarity, the farthest one's similarity, and the weighted spread.
    Neither training items nor their near duplicates are their own neighbours, so that a model which learns from the
    figures is not misled: no item that it will be asked for has a near duplicate among these.
    """

    def __init__(self, count: int = 20, power: float = 3.0) -> None:
        self.count, self.power = count, power

    def fit(self, rows: csr_matrix, target: np.ndarray) -> Self:
        """Keep the rows [n, features] and their targets [n].

        Raises:
            ValueError: there are fewer than two rows.
        """
        if rows.shape[0] < 2:
            raise ValueError(f"neighbours need at least two training items, got {rows.shape[0]}")
        self.index_ = NeighbourIndex(csr_matrix(rows))
        self.target_ = np.asarray(target, dtype=float)
        return self

    def fit_transform(self, rows: csr_matrix, target: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
        """The figures of the training items themselves, shape [n, 6], each without all of its group of near
        duplicates [n], or without itself alone."""
        return self.fit(rows, target)._figures(None, groups)

    def transform(self, rows: csr_matrix) -> np.ndarray:
        """The figures of other items, shape [n, 6]."""
        return self._figures(rows)

    def predict(self, rows: csr_matrix) -> np.ndarray:
        """The weighted median of the neighbours' targets, shape [n]."""
        return self._figures(rows)[:, 1]

    def _figures(self, rows: csr_matrix | None, groups: np.ndarray | None = None) -> np.ndarray:
        similarity, found = self.index_.nearest(rows, min(self.count, len(self.target_) - 1), groups)
        similarity = np.clip(similarity, 1e-6, 1)
        targets, weight = self.target_[found], similarity**self.power
        weight /= weight.sum(axis=1, keepdims=True)
        mean = (weight * targets).sum(axis=1)
        spread = np.sqrt((weight * (targets - mean[:, None]) ** 2).sum(axis=1))
        order = np.argsort(targets, axis=1)
        reached = np.take_along_axis(weight, order, axis=1).cumsum(axis=1) >= 0.5 - 1e-12
        middle = np.take_along_axis(order, reached.argmax(axis=1)[:, None], axis=1)
        median = np.take_along_axis(targets, middle, axis=1)[:, 0]
        return np.column_stack([mean, median, targets[:, 0], similarity[:, 0], similarity[:, -1], spread])


class NeighboursOfTexts(TransformerMixin, BaseEstimator):
    """The figures of `Neighbours`, shape [n, 6], by the words of texts; `near` says how alike near duplicates are."""

    def __init__(self, near: float | None = minhash.NEAR) -> None:
        self.near = near

    def fit(self, texts: Sequence[str], target: np.ndarray) -> Self:
        """Keep the rows of the texts [n] and their targets [n]."""
        self.fit_transform(texts, target)
        return self

    def fit_transform(self, texts: Sequence[str], target: np.ndarray) -> np.ndarray:
        """Keep them, and give the figures of these texts themselves."""
        self.terms_, self.neighbours_ = content_words(), Neighbours()
        rows = self.terms_.fit_transform(texts)
        return self.neighbours_.fit_transform(rows, target, minhash.groups(list(texts), self.near))

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """The figures of other texts."""
        return self.neighbours_.transform(self.terms_.transform(texts))


class OutOfFold(TransformerMixin, BaseEstimator):
    """Another estimator's prediction from texts as a feature, shape [n, 1]: of training items by folds that saw neither
    them nor their near duplicates, which are `near` alike (stacked generalization, Wolpert 1992), of others by a fit on
    all. Of few groups of near duplicates there are fewer folds."""

    def __init__(self, estimator: Any, near: float | None = minhash.NEAR, folds: int = 5) -> None:
        self.estimator, self.near, self.folds = estimator, near, folds

    def fit(self, texts: Sequence[str], target: np.ndarray) -> Self:
        """Fit on all texts."""
        self.fitted_ = clone(self.estimator).fit(texts, target)
        return self

    def fit_transform(self, texts: Sequence[str], target: np.ndarray) -> np.ndarray:
        """Fit, and predict the training items by the folds.

        Raises:
            ValueError: all texts are near duplicates of each other.
        """
        self.fit(texts, target)
        groups = minhash.groups(list(texts), self.near)
        if (apart := len(set(groups.tolist()))) < 2:
            raise ValueError("predictions by folds need two training items that are not near duplicates of each other")
        folds = GroupKFold(min(self.folds, apart), shuffle=True, random_state=0)
        return cross_val_predict(self.estimator, texts, target, groups=groups, cv=folds).reshape(-1, 1)

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Predict other items."""
        return self.fitted_.predict(texts).reshape(-1, 1)

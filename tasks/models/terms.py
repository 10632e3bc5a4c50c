"""The words of items, counted and weighed; a language model that is told of comparables finds them by these."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from tasks.data.items import Item
from tasks.data.minhash import UNSPACED, word_pattern

# Words of two letters and more, and of any length; and the same with Chinese and Japanese characters as words.
WITH_CHARACTERS = {r"(?u)\b\w\w+\b": word_pattern(2), r"\b\w+\b": word_pattern()}
CHARACTER = re.compile(f"[{UNSPACED}]")
NO_TERM = ""  # a term that no text has
MANY = 0.1  # of the texts: a few foreign lines are no reason to read a catalogue in another way


def words(items: Sequence[Item]) -> list[str]:
    """Title and text of each item."""
    return [f"{item.title}\n{item.text}" for item in items]


class _Terms:
    """Finds words in Chinese and Japanese as well, and keeps a vocabulary as one string: as a dictionary, a saved model
    would hold it number by number, in minutes."""

    def fit_transform(self, raw_documents: Any, y: Any = None) -> Any:
        """As upstream; but if many of the texts have characters that no spaces part, each of these is a word."""
        if sum(CHARACTER.search(text) is not None for text in raw_documents) > MANY * len(raw_documents):
            self.token_pattern = WITH_CHARACTERS.get(self.token_pattern, self.token_pattern)
        return super().fit_transform(raw_documents, y)  # ty: ignore[missing-attribute]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # ty: ignore[no-matching-overload] - of the vectorizer beside it
        if "vocabulary_" in state:
            state["vocabulary_"] = "\n".join(sorted(state["vocabulary_"], key=state["vocabulary_"].get))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "vocabulary_" in state:
            terms = state["vocabulary_"].split("\n")
            state = {**state, "vocabulary_": {term: column for column, term in enumerate(terms)}}
        super().__setstate__(state)  # ty: ignore[missing-attribute]


class Counts(_Terms, CountVectorizer):
    """scikit-learn's counts of words; saved in a second."""


class Tfidf(_Terms, TfidfVectorizer):
    """scikit-learn's TF-IDF; saved in a second, and fitted on any texts: titles may be empty, or share no words."""

    def fit_transform(self, raw_documents: Any, y: Any = None) -> Any:
        """As upstream; where no term stands in `min_df` texts every one counts, and texts without any have one column
        of zeros."""
        try:
            return super().fit_transform(raw_documents, y)
        except ValueError:  # no term stands in so many texts
            if self.vocabulary is not None:
                raise
            if self.min_df == 1:
                self.vocabulary = [NO_TERM]
            self.min_df = 1
            return self.fit_transform(raw_documents, y)


class Themes(TruncatedSVD):
    """scikit-learn's truncated SVD, with no more components than there are terms."""

    def fit_transform(self, X: Any, y: Any = None) -> Any:  # noqa: N803 - scikit-learn's name
        """As upstream; of few terms there are fewer themes.

        Raises:
            ValueError: there is only one term, or none.
        """
        if X.shape[1] < 2:
            raise ValueError(
                'themes need training items with two different words ("the", "of" and the like do not count)'
            )
        self.n_components = min(self.n_components, X.shape[1])
        return super().fit_transform(X, y)


def content_words() -> Tfidf:
    """TF-IDF without the words that every text has: what similar products share."""
    return Tfidf(ngram_range=(1, 2), min_df=2, max_features=50_000, sublinear_tf=True, stop_words="english")

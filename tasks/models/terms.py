"""The words of items, counted and weighed; a language model that is told of comparables finds them by these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from tasks.data.items import Item


def words(items: Sequence[Item]) -> list[str]:
    """Title and text of each item."""
    return [f"{item.title}\n{item.text}" for item in items]


class _Compact:
    """Keeps a vocabulary as one string: as a dictionary, a saved model would hold it number by number, in minutes."""

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


class Counts(_Compact, CountVectorizer):
    """scikit-learn's counts of words; saved in a second."""


class Tfidf(_Compact, TfidfVectorizer):
    """scikit-learn's TF-IDF; saved in a second."""


class Themes(TruncatedSVD):
    """scikit-learn's truncated SVD, with no more components than there are terms."""

    def fit_transform(self, X: Any, y: Any = None) -> Any:  # noqa: N803 - scikit-learn's name
        """As upstream; of few terms there are fewer themes."""
        self.n_components = min(self.n_components, X.shape[1])
        return super().fit_transform(X, y)


def content_words() -> Tfidf:
    """TF-IDF without the words that every text has: what similar products share."""
    return Tfidf(ngram_range=(1, 2), min_df=2, max_features=50_000, sublinear_tf=True, stop_words="english")

"""The classic models: features of the items and an estimator of scikit-learn. A new one is one entry in BASELINES."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import LinearSVR
from threadpoolctl import threadpool_limits

from tasks.data import minhash
from tasks.data.items import Item
from tasks.errors import ModelGoneError
from tasks.models.estimator_files import dump, read
from tasks.models.features import (
    STRUCTURED,
    Neighbours,
    NeighboursOfTexts,
    OutOfFold,
    WordVectors,
    basic_features,
    drawn,
    nothing,
    table,
)
from tasks.models.intervals import conformal, interval
from tasks.models.network import Network
from tasks.models.predictor import Predictions
from tasks.models.terms import Counts, Tfidf, Themes, content_words, words

ESTIMATOR = "estimator.skops"


class Baseline(NamedTuple):
    """`features` of the items go into `estimator(seed, near)`, which learns the price, or its logarithm; without an
    estimator the features are where the price lies between the lowest and the highest of training."""

    features: Callable[[Sequence[Item]], Any]
    estimator: Callable[[int, float | None], Any] | None
    log: bool = False


def ridge() -> Pipeline:
    """Ridge regression on the TF-IDF of words and word pairs."""
    return make_pipeline(Tfidf(ngram_range=(1, 2), min_df=2, sublinear_tf=True), Ridge(alpha=1.0))


def boosting(seed: int, near: float | None) -> Pipeline:
    """Gradient boosting on reduced TF-IDF, the structured fields, the neighbours' prices and what ridge would say."""
    unknown = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer(
        [
            ("themes", make_pipeline(content_words(), Themes(100, random_state=seed)), "words"),
            ("neighbours", NeighboursOfTexts(near), "words"),
            ("ridge", OutOfFold(ridge(), near), "words"),
            ("category", unknown, ["category"]),
            # Not as NaN: scikit-learn's trees stumble over a column that holds nothing else.
            ("structured", SimpleImputer(strategy="constant", fill_value=-10, keep_empty_features=True), STRUCTURED),
        ],
        sparse_threshold=0,
    )
    trees = HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=300, learning_rate=0.05, max_features=0.5, random_state=seed
    )
    return make_pipeline(columns, trees)


def network(seed: int, near: float | None) -> Pipeline:
    """Small networks on the words of text and title, the structured fields and the neighbours' prices."""

    def terms(count: int) -> Tfidf:
        return Tfidf(ngram_range=(1, 2), min_df=2, max_features=count, sublinear_tf=True, token_pattern=r"\b\w+\b")

    numbers = make_pipeline(SimpleImputer(keep_empty_features=True, add_indicator=True), StandardScaler())
    columns = ColumnTransformer(
        [
            ("words", terms(30_000), "words"),
            ("title", terms(20_000), "title"),
            ("category", OneHotEncoder(handle_unknown="ignore"), ["category"]),
            ("neighbours", make_pipeline(NeighboursOfTexts(near), StandardScaler()), "words"),
            ("structured", numbers, STRUCTURED),
        ],
        # A term of a text weighs about a tenth; these few must not drown them.
        transformer_weights={"category": 0.5, "neighbours": 0.3, "structured": 0.3},
        sparse_threshold=1,
    )
    return make_pipeline(columns, Network(random_state=seed))


BASELINES: dict[str, Baseline] = {
    "random": Baseline(drawn, None),
    "constant": Baseline(nothing, lambda *_: DummyRegressor(strategy="mean")),
    "constant_median": Baseline(nothing, lambda *_: DummyRegressor(strategy="median")),
    "basic_features": Baseline(
        basic_features, lambda *_: make_pipeline(SimpleImputer(keep_empty_features=True), LinearRegression())
    ),
    "bag_of_words": Baseline(
        words, lambda *_: make_pipeline(Counts(max_features=1000, stop_words="english"), LinearRegression())
    ),
    "word2vec_linear": Baseline(
        words, lambda seed, _: make_pipeline(WordVectors(random_state=seed), LinearRegression())
    ),
    "word2vec_svr": Baseline(
        words, lambda seed, _: make_pipeline(WordVectors(random_state=seed), LinearSVR(random_state=seed))
    ),
    "word2vec_forest": Baseline(
        words,
        lambda seed, _: make_pipeline(
            WordVectors(random_state=seed), RandomForestRegressor(random_state=seed, n_jobs=-1)
        ),
    ),
    "tfidf_ridge": Baseline(words, lambda *_: ridge(), log=True),
    "neighbours": Baseline(words, lambda *_: make_pipeline(content_words(), Neighbours()), log=True),
    "boosting": Baseline(table, boosting, log=True),
    "network": Baseline(table, network, log=True),
}


@dataclass
class Classic:
    """A fitted baseline. `lowest` and `highest` are the prices seen in training, which bound what it answers; `spread`
    are the quantiles of log(truth / answer) on validation, which make its 80% interval; None where it gives none."""

    name: str
    estimator: Any
    lowest: float
    highest: float
    spread: tuple[float, float] | None = None

    @classmethod
    def fit(
        cls,
        name: str,
        train: Sequence[Item],
        validation: Sequence[Item],
        seed: int,
        near: float | None = minhash.NEAR,
    ) -> Self:
        """Fit on train, and learn from validation, if there is any, how far off the answers are. `near` says how alike
        near duplicates are, which stand in no other split."""
        baseline = BASELINES[name]
        prices = np.array([item.price for item in train])
        estimator = None
        if baseline.estimator is not None:
            target = np.log1p(prices) if baseline.log else prices
            # Two threads add up a long vector in two parts, and so round otherwise than one or four.
            with threadpool_limits(1, user_api="blas"):
                estimator = baseline.estimator(seed, near).fit(baseline.features(train), target)
        fitted = cls(name, estimator, float(prices.min()), float(prices.max()))
        if validation:
            fitted.spread = conformal([item.price for item in validation], fitted.predict(validation).price)
        return fitted

    def predict(self, items: Sequence[Item]) -> Predictions:
        """Price the items."""
        baseline = BASELINES[self.name]
        features = baseline.features(items)
        if self.estimator is None:
            raw = self.lowest + np.asarray(features) * (self.highest - self.lowest)
        else:
            with threadpool_limits(1):  # so short are the pieces of work that more threads wait more than they work
                raw = np.asarray(self.estimator.predict(features), dtype=float)
        price = np.clip(np.expm1(raw) if baseline.log else raw, self.lowest, self.highest)
        price = np.round(price, 6)  # trees that vote in parallel add up in any order, which shows beyond that
        return Predictions(price, *interval(price, self.spread))

    def save(self, folder: Path) -> None:
        """Write the estimator, and the rest as JSON."""
        fields = {key: value for key, value in vars(self).items() if key != "estimator"}
        (folder / "predictor.json").write_text(json.dumps({"predictor": "classic", **fields}), encoding="utf-8")
        if self.estimator is not None:
            dump(self.estimator, folder / ESTIMATOR)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ModelGoneError: this version has no model of its name.
            ValueError: the file asks for types that no model here is made of.
        """
        fields = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
        if fields["name"] not in BASELINES:
            raise ModelGoneError(
                f"The model in {folder} is {fields['name']}, which this version of Pricewright does not have. Expected "
                f"one of {', '.join(BASELINES)}. Load it with the version that made it, or run the pipeline again."
            )
        estimator = read(folder / ESTIMATOR) if (folder / ESTIMATOR).is_file() else None
        spread = fields["spread"] and tuple(fields["spread"])
        return cls(fields["name"], estimator, fields["lowest"], fields["highest"], spread)

"""The classic rungs: features of the items and an estimator of scikit-learn. A new one is one entry in BASELINES."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.dummy import DummyRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline

from tasks.digests import fraction
from tasks.items import Item
from tasks.predictors import Predictions

INTERVAL = (0.1, 0.9)  # the quantiles that bound an 80% interval
TRUSTED = ("sklearn.", "numpy.", "scipy.", "builtins.")
POUNDS = {"pound": 1, "lb": 1, "ounce": 1 / 16, "oz": 1 / 16, "gram": 0.00220462, "kilogram": 2.20462, "kg": 2.20462}
WEIGHT = re.compile(r"([\d.,]*\d)\s*(?:hundredths\s+)?(pound|lb|ounce|oz|kilogram|kg|gram)", re.IGNORECASE)
RANK = re.compile(r"#?([\d,]*\d)\s+in\b")
# The recipe's own list of electronics brands that sell for more.
TOP_BRANDS = {"hp", "dell", "lenovo", "samsung", "asus", "sony", "canon", "apple", "intel"}


def words(items: Sequence[Item]) -> list[str]:
    """Title and text of each item."""
    return [f"{item.title}\n{item.text}" for item in items]


def nothing(items: Sequence[Item]) -> np.ndarray:
    """No information at all, shape [n, 1]."""
    return np.zeros((len(items), 1))


def drawn(items: Sequence[Item]) -> np.ndarray:
    """A whole price from 1 to 999 drawn by the hash of the text, shape [n], so that it is the same in every process."""
    return np.array([1 + int(999 * fraction(0, text)) for text in words(items)], dtype=float)


def basic_features(items: Sequence[Item]) -> np.ndarray:
    """The recipe's four features, shape [n, 4]: weight in pounds, best sellers rank, text length, top brand; NaN where
    the details do not say."""
    return np.array([[_weight(i), _rank(i), len(i.title) + len(i.text), _top_brand(i)] for i in items], dtype=float)


def _weight(item: Item) -> float:
    found = WEIGHT.search(item.details.get("Item Weight", ""))
    if not found:
        return np.nan
    scale = POUNDS[found.group(2).lower()] / (100 if "hundredths" in found.group().lower() else 1)
    return float(found.group(1).replace(",", "")) * scale


def _rank(item: Item) -> float:
    ranks = [float(rank.replace(",", "")) for rank in RANK.findall(item.details.get("Best Sellers Rank", ""))]
    return float(np.mean(ranks)) if ranks else np.nan


def _top_brand(item: Item) -> float:
    return float(item.details.get("Brand", "").lower() in TOP_BRANDS)


class Baseline(NamedTuple):
    """`features` of the items go into `estimator(seed)`, which learns the price, or its logarithm; without an estimator
    the features are the prices."""

    features: Callable[[Sequence[Item]], Any]
    estimator: Callable[[int], Any] | None
    log: bool = False


BASELINES: dict[str, Baseline] = {
    "random": Baseline(drawn, None),
    "constant": Baseline(nothing, lambda _: DummyRegressor(strategy="mean")),
    "constant_median": Baseline(nothing, lambda _: DummyRegressor(strategy="median")),
    "basic_features": Baseline(
        basic_features, lambda _: make_pipeline(SimpleImputer(keep_empty_features=True), LinearRegression())
    ),
    "tfidf_ridge": Baseline(
        words,
        lambda _: make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), Ridge(alpha=1.0)),
        log=True,
    ),
}


@dataclass
class Classic:
    """A fitted baseline. `lowest` and `highest` are the prices seen in training, which bound what it answers; `spread`
    are the quantiles of log(truth / answer) on validation, which make its 80% interval."""

    name: str
    estimator: Any
    lowest: float
    highest: float
    spread: tuple[float, float] = (np.nan, np.nan)

    @classmethod
    def fit(cls, name: str, train: Sequence[Item], validation: Sequence[Item], seed: int) -> Self:
        """Fit on train, and learn from validation how far off the answers are."""
        recipe = BASELINES[name]
        prices = np.array([item.price for item in train])
        estimator = None
        if recipe.estimator is not None:
            target = np.log1p(prices) if recipe.log else prices
            estimator = recipe.estimator(seed).fit(recipe.features(train), target)
        bounds = (1.0, 999.0) if estimator is None else (float(prices.min()), float(prices.max()))
        fitted = cls(name, estimator, *bounds)
        answers = fitted.predict(validation).price
        ratios = np.log1p([item.price for item in validation]) - np.log1p(answers)
        fitted.spread = tuple(np.quantile(ratios, INTERVAL).tolist())
        return fitted

    def predict(self, items: Sequence[Item]) -> Predictions:
        """Price the items; the interval is split-conformal on the log scale (Lei et al. 2018), from `fit`."""
        recipe = BASELINES[self.name]
        features = recipe.features(items)
        raw = features if self.estimator is None else self.estimator.predict(features)
        price = np.clip(np.expm1(raw) if recipe.log else raw, self.lowest, self.highest)
        low, high = (np.maximum(np.expm1(np.log1p(price) + shift), 0.0) for shift in self.spread)
        return Predictions(price, low, high)

    def save(self, folder: Path) -> None:
        """Write the estimator with skops, which loads no code, and the rest as JSON."""
        fields = {key: value for key, value in vars(self).items() if key != "estimator"}
        (folder / "predictor.json").write_text(json.dumps({"predictor": "classic", **fields}), encoding="utf-8")
        if self.estimator is not None:
            import skops.io  # takes seconds to import, and only models of this kind need it

            skops.io.dump(self.estimator, folder / "estimator.skops")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the file asks for types other than those of scikit-learn and NumPy.
        """
        fields = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
        file = folder / "estimator.skops"
        estimator = None
        if file.is_file():
            import skops.io

            unknown = skops.io.get_untrusted_types(file=file)
            refused = [name for name in unknown if not name.startswith(TRUSTED)]
            if refused:
                raise ValueError(f"{file} asks for {refused}; expected types of scikit-learn, NumPy and SciPy only")
            estimator = skops.io.load(file, trusted=unknown)
        return cls(fields["name"], estimator, fields["lowest"], fields["highest"], tuple(fields["spread"]))

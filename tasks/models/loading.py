"""A saved predictor of any kind. It is not part of the interface, so that no kind depends on the others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.config.experiment import Data, Experiment
from tasks.data.cleaning import as_trained
from tasks.data.items import Item
from tasks.digests import digest
from tasks.models.predictor import Predictions, Predictor
from tasks.tracking.reading import finished_runs, reader
from tasks.tracking.runs import CONTENT, RULED, RULES, STAGE


def load_predictor(folder: Path) -> Predictor:
    """The predictor that a folder holds, of whatever kind; its libraries are imported only here."""
    kind = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))["predictor"]
    if kind == "classic":
        from tasks.models.classic import Classic

        return Classic.load(folder)
    if kind == "language":
        from tasks.models.language.model import LanguageModel

        return LanguageModel.load(folder)
    if kind == "blend":
        from tasks.models.blend import Blend

        return Blend.load(folder, load_predictor)
    raise ValueError(f"{folder} holds a predictor of kind {kind!r}; expected classic, language or blend")


def load_rules(folder: Path) -> Data | None:
    """The rules by which the texts were cleaned that the predictor in a folder was trained on; None if nobody noted
    them."""
    file = folder / RULES
    return Data.model_validate_json(file.read_text(encoding="utf-8")) if file.is_file() else None


def current_rules(experiment: Experiment, model_id: str, saved: Data | None) -> Data | None:
    """The rules by which texts are cleaned for a LoggedModel: those of the conf, where they gave the very splits that
    it was made from, and else those that were `saved` with it.

    A rule, or the name of a column, may change without an effect on any item. Then no model is made again, and the
    saved ones are of an earlier conf.
    """
    today = experiment.data
    if saved is None or saved.rules() == today.rules():
        return saved
    content = reader(experiment).get_logged_model(model_id).params.get("dataset", "")
    gave = {STAGE: "curate", CONTENT: content, RULED: digest(today.rules())}
    return today if finished_runs(experiment, gave) else saved


def priced(predictor: Predictor, items: Sequence[Item], rules: Data | None) -> Predictions:
    """What a predictor answers for items as somebody wrote them, their texts cleaned as those that it was trained on.

    An item of which cleaning leaves no words in title and text gets no price, as curation drops it: the price would be
    that of anything. A price that an item brings is used to find the text that states it, and is not shown to the
    predictor.
    """
    cleaned = [dataclasses.replace(item, price=None) for item in as_trained(items, rules)]
    kept = np.array([item.has_words for item in cleaned], dtype=bool)
    prices = np.full((3, len(cleaned)), np.nan)
    if kept.any():
        answer = predictor.predict([item for item, whole in zip(cleaned, kept, strict=True) if whole])
        prices[:, kept] = answer.price, answer.low, answer.high
    price, low, high = prices
    return Predictions(price, low, high)

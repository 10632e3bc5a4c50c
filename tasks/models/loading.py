"""A saved predictor of any kind. It is not part of the interface, so that no kind depends on the others."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.config.experiment import Data
from tasks.models.predictor import Predictor
from tasks.tracking.runs import RULES


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

"""A saved predictor, whatever its kind: apart from the interface, so that no kind depends on the others."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.predictors import Predictor


def load_predictor(folder: Path) -> Predictor:
    """The predictor that a folder holds, of whatever kind; its libraries are imported only here."""
    kind = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))["predictor"]
    if kind == "classic":
        from tasks.predictors.classic import Classic

        return Classic.load(folder)
    if kind == "language":
        from tasks.predictors.language import LanguageModel

        return LanguageModel.load(folder)
    if kind == "blend":
        from tasks.predictors.blend import Blend

        return Blend.load(folder)
    raise ValueError(f"{folder} holds a predictor of kind {kind!r}; expected classic, language or blend")

"""A saved predictor of any kind. It is not part of the interface, so that no kind depends on the others."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.models.predictor import Predictor


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

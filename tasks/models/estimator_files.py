"""Fitted estimators in files: written with skops, which loads no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

OURS = tuple(f"tasks.models.{module}." for module in ("features", "neighbours", "network", "terms"))
TRUSTED = ("sklearn.", "numpy.", "scipy.", "builtins.", *OURS)


def dump(fitted: Any, file: Path) -> None:
    """Write an estimator, an array, or a dictionary of them."""
    import skops.io  # takes seconds to import, and not every predictor needs it

    skops.io.dump(fitted, file)


def read(file: Path) -> Any:
    """What `dump` wrote.

    Raises:
        ValueError: the file asks for types other than those of scikit-learn, NumPy, SciPy and this project.
    """
    import skops.io

    unknown = skops.io.get_untrusted_types(file=file)
    if refused := [name for name in unknown if not name.startswith(TRUSTED)]:
        raise ValueError(f"{file} asks for {refused}; expected types of scikit-learn, NumPy and SciPy only")
    return skops.io.load(file, trusted=unknown)

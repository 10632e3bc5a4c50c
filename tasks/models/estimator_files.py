"""Fitted estimators in files: written with skops, which loads no code."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

OURS = {
    "features": ("Neighbours", "NeighboursOfTexts", "OutOfFold", "WordVectors"),
    "neighbours": ("NeighbourIndex",),
    "network": ("Network",),
    "terms": ("Counts", "Tfidf", "Themes"),
}
# What models are made of besides the estimators, arrays and numbers that skops trusts by itself. Each by its name: a
# whole library has functions as well, and two of those in one pipeline run any code (sorted by exec).
TRUSTED = {
    *("numpy.dtype", "scipy.sparse._csr.csr_matrix"),
    *("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "sklearn.tree._tree.Tree"),
    *(f"tasks.models.{module}.{name}" for module, names in OURS.items() for name in names),
}


def dump(fitted: Any, file: Path) -> None:
    """Write an estimator, an array, or a dictionary of them.

    Raises:
        ValueError: `read` would refuse the file, which is better known before anything relies on it.
    """
    skops_io().dump(fitted, file)
    if refused := _refused(file):
        raise ValueError(
            f"It is made of {', '.join(refused)}, which no file of a model may ask for. Add what runs no code when it "
            "is loaded to TRUSTED in tasks/models/estimator_files.py"
        )


def read(file: Path) -> Any:
    """What `dump` wrote.

    Raises:
        ValueError: the file asks for what is neither trusted by skops itself nor in TRUSTED.
    """
    if refused := _refused(file):
        raise ValueError(f"{file} asks for {refused}; expected estimators of scikit-learn and {sorted(TRUSTED)} only")
    return skops_io().load(file, trusted=sorted(TRUSTED))


def _refused(file: Path) -> list[str]:
    """The types that a file asks for and that neither skops nor TRUSTED trusts; half a second for a hundred MB."""
    return [name for name in skops_io().get_untrusted_types(file=file) if name not in TRUSTED]


def skops_io() -> ModuleType:
    """The library, which takes a second to import, and not every predictor needs it.

    To list scikit-learn's types it imports all of its modules, two of which import torch and dask, if they are there,
    to take their arrays: for four seconds, and to no end here.
    """
    with _hidden("torch", "dask"):
        import skops.io
    return skops.io


@contextmanager
def _hidden(*libraries: str) -> Iterator[None]:
    """Within it, this thread cannot import libraries that were not imported before."""
    here = threading.get_ident()

    class Hider(MetaPathFinder):
        def find_spec(self, fullname: str, *_: object) -> None:
            if fullname in libraries and threading.get_ident() == here:
                raise ModuleNotFoundError(f"{fullname} is hidden", name=fullname)

    hider = Hider()
    sys.meta_path.insert(0, hider)
    try:
        yield
    finally:
        sys.meta_path.remove(hider)

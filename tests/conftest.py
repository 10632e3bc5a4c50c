"""What the tests share: a tracking store of their own, and one finished smoke run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.config import Experiment, load
from tasks.items import Item

SMOKE = "conf/smoke.yaml"


@pytest.fixture(scope="session", autouse=True)
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect of the tests' own: nothing of the user's is read or written."""
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    from flows.cli import environment

    environment(debug=False)
    yield


@pytest.fixture(scope="session")
def at() -> Callable[[Path], list[str]]:
    """The overrides that put MLflow's database and artifacts into a folder."""
    return lambda folder: [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.artifacts={folder}/artifacts"]


@pytest.fixture
def experiment(tmp_path: Path, at: Callable[[Path], list[str]]) -> Experiment:
    """The smoke experiment with an empty store."""
    return load(SMOKE, at(tmp_path))


@pytest.fixture(scope="session")
def items() -> list[Item]:
    """A hundred products of the generated catalogue."""
    from tasks.catalogue import generate
    from tasks.items import from_row

    return [from_row(row) for row in generate(100, seed=5)]

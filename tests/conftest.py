"""What the tests share: a tracking store of their own, and one finished smoke run."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest
from hypothesis import HealthCheck, settings

from flows.cli.main import environment
from tasks import digests
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.data.items import Item
from tasks.paths import cache_folder
from tests.smoke import SMOKE, Finished, command, own_conf

# Before anything imports Prefect: it reads its settings once. Nothing of the user's is written.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-")
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the cache of the process that starts them
    cache = Path(tempfile.mkdtemp(prefix="cache-"))
    for model in cache_folder().glob("*/complete.json"):  # converted once, in half a minute
        (cache / model.parent.name).symlink_to(model.parent)
    os.environ["PRICEWRIGHT_CACHE"] = str(cache)
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
os.environ["HF_HUB_OFFLINE"] = "1"
# Workers of the suite share the cores: more threads would only wait for each other, a fifth of all processor time.
os.environ["OMP_NUM_THREADS"] = "1"
# A machine that does ten other things takes ten times as long: servers wait longer for their databases, clients try
# again for longer (Prefect's server says 503 where its database is busy).
os.environ |= {
    "PREFECT_API_REQUEST_TIMEOUT": "600",
    "PREFECT_CLIENT_MAX_RETRIES": "8",  # each after twice the pause of the one before, nine minutes in all
    "PREFECT_SERVER_DATABASE_TIMEOUT": "300",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "300",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "900",
    "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": "600",
}
# Each task of Prefect makes a client, and each client reads a file of certificates: with one in it that takes 1 ms
# instead of 40. No server of the tests speaks TLS.
ONE = Path(os.environ["PREFECT_HOME"], "one.pem")
ONE.write_text(re.findall(r"-----BEGIN.*?END CERTIFICATE-----\n", Path(certifi.where()).read_text(), re.DOTALL)[0])
os.environ["PREFECT_API_SSL_CERT_FILE"] = str(ONE)
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)
environment(debug=False)


# Files of minutes, which begin first: one that is left for the end would run while the other workers have nothing.
LONGEST = ("team", "schedule", "trainer", "store", "gpu", "promotion", "champion", "docs", "embedded", "retention")


@pytest.hookimpl(trylast=True)  # after they were put into a random order
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[str]]:
    """The overrides that put MLflow's database and artifacts into a folder; making a database takes seconds, so that
    each is a copy of one."""
    from tasks.tracking.store import connect

    template = tmp_path_factory.mktemp("template") / "mlflow.db"
    connect(load(SMOKE, [f"tracking.uri=sqlite:///{template}"])).search_experiments()

    def overrides(folder: Path) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "mlflow.db").exists():
            shutil.copy(template, folder / "mlflow.db")
        return [f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.artifacts={folder}/artifacts"]

    return overrides


@pytest.fixture
def changing_code() -> Iterator[Callable[[], None]]:
    """Says that code has changed, whose digests a process remembers; none of these is remembered afterwards."""
    yield digests.code_digest.cache_clear
    digests.code_digest.cache_clear()


@pytest.fixture
def experiment(tmp_path: Path, at: Callable[[Path], list[str]]) -> Experiment:
    """The smoke experiment with an empty store."""
    return load(SMOKE, at(tmp_path))


@pytest.fixture(scope="module")
def without_prefect() -> Iterator[None]:
    """The stages' tasks as the functions they are: a task's run asks a server of Prefect, which takes longer than most
    of them and is of no interest to tests of what the stages do. Shards are handed out by Prefect all the same."""
    from prefect import Task

    import flows.pipeline  # noqa: F401 (first imported while they are functions, it would keep these for other tests)
    from tasks import baselines, curation, evaluation, finetuning, promotion

    with pytest.MonkeyPatch.context() as patch:
        for stage in (curation, baselines, finetuning, evaluation, promotion):
            for name, value in list(vars(stage).items()):
                if isinstance(value, Task) and not name.startswith("clean"):
                    patch.setattr(stage, name, value.fn)
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, at: Callable[[Path], list[str]]) -> Finished:
    """A pipeline that was run once for all the tests of a worker."""
    folder = tmp_path_factory.mktemp("finished")
    overrides = at(folder)
    status, output = command("run", "-c", SMOKE, *overrides)
    assert status == 0, output
    return Finished(folder, overrides, output, Finished(folder, overrides, output, []).stages())


@pytest.fixture(scope="session")
def conf(finished: Finished) -> str:
    """A conf of its own whose pipeline was run once: the finished one's."""
    return own_conf(finished.folder, finished.overrides)


@pytest.fixture(scope="session")
def items() -> list[Item]:
    """A hundred products of the generated catalogue."""
    from tasks.data.catalogue import generate
    from tasks.data.items import from_row

    return [from_row(row) for row in generate(100, seed=5)]

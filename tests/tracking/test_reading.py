"""MLflow's SQLite file, read without its client: the answers are the client's own."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.config.experiment import Experiment
from tasks.errors import UserError
from tasks.tracking import reading
from tasks.tracking.reading import SqliteReader, latest_evaluation, reader, version_with
from tasks.tracking.registry import BEST_CHECKPOINT, CHALLENGER, CHAMPION, expected, register, registered
from tasks.tracking.runs import STAGE, SUPERSEDED
from tasks.tracking.store import connect, experiment_id, model_address
from tests.smoke import SMOKE


@pytest.fixture
def filled(experiment: Experiment) -> Experiment:
    """A store with evaluations, one of them superseded, deleted or not ended, and with registered models."""
    client, where = connect(experiment), experiment_id(experiment)
    made = []
    for number, (status, tags) in enumerate(
        [
            ("FINISHED", {"asked.one": "true"}),
            ("FINISHED", {"asked.one": "true", "asked.two": "true"}),
            ("FINISHED", {"asked.one": "true", SUPERSEDED: "x"}),
            ("FAILED", {"asked.one": "true"}),
            ("FINISHED", {"asked.one": "true"}),
            ("FINISHED", {"it's": 'a "name"'}),
        ]
    ):
        run = client.create_run(where, start_time=1000 + number, tags={STAGE: "evaluate", **tags})
        client.set_terminated(run.info.run_id, status)
        made.append(run.info.run_id)
    client.delete_run(made[4])
    for alias in (CHAMPION, BEST_CHECKPOINT):
        model = client.create_logged_model(
            where, name=alias, tags={"kind": alias}, params={"dataset": f"{alias}'s"}, source_run_id=made[0]
        )
        client.finalize_logged_model(model.model_id, "READY")
        register(experiment, model.model_id, alias, {"decision": f"{alias}'s own"})
    return experiment


def by_client(call: Callable, monkeypatch: pytest.MonkeyPatch) -> object:
    """What a function answers where MLflow's client is asked."""
    with monkeypatch.context() as patch:
        patch.setattr(reading, "reader", connect)
        return call()


@pytest.mark.parametrize("tag", [None, "asked.one", "asked.two", "asked.three", "it's"])
def test_the_same_evaluation_is_found(filled: Experiment, tag: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By tags; neither one that failed, nor one that was deleted, nor, if there is another, one that was superseded."""
    assert isinstance(reader(filled), SqliteReader)
    found = latest_evaluation(filled, tag)
    if tag != "it's":  # MLflow's filters have no way to write it
        assert found == by_client(lambda: latest_evaluation(filled, tag), monkeypatch)
    assert (found is None) == (tag in ("asked.three", "it's"))


@pytest.mark.parametrize("alias", [CHAMPION, BEST_CHECKPOINT, CHALLENGER])
def test_the_same_version_is_found(filled: Experiment, alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its alias, with all of its tags."""
    mine, theirs = version_with(filled, alias), by_client(lambda: version_with(filled, alias), monkeypatch)
    if theirs is None:
        assert mine is None
    else:
        assert (mine.name, mine.version, mine.tags) == (theirs.name, str(theirs.version), theirs.tags)


def test_the_same_run_and_model_are_found(filled: Experiment) -> None:
    """Where their artifacts lie, their tags, and what a model was made with."""
    client, mine = connect(filled), reader(filled)
    run_id = latest_evaluation(filled)
    assert mine.get_run(run_id).info.artifact_uri == client.get_run(run_id).info.artifact_uri
    assert mine.get_run(run_id).data.tags == client.get_run(run_id).data.tags
    (champion,) = client.search_logged_models([experiment_id(filled)], f"tags.kind = '{CHAMPION}'")
    found = mine.get_logged_model(champion.model_id)
    assert (found.artifact_location, found.tags) == (champion.artifact_location, champion.tags)
    assert found.params == champion.params == {"dataset": "champion's"}


def test_a_model_that_was_deleted_is_gone(filled: Experiment) -> None:
    """For both; whoever wants its prices is told so, and what helps."""
    client, model_id = connect(filled), registered(filled, CHAMPION)
    client.delete_logged_model(model_id)
    for asked in (client, reader(filled)):
        with pytest.raises(FileNotFoundError, match=f"Logged model with ID '{model_id}' not found"):
            model_address(asked, model_id)
    with pytest.raises(UserError, match=r"version 1, the champion, was deleted in MLflow. Run: pricewright run"):
        expected(filled, CHAMPION)


def test_what_it_does_not_know_is_asked_of_the_client(filled: Experiment, tmp_path: Path) -> None:
    """An experiment that is not there, one of another layout, and a file of another version of MLflow."""
    other = filled.tracking.model_copy(update={"experiment": "other"})
    assert not isinstance(reader(filled.model_copy(update={"tracking": other})), SqliteReader)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("UPDATE experiment_tags SET value = '0' WHERE key = 'pricewright.layout'")
    assert not isinstance(reader(filled), SqliteReader)
    with pytest.raises(UserError, match="layout"):
        latest_evaluation(filled)


@pytest.mark.usefixtures("filled")
def test_to_read_takes_no_heavy_library(at: Callable, tmp_path: Path) -> None:
    """Neither MLflow nor Prefect nor torch: each takes seconds to import."""
    code = (
        "import sys; from flows.cli.main import main\n"
        f"status = main(['leaderboard', '-c', {SMOKE!r}, *{at(tmp_path)!r}])\n"
        "print(status, [name for name in ('mlflow', 'prefect', 'torch', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "2 []" and "There is no leaderboard" in done.stderr

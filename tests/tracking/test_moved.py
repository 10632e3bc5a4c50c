"""A checkout that is moved, or whose name holds what means something else in an address, keeps its store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.config.loading import load
from tasks.paths import local_path
from tasks.tracking import store
from tasks.tracking.moved import follow

SMOKE = "conf/smoke.yaml"


def move_to(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this be the project's folder, as it is for a command that starts there."""
    monkeypatch.setattr(store, "PROJECT", project)
    monkeypatch.setattr(store, "LOCKS", project / "mlruns" / "locks")


def leave_a_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run with an artifact in the default store of a project; its id."""
    move_to(project, monkeypatch)
    experiment = load(SMOKE)
    client = store.connect(experiment)
    run = client.create_run(store.experiment_id(experiment))
    client.log_text(run.info.run_id, "kept", "note.txt")
    return run.info.run_id


def read_note(project: Path, run_id: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """What the run's artifact says, and where it lies, as a command in that folder finds it."""
    move_to(project, monkeypatch)
    client = store.connect(load(SMOKE))
    file = store.fetch(f"{client.get_run(run_id).info.artifact_uri}/note.txt")
    return file.read_text(), file


@pytest.mark.parametrize("name", ["a # b", "why?", "100%20"])
def test_any_name_of_a_folder_will_do_and_it_may_be_moved(
    name: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Database and artifacts lie where they should, are found again after a move, and the old place stays gone."""
    # Wherever a command is started: MLflow notes that folder too, and may leave an empty one there.
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    before, after = tmp_path / name, tmp_path / "new" / name
    run_id = leave_a_run(before, monkeypatch)
    assert (before / "mlruns" / "mlflow.db").is_file()
    assert read_note(before, run_id, monkeypatch)[1].is_relative_to(before)
    after.parent.mkdir()
    before.rename(after)
    said, file = read_note(after, run_id, monkeypatch)
    assert said == "kept" and file.is_relative_to(after)
    assert capsys.readouterr().err.count("The store was moved here") == 1
    store.experiment_id(load(SMOKE))
    assert not before.exists() and sorted(path.name for path in tmp_path.iterdir()) == ["new"]


def test_a_copy_leaves_the_store_that_it_was_copied_from_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as that is there, its addresses are right."""
    run_id = leave_a_run(tmp_path / "one", monkeypatch)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert not follow(tmp_path / "two" / "mlruns")
    assert read_note(tmp_path / "one", run_id, monkeypatch)[0] == "kept"


def test_a_plain_path_is_taken_as_it_stands() -> None:
    """Only in a file: address do characters stand for others."""
    assert local_path("/a#b/c?d/e%20f") == Path("/a#b/c?d/e%20f")
    assert local_path(Path("/a#b/c?d/e%20f").as_uri()) == Path("/a#b/c?d/e%20f")
    assert local_path("s3://bucket/a") is None


def test_another_registry_in_the_environment_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are registered in the store of the runs; a server that nobody runs any more would be waited for."""
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    move_to(tmp_path, monkeypatch)
    client = store.connect(load(SMOKE))
    client.create_registered_model("pricewright")
    assert [model.name for model in client.search_registered_models()] == ["pricewright"]

"""A checkout that is moved or copied, or whose name holds what means something else in an address, keeps its store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow.entities import Dataset, DatasetInput

from tasks.config.loading import load
from tasks.paths import local_path
from tasks.tracking import store
from tasks.tracking.moved import follow

SMOKE = "conf/smoke.yaml"


def move_to(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this be the project's folder, as it is for a command that starts there."""
    monkeypatch.setattr(store, "PROJECT", project)
    monkeypatch.setattr(store, "LOCKS", project / "mlruns" / "locks")


def leave_a_run(project: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> str:
    """A run with an artifact in the default store of a project; its id."""
    move_to(project, monkeypatch)
    experiment = load(SMOKE, overrides)
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
    assert capsys.readouterr().err.count("The store was moved or copied here") == 1
    store.experiment_id(load(SMOKE))
    assert not before.exists() and sorted(path.name for path in tmp_path.iterdir()) == ["new"]


def test_a_command_interrupted_while_it_makes_the_database_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would take half of one for damaged, and each command after that would fail."""
    with monkeypatch.context() as patched:
        patched.setattr("mlflow.store.db.utils._upgrade_db", _interrupt)  # some of the tables are made by then
        with pytest.raises(KeyboardInterrupt):
            leave_a_run(tmp_path, monkeypatch)
    assert [path.name for path in (tmp_path / "mlruns").iterdir()] == ["locks"]
    run_id = leave_a_run(tmp_path, monkeypatch)
    assert read_note(tmp_path, run_id, monkeypatch)[0] == "kept"
    assert sorted(path.name for path in (tmp_path / "mlruns").iterdir()) == ["artifacts", "locks", "mlflow.db"]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_copy_has_a_store_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads, writes and deletes its own files, and the store that it was copied from stays as it was."""
    one, two = tmp_path / "one", tmp_path / "two"
    run_id = leave_a_run(one, monkeypatch)
    shutil.copytree(one, two)
    added = leave_a_run(two, monkeypatch)
    for known in (run_id, added):
        assert read_note(two, known, monkeypatch)[1].is_relative_to(two)
    assert read_note(one, run_id, monkeypatch)[1].is_relative_to(one)
    assert sorted(path.name for path in (one / "mlruns" / "artifacts").iterdir()) == [run_id]


def test_a_link_to_the_store_is_no_copy_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is the same one, whose addresses would change with every command of the other checkout."""
    run_id = leave_a_run(tmp_path / "one", monkeypatch)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "mlruns").symlink_to(tmp_path / "one" / "mlruns")
    assert not follow(tmp_path / "two" / "mlruns")
    assert read_note(tmp_path / "one", run_id, monkeypatch)[0] == "kept"


def test_artifacts_that_were_put_elsewhere_stay_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By tracking.artifacts, in a folder whose name is that of ours, also while it is away; our own are here."""
    leave_a_run(tmp_path / "one", monkeypatch)
    elsewhere = tmp_path / "disk" / "mlruns" / "artifacts"
    run_id = leave_a_run(tmp_path / "one", monkeypatch, "tracking.experiment=other", f"tracking.artifacts={elsewhere}")
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    assert not follow(tmp_path / "one" / "mlruns")
    (tmp_path / "unmounted").rename(tmp_path / "disk")
    assert read_note(tmp_path / "one", run_id, monkeypatch)[1].is_relative_to(elsewhere)


def test_a_path_that_ends_in_the_old_one_is_not_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where an address stands alone nor in the JSON of a dataset; what only lies deeper elsewhere stays."""
    before, after = tmp_path / "one", tmp_path / "new" / (tmp_path / "one").relative_to("/")
    run_id = leave_a_run(before, monkeypatch)
    client, database = store.connect(load(SMOKE)), before / "mlruns" / "mlflow.db"
    inputs = [
        {
            "name": name,
            "digest": name,
            "source_type": "local",
            "source": json.dumps({"uri": f"{root}{database.parent}/x"}),
        }
        for name, root in (("ours", "file://"), ("other", "file:///backup"))
    ]
    client.log_inputs(run_id, [DatasetInput(Dataset(**source)) for source in inputs])
    after.parent.mkdir(parents=True)
    before.rename(after)
    assert read_note(after, run_id, monkeypatch)[1].is_relative_to(after / "mlruns")
    used = store.connect(load(SMOKE)).get_run(run_id).inputs.dataset_inputs
    sources = {use.dataset.name: json.loads(use.dataset.source)["uri"] for use in used}
    assert sources == {"ours": f"file://{after}/mlruns/x", "other": f"file:///backup{database.parent}/x"}


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

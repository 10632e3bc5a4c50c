"""Any MLflow server and artifact store by one line of conf: the pipeline against a real `mlflow server` on loopback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli import main
from tasks.config import load
from tasks.store import connect, experiment_id, fetch, listing
from tasks.tracking import STAGE, stage

SMOKE = "conf/smoke.yaml"
SMALL = ["data.rows=240", "baselines.rungs=[constant,tfidf_ridge]", "evaluate.api=[]", "evaluate.resamples=200"]
SMALL += ["finetune.checkpoints=2", "finetune.train_items=16", "finetune.score_items=8", "finetune.quantization=null"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the server keeps its things, and a cache of the tests' own."""
    folder = tmp_path_factory.mktemp("server")
    before = os.environ.get("PRICEWRIGHT_CACHE")
    os.environ["PRICEWRIGHT_CACHE"] = str(folder / "cache")
    yield folder
    os.environ.pop("PRICEWRIGHT_CACHE")
    if before is not None:
        os.environ["PRICEWRIGHT_CACHE"] = before


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """The address of an MLflow server that hands artifacts through, so that nobody else sees its files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(words, env=quiet, cwd=folder, stdout=log, stderr=log)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def command(*words: str) -> str:
    """The standard output of a command that ends well."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main([*words]) == 0
    return output.getvalue()


@pytest.fixture(scope="module")
def overrides(server: str) -> list[str]:
    """The smoke experiment at the server, run once."""
    overrides = [f"tracking.uri={server}", *SMALL]
    report = Path(command("run", "-c", SMOKE, *overrides).splitlines()[-1])
    assert report.suffix == ".html" and "<html" in report.read_text()
    return overrides


def stages(overrides: list[str]) -> list[str]:
    experiment = load(SMOKE, overrides)
    runs = connect(experiment).search_runs([experiment_id(experiment)])
    assert all(run.info.artifact_uri.startswith("mlflow-artifacts:") for run in runs)
    return sorted(run.data.tags[STAGE] for run in runs if STAGE in run.data.tags)


def test_a_second_run_at_a_server_does_nothing_again(overrides: list[str], folder: Path) -> None:
    """What was fetched once is not fetched again, and nothing lies in temporary folders."""
    assert stages(overrides) == ["baselines", "curate", "evaluate", "finetune"]
    splits = Path(command("curate", "-c", SMOKE, *overrides).splitlines()[-1])
    assert {file.name for file in splits.glob("*.parquet")} == {"train.parquet", "validation.parquet", "test.parquet"}
    before = {file: file.stat().st_mtime_ns for file in splits.iterdir()}
    command("run", "-c", SMOKE, *overrides)
    assert stages(overrides) == ["baselines", "curate", "evaluate", "finetune"]
    assert {file: file.stat().st_mtime_ns for file in splits.iterdir()} == before
    assert not list((folder / "cache").rglob(".part-*"))


def test_another_machine_reads_what_the_server_has(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an empty cache the leaderboard, the decision and the export are the same."""
    here = command("leaderboard", "-c", SMOKE, *overrides, "--json")
    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path / "cache"))
    assert command("leaderboard", "-c", SMOKE, *overrides, "--json") == here
    assert "still the challenger" in command("promote", "-c", SMOKE, *overrides)
    folder = command("export", str(tmp_path / "taken"), "-c", SMOKE, *overrides).splitlines()[-1]
    assert "mean absolute error" in (Path(folder) / "README.md").read_text()


def test_a_damaged_copy_is_fetched_again_and_a_damaged_original_is_made_again(overrides: list[str]) -> None:
    """Each is known by its digest."""
    experiment = load(SMOKE, overrides)

    def work() -> tuple[bool, str]:
        with stage(experiment, "curate", "damage", command="") as run:
            if not run.done:
                run.log_json({"a": 1}, "deep/result.json")
            return run.done, run.run.info.artifact_uri

    _, place = work()
    copy = fetch(f"{place}/deep/result.json")
    copy.write_text(copy.read_text().replace("1", "2"))
    assert work() == (True, place) and json.loads(copy.read_text()) == {"a": 1}
    assert listing(place).keys() == {"deep/result.json", "candidates.json", "manifest.json"}
    client, run_id = connect(experiment), place.split("/")[-2]
    client.log_text(run_id, json.dumps({"a": 12345}), "deep/result.json")
    assert not work()[0]
    with pytest.raises(FileNotFoundError):
        fetch(f"{place}/deep/nothing.json")


def test_the_champion_is_loaded_from_the_server(overrides: list[str]) -> None:
    """By its alias, with nothing but MLflow."""
    import mlflow

    connect(load(SMOKE, overrides))
    (row,) = mlflow.pyfunc.load_model("models:/pricewright@champion").predict(["Steel kettle"]).to_dict("records")
    assert 0 < row["low"] <= row["price"] <= row["high"]

"""Any MLflow server and artifact store by one line of conf: the pipeline against a real `mlflow server` on loopback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from flows.cli.main import main
from flows.cli.remedies import hidden
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.data.items import Item
from tasks.data.splits import Dataset
from tasks.errors import UserError
from tasks.models.predictor import Predictions
from tasks.scoring.predictions import recall, score
from tasks.scoring.rows import row_of
from tasks.tracking.runs import STAGE, Mode
from tasks.tracking.stages import stage
from tasks.tracking.store import (
    LAYOUT,
    LAYOUT_TAG,
    _say_that_it_is_tried_again,
    address,
    connect,
    experiment_id,
    fetch,
    listing,
)
from tests.endpoint import KEY, completion, send, serving
from tests.waiting import answers, free_port, stop, until

SMOKE = "conf/smoke.yaml"
PASSWORD, TOKEN = "pw-5up3r53cr3t", "hf_5up3r53cr3t5up3r53cr3t"
SMALL = ["data.rows=240", "baselines.models=[constant,tfidf_ridge]", "evaluate.api=[]", "evaluate.resamples=200"]
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
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(words, env=quiet, cwd=folder, stdout=log, stderr=log)
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/health"), process, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


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


def test_only_the_server_has_to_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the store behind it, to which a server that has one would send its clients."""
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    ways = ("upload", "download")
    for way in ways:
        monkeypatch.delenv(f"MLFLOW_ENABLE_PROXY_MULTIPART_{way.upper()}", raising=False)
    able = {f"multipart_{way}s_enabled": True for way in ways}
    monkeypatch.setattr(MlflowArtifactsRepository, "_fetch_server_capabilities", lambda _: able)
    repository = MlflowArtifactsRepository("mlflow-artifacts:/1", "http://127.0.0.1:1")
    asked = [getattr(repository, f"_is_multipart_{way}_enabled") for way in ways]
    assert [ask() for ask in asked] == [True, True]
    connect(load(SMOKE, ["tracking.uri=http://127.0.0.1:1"]))
    assert [ask() for ask in asked] == [False, False]


def test_a_damaged_copy_is_fetched_again_and_a_damaged_original_is_made_again(overrides: list[str]) -> None:
    """Each is known by its digest."""
    experiment = load(SMOKE, [*overrides, "tracking.experiment=damage"])

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


def test_answers_that_were_given_again_take_the_place_of_those_in_the_cache(server: str) -> None:
    """What was fetched before from the same place is not read any more."""
    experiment = load(SMOKE, [f"tracking.uri={server}", "tracking.experiment=answers"])
    items, dataset = [Item("1", "Kettle", "", price=20.0)], Dataset("made", "d1", "nowhere", {})
    with stage(experiment, "evaluate", "answers", command="") as run:
        model_id = run.log_absent("one", "base", "ran", None, external=True).model_id

        def prices(price: float, mode: Mode) -> list[float]:
            answer = Predictions(*np.full((3, 1), price))
            judged = {"seed": 1, "resamples": 100}
            score(run, model_id, items, lambda: answer, dataset=dataset, split="test", mode=mode, **judged)
            kept = recall(run, model_id, "test", items)
            assert kept is not None
            return kept.price.tolist()

        assert prices(10.0, "reuse") == [10.0] and prices(30.0, "reuse") == [10.0]
        assert prices(30.0, "again") == [30.0]


def test_a_model_is_weighed_without_being_fetched(server: str, folder: Path) -> None:
    """Its size is that of the files which were saved."""
    experiment = load(SMOKE, [f"tracking.uri={server}", "tracking.experiment=sizes"])

    def save(place: Path) -> None:
        (place / "weights").write_text("12345")

    with stage(experiment, "baselines", "sizes", command="") as run:
        run.rules = None  # no file but the one that is saved here
        entry = run.log_model(save, "one", "baseline")
        assert row_of(run, entry, None, None, "d1").size_mb == 5 / 1e6
        assert not [file for file in (folder / "cache").rglob("weights") if entry.model_id in file.parts]


def test_the_champion_is_loaded_from_the_server(overrides: list[str]) -> None:
    """By its alias, with nothing but MLflow."""
    import mlflow

    connect(load(SMOKE, overrides))
    champion = mlflow.pyfunc.load_model("models:/pricewright-sample@champion")
    (row,) = champion.predict(["Steel kettle"]).to_dict("records")
    assert 0 < row["low"] <= row["price"] <= row["high"]


def talkative(handler: BaseHTTPRequestHandler, asked: str, attempt: int) -> None:
    """An endpoint that fails for some items, and repeats the key whatever it says."""
    kind = len(asked) % 4
    if kind == 0 and attempt == 0:
        return send(
            handler, {"error": {"message": f"the key {handler.headers['authorization']} made me fall over"}}, 500
        )
    if kind == 1:
        return send(handler, {"error": {"message": f"{KEY} may not ask this"}}, 422)
    return send(handler, completion(f"$20, says {KEY}"))


def refusing(handler: BaseHTTPRequestHandler, _asked: str, _attempt: int) -> None:
    """An endpoint that does not know the key, and repeats it."""
    send(handler, {"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401)


def test_keys_stay_in_the_environment(server: str, folder: Path, tmp_path: Path) -> None:
    """An API's key, the hub's token and the server's password are in no file, no database, no log and no message, with
    --debug and with calls that fail."""
    conf = ["-c", SMOKE, "--debug", f"tracking.uri={server.replace('//', '//somebody:$STORE_PASSWORD@')}", *SMALL[:2]]
    conf += ["tracking.experiment=keys", "promote.name=keys", "finetune.enabled=false", "evaluate.resamples=200"]
    asked = "input_price: 0, output_price: 0, retries: 1"
    secrets = {"OPENAI_API_KEY": KEY, "HF_TOKEN": TOKEN, "STORE_PASSWORD": PASSWORD}
    home = {"PREFECT_HOME": str(tmp_path / "prefect"), "PRICEWRIGHT_CACHE": str(tmp_path / "cache")}
    with serving(talkative) as one, serving(refusing) as other:
        models = f"[{{name: m, base_url: '{one.url}', {asked}}}, {{name: n, base_url: '{other.url}', {asked}}}]"
        words = [sys.executable, "-m", "flows.cli", "run", *conf, f"evaluate.api={models}"]
        said = subprocess.run(words, env=os.environ | secrets | home, cwd=tmp_path, capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        assert f"Bearer {KEY}" in one.keys and f"Bearer {KEY}" in other.keys
    assert "AuthenticationError" in said.stdout + said.stderr + Path(said.stdout.splitlines()[-1]).read_text()
    for secret in secrets.values():
        assert secret not in said.stdout + said.stderr
        for place in (folder, tmp_path):
            files = [file for file in place.rglob("*") if file.is_file()]
            assert len(files) > 20
            assert not [file for file in files if secret.encode() in file.read_bytes()]


def test_the_pages_of_a_server_are_its_own(overrides: list[str], server: str) -> None:
    """`ui` starts no second MLflow server for a tracking server, and names its pages."""
    port = str(free_port())
    words = ["ui", "-c", SMOKE, *overrides, "--prefect-port", port]
    ui = subprocess.Popen([sys.executable, "-m", "flows.cli", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert ui.stdout.readline().split()[1].startswith(f"{server}/#/experiments/")
    finally:
        stop(ui)


@pytest.mark.parametrize(
    "override",
    [
        f"tracking.uri=postgresql://user:{PASSWORD}@host/db",
        f"tracking.uri=http://user:{PASSWORD}@127.0.0.1",
        f"tracking.uri=mysql://host/db?user=u&password={PASSWORD}",
        f"tracking.uri=other://user:$STORE_PASSWORD@host/{PASSWORD}",
        f"evaluate.api=[{{name: m, input_price: 0, output_price: 0, base_url: 'http://u:{PASSWORD}@host'}}]",
        f"data={{source: files, path: 'https://user:{PASSWORD}@host/products.csv'}}",
        f"evaluate.recorded=https://user:{PASSWORD}@host/theirs.csv",
        f"tracking.artifacts=s3://user:{PASSWORD}@bucket",
        f"evaluate.human=https://{PASSWORD}@host/sheet.csv",
        f"evaluate.api=[{{name: m, input_price: 0, output_price: 0, key_env: {PASSWORD}}}]",
        f"finetune.sft.hub_token={PASSWORD}",
        *(
            f"evaluate.api=[{{name: m, input_price: 0, output_price: 0, parameters: {{max_tokens: 5, extra_headers: "
            f"{{{header}: {PASSWORD}}}}}}}]"
            for header in ("api-key", "X-Auth-Token", "Ocp-Apim-Subscription-Key", "Cookie", "X-Auth", "Credential")
        ),
    ],
)
def test_a_key_in_a_conf_is_refused_and_not_repeated(override: str, capsys: pytest.CaptureFixture) -> None:
    """The message names the key of the conf and says where keys belong, or what was expected."""
    assert main(["leaderboard", "-c", SMOKE, override]) == 2
    said = capsys.readouterr().err
    assert PASSWORD not in said and re.search(r"environment|Expected", said)


@pytest.mark.parametrize(
    "uri", ["http://user:$STORE_PASSWORD@127.0.0.1:1", "postgresql://user:${STORE_PASSWORD}@127.0.0.1:1/db"]
)
def test_a_server_that_is_not_there_is_one_message(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With what to do, and without the password; so is a variable that is not set."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 2)  # by itself it tries for two minutes
    _say_that_it_is_tried_again.cache_clear()  # a process says it once
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    assert main(["leaderboard", "-c", SMOKE, f"tracking.uri={uri}"]) == 2
    assert "STORE_PASSWORD is not set" in capsys.readouterr().err
    monkeypatch.setenv("STORE_PASSWORD", PASSWORD)
    assert main(["leaderboard", "-c", SMOKE, f"tracking.uri={uri}"]) == 2
    said = capsys.readouterr().err
    assert PASSWORD not in said and ("cannot be reached" in said or "not installed" in said)
    assert ("It is tried again" in said) == (uri.startswith("postgresql") and "not installed" not in said)


def test_a_password_may_hold_any_character(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in the environment as it is, and neither ends the address nor becomes a part of the host."""
    from sqlalchemy.engine import make_url

    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    secret = "pa@ss/w:o?r#d %41$&+"
    monkeypatch.setenv("STORE_PASSWORD", secret)
    monkeypatch.setenv("STORE_HOST", "db.example:5432")
    url = make_url(address(load(SMOKE, ["tracking.uri=postgresql://me:$STORE_PASSWORD@$STORE_HOST/mlflow"])))
    assert (url.password, url.host, url.port, url.database) == (secret, "db.example", 5432, "mlflow")
    url = make_url(address(load(SMOKE, ["tracking.uri=mysql://db.example/mlflow?user=me&password=${STORE_PASSWORD}"])))
    assert (url.query["password"], url.host, url.database) == (secret, "db.example", "mlflow")
    assert address(load(SMOKE, ["tracking.uri=https://me:$STORE_PASSWORD@mlflow.example"])) == "https://mlflow.example"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == secret
    said = hidden(f"could not connect to {address(load(SMOKE, ['tracking.uri=mysql://me:$STORE_PASSWORD@host/db']))}")
    assert said == "could not connect to mysql://me:***@host/db"


def test_an_experiment_that_was_deleted_is_one_message(experiment: Experiment) -> None:
    """With how to get it back, which helps; another name helps too."""
    client, where = connect(experiment), experiment_id(experiment)
    client.delete_experiment(where)
    with pytest.raises(UserError, match=rf"was deleted.*restore --experiment-id {where}`.*tracking\.experiment"):
        experiment_id(experiment)
    client.restore_experiment(where)
    assert experiment_id(experiment) == where


def test_a_store_of_another_layout_is_left_whole_and_refused_in_a_sentence(
    tmp_path: Path, at: Callable[[Path], list[str]]
) -> None:
    """What was found, and what to do; another experiment of the same store can be used, and an empty one is ours."""
    from mlflow import MlflowClient

    from tasks.tracking.registry import CHAMPION, expected

    experiment = load(SMOKE, at(tmp_path))
    client = MlflowClient(experiment.tracking.uri)
    old = client.create_experiment("pricewright", artifact_location=str(tmp_path / "artifacts"))
    run = client.create_run(old, tags={STAGE: "curate", "pricewright.digest": "d1"})
    client.set_terminated(run.info.run_id, "FINISHED")
    before = client.get_experiment(old).tags
    for found in ("none is noted", "0"):
        with pytest.raises(UserError) as caught:
            experiment_id(experiment)
        said = str(caught.value)
        assert f"The MLflow experiment pricewright in {experiment.tracking.uri} holds runs of another layout" in said
        assert f"({found}; this version reads {LAYOUT})" in said
        assert "Set tracking.experiment to another name, or move mlruns/ away. Nothing was changed." in said
        assert client.get_experiment(old).tags == before and len(client.search_runs([old])) == 1
        with pytest.raises(UserError, match="holds runs of another layout"):  # and not that there is no champion yet
            expected(experiment, CHAMPION)
        client.set_experiment_tag(old, LAYOUT_TAG, "0")
        before = client.get_experiment(old).tags
    other = load(SMOKE, [*at(tmp_path), "tracking.experiment=other"])
    assert experiment_id(other) == experiment_id(other) != old
    empty = client.create_experiment("empty", artifact_location=str(tmp_path / "artifacts"))
    assert experiment_id(load(SMOKE, [*at(tmp_path), "tracking.experiment=empty"])) == empty
    assert client.get_experiment(empty).tags[LAYOUT_TAG] == LAYOUT


def test_a_registered_version_of_another_layout_is_nobody_s(tmp_path: Path, at: Callable[[Path], list[str]]) -> None:
    """It is no champion to beat or to price with; one that is registered here is."""
    from tasks.tracking.registry import CHAMPION, register, registered, version_of

    experiment = load(SMOKE, at(tmp_path))
    client, where = connect(experiment), experiment_id(experiment)
    client.create_registered_model("pricewright")
    old = client.create_model_version("pricewright", str(tmp_path / "m-1"), tags={"pricewright.model_id": "m-1"})
    client.set_registered_model_alias("pricewright", CHAMPION, old.version)
    assert version_of(experiment, CHAMPION) is None and registered(experiment, CHAMPION) is None
    model = client.create_logged_model(where, name="new")
    client.finalize_logged_model(model.model_id, "READY")
    register(experiment, model.model_id, CHAMPION, {})
    assert registered(experiment, CHAMPION) == model.model_id
    assert client.get_model_version("pricewright", old.version).tags == {"pricewright.model_id": "m-1"}

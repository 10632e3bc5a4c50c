"""The winner: promoted by rule, asked on the command line and over HTTP, and taken away as a folder."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from flows.cli.main import main
from tasks.config.loading import find_conf, load
from tasks.data.items import Item
from tasks.models.language.estimators import TEMPERATURES
from tasks.models.loading import load_predictor
from tasks.tracking.registry import BEST_CHECKPOINT, CHALLENGER, CHAMPION, version_of
from tasks.tracking.runs import MODEL_ID
from tasks.tracking.store import connect, experiment_id, model_folder


def command(*words: str) -> tuple[int, str]:
    """The exit status of a command, and all it said."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main([*words])
    return status, output.getvalue() if status == 0 else errors.getvalue()


def store(folder: Path, at: Callable) -> str:
    """A conf of the smoke experiment with a store of its own, and nothing in it."""
    conf = yaml.safe_load(find_conf("conf/smoke.yaml").read_text())
    conf["tracking"] = {word.partition("=")[0].partition(".")[2]: word.partition("=")[2] for word in at(folder)}
    (folder / "own.yaml").write_text(yaml.safe_dump(conf))
    return str(folder / "own.yaml")


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory, at: Callable) -> str:
    """A conf whose pipeline was run once."""
    conf = store(tmp_path_factory.mktemp("store"), at)
    assert command("run", "-c", conf)[0] == 0
    return conf


def ledger(conf: str) -> list:
    """All of MLflow that a promotion could touch."""
    experiment = load(conf)
    client = connect(experiment)
    where = experiment_id(experiment)
    versions = [(v.name, v.version, v.tags, v.aliases) for v in client.search_model_versions()]
    models = client.search_logged_models([where])
    kept = [sorted(info.path for info in client.list_logged_model_artifacts(m.model_id, "predictions")) for m in models]
    metrics = [sorted((x.key, x.value) for x in m.metrics or []) for m in models]
    runs = [(run.info.run_id, run.info.status, run.data.metrics) for run in client.search_runs([where])]
    return [sorted(map(str, versions)), kept, metrics, sorted(map(str, runs))]


def test_a_dry_run_says_who_would_win_and_changes_nothing(conf: str) -> None:
    """With no incumbent, with one that was evaluated elsewhere, and with the champion itself."""
    name = ("promote.name=dry", "finetune.enabled=false")
    assert command("baselines", "-c", conf, *name, "baselines.models=[random]")[0] == 0
    assert command("evaluate", "-c", conf, *name, "baselines.models=[random]")[0] == 0
    before = ledger(conf)
    status, said = command("promote", "-c", conf, *name, "baselines.models=[random]", "--dry-run")
    assert status == 0 and "no incumbent" in said and "Nothing was changed" in said
    assert ledger(conf) == before
    assert command("promote", "-c", conf, *name, "baselines.models=[random]")[0] == 0
    assert command("evaluate", "-c", conf, *name)[0] == 0
    before = ledger(conf)
    status, said = command("promote", "-c", conf, *name, "--dry-run")
    assert status == 0 and "incumbent" in said
    assert ledger(conf) == before


def test_a_decision_and_its_numbers_are_tags_and_the_loser_is_challenger(conf: str) -> None:
    """Who did not beat the champion keeps an alias and the reason; who does beat it takes the champion's, not both."""
    words = ("-c", conf, "promote.name=duel", "finetune.enabled=false", "finetune.base=tiny-random")
    assert command("run", *words)[0] == 0
    experiment = load(conf, ["promote.name=duel"])
    first = version_of(experiment, CHAMPION)
    assert first.tags["decision"] == "no incumbent" and version_of(experiment, CHALLENGER) is None
    assert command("run", *words, "baselines.models=[random,constant]")[0] == 0
    champion, loser = version_of(experiment, CHAMPION), version_of(experiment, CHALLENGER)
    assert champion.version == first.version != loser.version
    for version in (champion, loser):
        assert "does not beat the incumbent" in version.tags["decision"]
        assert float(version.tags["difference_low"]) <= float(version.tags["difference"])
        assert float(version.tags["p_value"]) <= 1 and int(version.tags["n"]) > 10
        assert version.tags["alpha"] == "0.05"
    assert command("run", *words)[0] == 0  # the champion is the challenger again
    assert version_of(experiment, CHALLENGER) is None


def test_a_fitted_temperature_goes_through_the_whole_pipeline(conf: str) -> None:
    """Each checkpoint keeps its own; with too few items left to fit on, the training does not even start."""
    words = ("-c", conf, "promote.name=fitted", "baselines.models=[random]", "finetune.answer.temperature=fit")
    status, said = command("finetune", *words, "finetune.score_items=100")
    assert status == 2 and "Lower score_items" in said
    assert command("run", *words)[0] == 0
    experiment = load(conf, ["promote.name=fitted"])
    version = version_of(experiment, BEST_CHECKPOINT)
    fields = json.loads((model_folder(connect(experiment), version.tags[MODEL_ID]) / "predictor.json").read_text())
    assert fields["answer"]["temperature"] in TEMPERATURES
    rows = {row["model"]: row for row in json.loads(command("leaderboard", "--json", *words)[1])}
    assert rows["finetuned"]["crps"] > 0 and 0 <= rows["finetuned"]["coverage"] <= 1 and rows["random"]["crps"] is None


def test_greedy_answers_that_are_no_price_cannot_win(conf: str) -> None:
    """A model that says nothing readable keeps its row with the share of such answers, and another is champion."""
    words = ("-c", conf, "promote.name=greedy", "baselines.models=[random]", "finetune.answer.estimate=greedy")
    assert command("run", *words, "evaluate.machine_per_hour=2")[0] == 0
    told = command("leaderboard", "--json", *words, "evaluate.machine_per_hour=2")[1]
    rows = {row["model"]: row for row in json.loads(told)}
    assert rows["finetuned"]["unparsable"] == 1 - rows["finetuned"]["n"] / rows["random"]["n"] > 0
    assert rows["finetuned"]["cost_per_1000"] == pytest.approx(rows["finetuned"]["predict_ms"] * 2 / 3600)
    assert rows["random"]["champion"]


def test_predict_gives_a_price_with_its_interval(conf: str, tmp_path: Path) -> None:
    """Texts and a file alike, in their order; what is empty or no product is refused with its place."""
    (tmp_path / "items.jsonl").write_text('{"title": "Kettle", "price": 3}\n{"text": "A red bicycle"}\n')
    status, said = command(
        "predict", "-c", conf, "Steel kettle, pack of 2", "--file", f"{tmp_path}/items.jsonl", "--json"
    )
    rows = json.loads(said)
    assert status == 0 and [row["title"] for row in rows] == ["Steel kettle, pack of 2", "Kettle", ""]
    assert all(0 <= row["low"] <= row["price"] <= row["high"] for row in rows)
    assert "80%" in command("predict", "-c", conf, "Steel kettle")[1]
    (tmp_path / "bad.jsonl").write_text('{"title": "Kettle"}\n{"price": 3}\n')
    for words, expected in (
        ([" "], "nothing to price"),
        (["--file", f"{tmp_path}/bad.jsonl"], "row 2"),
        (["--file", f"{tmp_path}/none.jsonl"], "No data at"),
    ):
        status, said = command("predict", "-c", conf, *words)
        assert status == 2 and expected in said


def test_without_a_champion_it_is_said_how_to_make_one(tmp_path: Path, at: Callable) -> None:
    """For each command that needs one."""
    conf = store(tmp_path, at)
    for words in (["predict", "Kettle"], ["serve", "--port", str(free_port())], ["export", str(tmp_path / "taken")]):
        status, said = command(*words, "-c", conf)
        assert status == 2 and "no champion yet. Run: pricewright run" in said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(conf: str) -> Iterator[str]:
    """The address of `pricewright serve`, with small limits."""
    port = free_port()
    limits = ["--max-body", "5000", "--max-texts", "3", "--max-characters", "100"]
    words = [sys.executable, "-m", "flows.cli", "serve", "-c", conf, "--port", str(port), *limits]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    address = process.stdout.readline().split()[-1]
    assert address == f"http://127.0.0.1:{port}/invocations"
    for _ in range(600):
        with contextlib.suppress(OSError):
            assert urllib.request.urlopen(address.replace("invocations", "ping"), timeout=10).status == 200
            break
        assert process.poll() is None
        time.sleep(0.1)
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def ask(address: str, body: bytes | Iterator[bytes], content_type: str | None = "application/json") -> tuple[int, str]:
    request = urllib.request.Request(address, body, {"Content-Type": content_type} if content_type else {})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_server_gives_what_predict_gives(conf: str, server: str) -> None:
    """The documented request, answered with price and interval; characters of any script are fine."""
    texts = ["Steel kettle, pack of 2", "Bouilloire \u00e9lectrique \u2615\nAcier"]
    status, body = ask(server, json.dumps({"inputs": texts}).encode())
    rows = json.loads(body)["predictions"]
    assert status == 200
    told = json.loads(command("predict", "-c", conf, *texts, "--json")[1])
    for row, one in zip(rows, told, strict=True):
        assert [row[key] for key in ("price", "low", "high")] == pytest.approx(
            [one[key] for key in ("price", "low", "high")], abs=0.01
        )


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 4900, 400, "not JSON"),
        (b'["kettle"]', 400, "a JSON list"),
        (b'{"texts": ["kettle"]}', 400, "'texts'"),
        (b'{"inputs": ["kettle"], "params": {}}', 400, "'params'"),
        (b'{"dataframe_split": {"columns": ["a"], "data": [[1]]}}', 400, "the one key inputs"),
        (b'{"inputs": "kettle"}', 400, "a list of one text or more"),
        (b'{"inputs": []}', 400, "a list of one text or more"),
        (b'{"inputs": ["kettle", 5]}', 400, "inputs[1] is a int"),
        (b'{"inputs": ["kettle", " \\n"]}', 400, "inputs[1] is empty"),
        (b'{"inputs": ["\\ud800"]}', 400, "surrogate"),
        (b'{"inputs": ["a", "b", "c", "d"]}', 413, "at most 3"),
        (b'{"inputs": ["' + b"x" * 101 + b'"]}', 413, "at most 100"),
        (b'{"inputs": ["' + b"x" * 6000 + b'"]}', 413, "longer than 5,000 bytes"),
    ],
)
def test_a_bad_request_gets_a_4xx_that_says_what_is_wrong(server: str, body: bytes, status: int, expected: str) -> None:
    """And the server goes on answering."""
    got, said = ask(server, body)
    assert got == status and expected in json.loads(said)["message"], said
    assert ask(server, b'{"inputs": ["kettle"]}')[0] == 200


def test_a_body_of_unknown_length_is_read_no_further_than_the_limit(server: str) -> None:
    """Sent in chunks it is refused like any other that is too long, and taken when it is not."""
    chunk = b'{"inputs": ["' + b"x" * 90
    assert ask(server, iter([chunk, b'"]}']))[0] == 200
    refused = None
    for _ in range(20):  # a server that answers early may hang up on whoever is still sending
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            refused = refused or ask(server, iter([chunk, *[b"x" * 1_000] * 6, b'"]}']))[0]
    assert refused == 413


@pytest.mark.parametrize("content_type", ["text/csv", "application/x-www-form-urlencoded", "text/plain"])
def test_what_is_not_called_json_is_refused(server: str, content_type: str) -> None:
    """With the type that was expected."""
    status, said = ask(server, b'{"inputs": ["kettle"]}', content_type)
    assert status == 415 and "Expected application/json" in json.loads(said)["message"]


def test_a_model_that_fails_inside_is_a_500_in_one_sentence(conf: str, capsys: pytest.CaptureFixture) -> None:
    """Its stack trace is in the log of the server and not in the answer, and the next request is answered."""
    import asyncio

    import httpx
    from mlflow import pyfunc
    from mlflow.pyfunc import scoring_server

    from flows.cli.serving import Guard, Limits

    connect(load(conf))
    model = pyfunc.load_model(f"models:/{load(conf).registered_model}@{CHAMPION}")
    inside = model.unwrap_python_model()
    whole, inside.predictor = inside.predictor, None
    guard = Guard(scoring_server.init(model), Limits())

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://127.0.0.1") as client:
            return await client.post("/invocations", json={"inputs": ["Kettle"]})

    answer = asyncio.run(post())
    assert answer.status_code == 500 and answer.json()["error_code"] == "INTERNAL_ERROR"
    assert "Traceback" not in answer.text and "AttributeError" not in answer.text
    assert "AttributeError" in capsys.readouterr().err
    inside.predictor = whole
    guard.turn = asyncio.Lock()
    assert asyncio.run(post()).status_code == 200


def test_a_model_that_is_told_what_similar_products_cost_goes_through_the_whole_pipeline(
    conf: str, tmp_path: Path
) -> None:
    """Base model and checkpoints are asked with the prices of training items, which each of them takes along."""
    words = ("-c", conf, "promote.name=told", "baselines.models=[random]", "finetune.prompt.comparables=3")
    assert command("run", *words)[0] == 0
    status, said = command("export", str(tmp_path / "told"), *words, "--best-checkpoint", "-n", "8")
    assert status == 0 and "scored again on 8 test items" in said
    assert "Similar products cost" in (tmp_path / "told" / "README.md").read_text()
    rows = {row["model"]: row for row in json.loads(command("leaderboard", "--json", *words)[1])}
    for name in ("base", "finetuned"):
        assert (model_folder(connect(load(conf)), rows[name]["model_id"]) / "comparables.skops").is_file()


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_a_merged_checkpoint_is_a_whole_model_with_its_card(conf: str, tmp_path: Path) -> None:
    """Sixteen-bit weights that transformers loads, that price like the tuned model, and a card of where it is from."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "deep" / "best"
    status, said = command("export", str(folder), "-c", conf, "--best-checkpoint", "-n", "8")
    assert status == 0 and "scored again on 8 test items" in said
    assert said.splitlines()[-1] == str(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16 and AutoTokenizer.from_pretrained(folder).eos_token == "</s>"
    experiment = load(conf)
    version = version_of(experiment, BEST_CHECKPOINT)
    assert not any("lora" in name for name, _ in model.named_parameters())
    answer = load_predictor(folder).predict([Item.from_text("Steel kettle")])
    assert answer.low[0] <= answer.price[0] <= answer.high[0]
    card, text = front_matter(folder), (folder / "README.md").read_text()
    assert card["license"] == "mit" and card["base_model"] == "tiny-random"
    results = card["model-index"][0]["results"][0]
    assert {metric["type"] for metric in results["metrics"]} >= {"mae", "hits", "coverage", "crps"}
    for expected in (results["dataset"]["revision"], "mean absolute error", " to $", "scored again", "seed"):
        assert expected in text
    assert version.tags["dataset"] == results["dataset"]["revision"]
    assert not [path for path in folder.parent.iterdir() if path != folder]


def test_an_adapter_is_taken_away_alone(conf: str, tmp_path: Path) -> None:
    """It prices as the checkpoint did when it was evaluated, and names no path of this machine."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    assert command("export", str(folder), "-c", conf, "--best-checkpoint", "--adapter")[0] == 0
    assert {path.name for path in folder.iterdir()} == {"README.md", "adapter", "predictor.json"}
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-random"
    assert front_matter(folder)["library_name"] == "peft"
    experiment = load(conf)
    client = connect(experiment)
    from tasks.data.splits import Dataset, read_split
    from tasks.tracking.runs import StageRun

    version = version_of(experiment, BEST_CHECKPOINT)
    run = StageRun(client, client.get_run(version.tags["evaluation"]), "evaluate", done=True)
    board = run.read_json("leaderboard.json")
    dataset = Dataset(**{key: value for key, value in board["dataset"].items() if key != "source"})
    item = read_split(dataset, "test")[0]
    import pyarrow.parquet as pq

    kept = pq.read_table(run.artifact("predictions.parquet")).to_pandas()
    (price,) = kept[(kept["model"] == "finetuned") & (kept["id"] == item.id)]["price"]
    np.testing.assert_allclose(load_predictor(folder).predict([item]).price, price, atol=1.0)


def test_a_classic_champion_is_its_files(conf: str, tmp_path: Path) -> None:
    """It loads from the folder, and has no adapter to take away."""
    words = ("-c", conf, "promote.name=classic", "finetune.enabled=false", "baselines.models=[tfidf_ridge]")
    assert command("run", *words)[0] == 0
    status, said = command("export", str(tmp_path / "none"), *words, "--adapter")
    assert status == 2 and "tfidf_ridge, has no adapter" in said
    assert command("export", str(tmp_path / "classic"), *words)[0] == 0
    assert load_predictor(tmp_path / "classic").predict([Item.from_text("Kettle")]).price[0] > 0
    card = front_matter(tmp_path / "classic")
    assert card["model-index"][0]["name"] == "classic" and "license" not in card


def test_the_card_of_a_blend_names_the_base_model_of_its_members(tmp_path: Path, items: list[Item]) -> None:
    """With its licence, once, however many members are language models; no path of this machine goes along."""
    from types import SimpleNamespace

    from tasks.data.splits import Dataset
    from tasks.export import Exported, _write_card
    from tasks.models.language.model import ModelSpec
    from tasks.models.predictor import Predictions
    from tasks.tracking.runs import Candidate

    (tmp_path / "predictor.json").write_text('{"predictor": "blend"}')
    for place in ("0", "1", "2"):
        (tmp_path / "members" / place / "adapter").mkdir(parents=True)
        ModelSpec.of(load("conf/smoke.yaml").finetune).save(tmp_path / "members" / place)
        config = tmp_path / "members" / place / "adapter" / "adapter_config.json"
        config.write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    (tmp_path / "members" / "2" / "predictor.json").write_text('{"predictor": "classic"}')
    price = np.array([item.price for item in items])
    version = SimpleNamespace(name="pricewright", version="1", tags={})
    data = Dataset("sample", "d1", "", {})
    answers = Predictions(price, price, price)
    found = Exported(version, Candidate("m-1", "blend", "blend"), tmp_path, data, items, answers, {"seed": "1"})
    _write_card(found, tmp_path, "saved", "")
    card = front_matter(tmp_path)
    assert card["base_model"] == "tiny-random" and card["license"] == "mit"
    assert "| licence of the base model | mit |" in (tmp_path / "README.md").read_text()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and str(tmp_path) in file.read_text()]


def test_export_never_overwrites_and_leaves_nothing_half_done(
    conf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that holds something, or a file, is refused; a failure leaves no folder."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for place in ("full", "full/mine.txt"):
        status, said = command("export", str(tmp_path / place), "-c", conf)
        assert status == 2 and "is not empty" in said
    from tasks import export

    monkeypatch.setattr(export, "_write_card", lambda *_: 1 / 0)
    assert command("export", str(tmp_path / "half"), "-c", conf)[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["full"]

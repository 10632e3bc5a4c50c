"""The champion asked for prices: on the command line, and over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from tasks.config.loading import load
from tasks.models import loading
from tasks.models.predictor import Predictions
from tasks.tracking.registry import CHAMPION, registered
from tasks.tracking.store import connect, model_folder
from tests.smoke import command, own_conf
from tests.waiting import PATIENCE, answers, free_port, until


def test_predict_gives_a_price_with_its_interval(conf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts and a file alike, in their order; an interval that a model does not give is left out, and null in JSON,
    which knows no NaN; what is empty or no product is refused with its place."""
    (tmp_path / "items.jsonl").write_text('{"title": "Kettle", "price": 3}\n{"text": "A red bicycle"}\n')
    status, said = command(
        "predict", "-c", conf, "Steel kettle, pack of 2", "--file", f"{tmp_path}/items.jsonl", "--json"
    )
    rows = json.loads(said)
    assert status == 0 and [row["title"] for row in rows] == ["Steel kettle, pack of 2", "Kettle", ""]
    assert all(0 <= row["low"] <= row["price"] <= row["high"] for row in rows)
    assert "80%" in command("predict", "-c", conf, "Steel kettle")[1]
    points = Predictions.points(np.array([5.0]))
    with monkeypatch.context() as patch:
        patch.setattr(loading, "load_predictor", lambda _: SimpleNamespace(predict=lambda _: points))
        (row,) = json.loads(command("predict", "-c", conf, "Steel kettle", "--json")[1], parse_constant=pytest.fail)
        assert command("predict", "-c", conf, "Steel kettle") == (0, "$5.00  Steel kettle\n")
    assert (row["price"], row["low"], row["high"]) == (5.0, None, None)
    (tmp_path / "bad.jsonl").write_text('{"title": "Kettle"}\n{"price": 3}\n')
    for words, expected in (
        (["Kettle", " "], "Text 2 of 2 is empty"),
        ([], "nothing to price"),
        (["--file", f"{tmp_path}/bad.jsonl"], "row 2"),
        (["--file", f"{tmp_path}/none.jsonl"], "No data at"),
    ):
        status, said = command("predict", "-c", conf, *words)
        assert status == 2 and expected in said


def test_what_cleaning_leaves_nothing_of_gets_no_price(conf: str, capsys: pytest.CaptureFixture) -> None:
    """The reason is said; and each answer has the title that was given, by which rows can be joined."""
    from flows.cli.main import main

    # Part numbers are scrubbed, and signs are no words.
    texts = ["XJ-4500B77", "RTX4090X steel kettle, 8 cups", "!!! ...", "\U0001f642", "\u200b"]
    assert main(["predict", "-c", conf, *texts, "--json"]) == 0
    captured = capsys.readouterr()
    none, some, *signs = json.loads(captured.out)
    assert [row["price"] for row in signs] == [None] * 3
    assert none == {"id": none["id"], "title": texts[0], "price": None, "low": None, "high": None}
    assert some["title"] == texts[1] and some["low"] <= some["price"] <= some["high"]
    assert "4 of 5 without a price: cleaning leaves no words of it" in captured.err
    assert command("predict", "-c", conf, texts[0]) == (0, f"no price  {texts[0]}\n")


def test_a_price_says_where_it_comes_from(conf: str, capsys: pytest.CaptureFixture) -> None:
    """The model, what it learned from and its error on test, as the leaderboard has them: on standard error, and on the
    pages of MLflow's registry."""
    from flows.cli.main import main

    rows = json.loads(command("leaderboard", "-c", conf, "--json")[1])
    champion = next(row for row in rows if row["champion"])
    assert main(["predict", "-c", conf, "Steel kettle"]) == 0
    said = capsys.readouterr().err
    found = re.search(
        rf"{champion['model']}, trained on [1-9]\d* generated products, \$({champion['mae']:.2f}) off", said
    )
    assert found and f"({champion['n']} test items)" in said
    told = found[0]
    client, name = connect(load(conf)), load(conf).registered_model
    version = client.get_model_version_by_alias(name, CHAMPION)
    assert told in version.description and told in client.get_registered_model(name).description


def test_a_price_is_in_the_currency_of_the_run_that_made_the_champion(conf: str) -> None:
    """Although its model was fitted by a run before, on the same items with another currency."""
    words = ["-c", conf, "promote.name=euros", "data.currency=[€]"]
    assert command("run", *words)[0] == 0
    status, said = command("predict", *words, "Steel kettle")
    assert status == 0 and said.startswith("€") and "$" not in said


def test_without_a_champion_it_is_said_how_to_make_one(tmp_path: Path, at: Callable) -> None:
    """For each command that needs one."""
    conf = own_conf(tmp_path, at(tmp_path))
    for words in (["predict", "Kettle"], ["serve", "--port", str(free_port())], ["export", str(tmp_path / "taken")]):
        status, said = command(*words, "-c", conf)
        assert status == 2 and "no champion yet. Run: pricewright run" in said


def test_a_champion_whose_files_are_gone_is_told_from_one_that_never_was(conf: str, tmp_path: Path) -> None:
    """For each command that needs one, with the command that makes another."""
    folder = model_folder(connect(load(conf)), str(registered(load(conf), CHAMPION)))
    aside = folder.rename(tmp_path / "aside")
    try:
        for words in (
            ["predict", "Kettle"],
            ["serve", "--port", str(free_port())],
            ["export", str(tmp_path / "taken")],
        ):
            status, said = command(*words, "-c", conf)
            assert status == 2 and f"the champion, are gone from {folder}. Run: pricewright run" in said
    finally:
        aside.rename(folder)


@pytest.fixture(scope="module")
def server(conf: str) -> Iterator[str]:
    """The address of `pricewright serve`, with small limits."""
    port = free_port()
    limits = ["--max-body", "5000", "--max-texts", "3", "--max-characters", "100"]
    words = [sys.executable, "-m", "flows.cli", "serve", "-c", conf, "--port", str(port), *limits]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().strip().rpartition(" ")[-1]
        assert address == f"http://127.0.0.1:{port}/invocations"
        until(lambda: answers(address.replace("invocations", "ping")), process)
        yield address
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()


def ask(address: str, body: bytes | Iterator[bytes], content_type: str | None = "application/json") -> tuple[int, str]:
    request = urllib.request.Request(address, body, {"Content-Type": content_type} if content_type else {})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_server_gives_what_predict_gives(conf: str, server: str) -> None:
    """The documented request, answered with price and interval; characters of any script are fine."""
    texts = ["Steel kettle, pack of 2", "Bouilloire \u00e9lectrique \u2615\nAcier"]
    status, body = ask(server, json.dumps({"inputs": texts}).encode())
    rows, model = (json.loads(body)[key] for key in ("predictions", "model"))
    assert status == 200
    assert model["dataset"] == "sample" and model["generated"] and model["n"] > 20 and model["mae"] > 0
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


@pytest.mark.parametrize("rest", ["", ";", '; charset="utf-8"', "; Charset=utf-8", "; profile=x"])
def test_json_is_known_however_it_is_called(server: str, rest: str) -> None:
    """As HTTP allows: letters of any case, and parameters."""
    assert ask(server, b'{"inputs": ["kettle"]}', f"Application/JSON{rest}")[0] == 200


def test_a_request_that_takes_too_long_and_one_behind_it_are_told_so() -> None:
    """In JSON, as all that is refused. The second one is not asked while the first one is not done."""
    from flows.cli.serving import Guard, Limits

    begun, let_go = asyncio.Event(), asyncio.Event()

    async def slow(_: object, __: object, send: Callable) -> None:
        begun.set()
        await let_go.wait()
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 504, "headers": head})
        await send({"type": "http.response.body", "body": b"Request processing time exceeded limit"})

    async def both() -> tuple[httpx.Response, httpx.Response]:
        guard = httpx.ASGITransport(Guard(slow, Limits(), seconds=0))
        async with httpx.AsyncClient(transport=guard, base_url="http://127.0.0.1") as client:
            first = asyncio.create_task(client.post("/invocations", json={"inputs": ["Kettle"]}))
            await begun.wait()
            second = await client.post("/invocations", json={"inputs": ["Kettle"]})
            let_go.set()
            return await first, second

    first, second = asyncio.run(both())
    assert first.status_code == 504 and "Send fewer or shorter texts" in first.json()["message"]
    assert second.status_code == 503 and "Send it again later" in second.json()["message"]


@pytest.fixture
def posted(conf: str) -> Callable[..., httpx.Response]:
    """What a server in this process answers to texts, with another predictor in the champion if one is given."""
    from mlflow import pyfunc
    from mlflow.pyfunc import scoring_server

    from flows.cli.serving import Guard, Limits

    connect(load(conf))
    model = pyfunc.load_model(f"models:/{load(conf).registered_model}@{CHAMPION}")
    inside = model.unwrap_python_model()
    whole, app = inside.predictor, scoring_server.init(model)

    async def post(texts: tuple[str, ...]) -> httpx.Response:
        guard = httpx.ASGITransport(Guard(app, Limits()))
        async with httpx.AsyncClient(transport=guard, base_url="http://127.0.0.1") as client:
            return await client.post("/invocations", json={"inputs": texts})

    def answer(*texts: str, **predictor: object) -> httpx.Response:
        inside.predictor = predictor.get("predictor", whole)
        return asyncio.run(post(texts))

    return answer


def test_a_model_that_fails_inside_is_a_500_in_one_sentence(posted: Callable, capsys: pytest.CaptureFixture) -> None:
    """Its stack trace is in the log of the server and not in the answer, and the next request is answered."""
    answer = posted("Kettle", predictor=None)
    assert answer.status_code == 500 and answer.json()["error_code"] == "INTERNAL_ERROR"
    assert "Traceback" not in answer.text and "AttributeError" not in answer.text
    assert "AttributeError" in capsys.readouterr().err
    assert posted("Kettle").status_code == 200


def test_what_a_model_does_not_say_is_null(posted: Callable) -> None:
    """No interval, or no price, as where cleaning leaves no words: MLflow alone would write NaN, which is no JSON."""
    (row,) = json.loads(posted("XJ-4500B77").text, parse_constant=pytest.fail)["predictions"]
    assert row == {"price": None, "low": None, "high": None}
    points = SimpleNamespace(predict=lambda _: Predictions.points([5.0, float("nan")]))
    rows = json.loads(posted("Kettle", "Desk", predictor=points).text, parse_constant=pytest.fail)["predictions"]
    assert [list(row.values()) for row in rows] == [[5.0, None, None], [None, None, None]]

"""Rows whose answers come from outside, on the leaderboard of a whole run."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main
from tests.endpoint import KEY, completion, send, serving

SMOKE = "conf/smoke.yaml"
DATA = os.environ.get("PRICEWRIGHT_DATA")
FAST = ["-c", SMOKE, "finetune.enabled=false", "baselines.models=[constant,tfidf_ridge]"]


def command(*words: str) -> str:
    """The standard output of a command that ends well."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main([*words]) == 0
    return output.getvalue()


def board(*words: str) -> dict[str, dict[str, Any]]:
    """The rows of the leaderboard by model."""
    return {row["model"]: row for row in json.loads(command("leaderboard", "--json", *words))}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, at: Callable) -> list[str]:
    """A conf whose data are curated, whose models are fitted, and whose base model has been asked."""
    words = [*FAST, *at(tmp_path_factory.mktemp("store"))]
    command("run", *words)
    return words


def fill(sheet: Path, guesses: list[str]) -> None:
    """A person's work: guesses from the top, the rest left blank."""
    with sheet.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row, guess in zip(rows, guesses, strict=False):
        row["guess"] = guess
    with sheet.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_person_is_a_row_beside_whom_every_model_stands(words: list[str], tmp_path: Path) -> None:
    """Over the answered items alone; each model says how it did on those; the same sheet twice is the same sample."""
    sheet, other = tmp_path / "sheet.csv", tmp_path / "other.csv"
    assert command("human", str(sheet), "-n", "12", *words).splitlines()[-1] == str(sheet)
    command("human", str(other), "-n", "5", *words)
    assert sheet.read_text().splitlines()[:6] == other.read_text().splitlines()
    fill(sheet, ["20", "$35.50", "100", "15", "60", "", "80", "cheap"])
    command("evaluate", *words, f"evaluate.human={sheet}")
    rows = board(*words, f"evaluate.human={sheet}")
    human = rows["human"]
    assert (human["status"], human["kind"], human["n"]) == ("ran", "human", 6)
    assert human["reason"].startswith("1 guess ('cheap' for ") and human["rank"] is not None
    assert human.get("vs_human") is None and human["predict_ms"] is None
    for name in ("constant", "tfidf_ridge", "base", "floor"):
        assert rows[name]["vs_human_n"] == 6
        assert rows[name]["vs_human_low"] <= rows[name]["vs_human"] <= rows[name]["vs_human_high"]
    from flows.pipeline import recall_scores
    from tasks.config.loading import load
    from tasks.report.board import open_run

    experiment = load(SMOKE, [*words[2:], f"evaluate.human={sheet}"])
    run = open_run(experiment, recall_scores(experiment).run_id)
    tags = run.client.get_logged_model(human["model_id"]).tags
    assert tags["pricewright.external"] == "true"


def test_guesses_are_read_again_where_the_conf_names_their_currency(words: list[str], tmp_path: Path) -> None:
    """Of the same items: the rows that failed have figures once `data.currency` names the sign beside the guesses, a
    person's or those of a model behind an API, which is not asked again."""
    sheet = tmp_path / "sheet.csv"
    command("human", str(sheet), "-n", "3", *words)
    fill(sheet, ["12,50 €", "€12", "12 EUR"])
    with serving(lambda handler, _asked, _attempt: send(handler, completion("45 zł"))) as endpoint:
        model = {"name": "cloud", "base_url": endpoint.url, "key_env": None, "input_price": 0, "output_price": 0}
        dollars = [*words, f"evaluate.human={sheet}", f"evaluate.api={json.dumps([model])}"]
        command("evaluate", *dollars)
        rows, asked = board(*dollars), len(endpoint.requests)
        assert rows["human"]["status"] == rows["cloud"]["status"] == "failed"
        others = [*dollars, "data.currency=[€, EUR, zł]"]
        command("run", *others)
        human, cloud = (board(*others)[name] for name in ("human", "cloud"))
        assert (human["status"], human["n"], human["reason"]) == ("ran", 3, None)
        assert (cloud["status"], cloud["n"], len(endpoint.requests)) == ("ran", asked, asked)
        alone = [word for word in others if not word.startswith("evaluate.human")]
        command("evaluate", *[word for word in alone if not word.startswith("data.currency")])
        command("evaluate", *alone)
        assert board(*alone)["cloud"]["status"] == "ran"


def test_what_is_to_be_priced_is_cleaned_as_what_was_trained_on(words: list[str], tmp_path: Path) -> None:
    """By the rules that travel with the model: markup, part numbers and statements of a price change no answer; a file
    may have the columns, the prices and the leaks of the one that trained."""
    plain = "Stainless kettle\nHolds 1.7 litres."
    shop = "<b>Stainless kettle</b>&nbsp;\n<p>Holds 1.7 litres.</p> MSRP: $162.00 XK-1234567"

    def asked(*what: str) -> list[dict[str, Any]]:
        return json.loads(command("predict", *what, "--json", *[word for word in words if "models" not in word]))

    clean, raw = asked(plain, shop)
    assert {**raw, "id": clean["id"], "title": clean["title"]} == clean
    assert raw["title"] == shop.split("\n")[0]  # as it was given: rows are joined by it
    file = tmp_path / "shop.csv"
    file.write_text('Title;Description;Price\n"Stainless kettle";"<i>Holds 1.7 litres.</i> now $18,50";"18,50"\n')
    (listed,) = asked("--file", str(file))
    assert (listed["title"], listed["price"]) == (clean["title"], clean["price"])


def test_a_sheet_needs_curated_data(tmp_path: Path, at: Callable, capsys: pytest.CaptureFixture) -> None:
    """Without test items the message names the command that makes them; a senseless number is refused."""
    store = at(tmp_path / "store")
    assert main(["human", str(tmp_path / "sheet.csv"), "-c", SMOKE, *store]) == 2
    assert "Run `pricewright curate` first" in capsys.readouterr().err
    assert main(["human", str(tmp_path / "sheet.csv"), "-n", "0", "-c", SMOKE, *store]) == 2
    assert "Expected the number of items" in capsys.readouterr().err
    assert not (tmp_path / "sheet.csv").exists()


def test_bad_guesses_are_rows_with_the_reason_and_the_others_stand(words: list[str], tmp_path: Path) -> None:
    """An id twice or no usable guess fails, foreign ids are left out, a file without columns is a row too; the name of
    a model may be any."""
    sheet = tmp_path / "sheet.csv"
    command("human", str(sheet), "-n", "3", *words)
    with sheet.open(encoding="utf-8-sig", newline="") as lines:
        first, second, third = (row["id"] for row in csv.DictReader(lines))
    good = "Claude 3.5 (Sonnet)@2024"
    rows = [["id", "model", "guess"], [first, good, "10"], [second, good, "12"], ["nowhere", good, "5"]]
    paths = ["./llama.gguf", "a//b", "gpt/", "../../x", "/", "http://localhost:8000/v1", "x" * 300]
    rows += [[first, path, "10"] for path in paths]
    rows += [[first, "twice", "1"], [first, "twice", "2"], [third, "negative", "-4"]]
    with (tmp_path / "recorded.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows(rows)
    (tmp_path / "broken.csv").write_text("hello")
    given = f"evaluate.recorded=[{tmp_path}/recorded.csv, {tmp_path}/broken.csv]"
    command("evaluate", *words, given)
    found = board(*words, given)
    assert (found[f"recorded/{good}"]["status"], found[f"recorded/{good}"]["n"]) == ("ran", 2)
    assert "1 id (nowhere) not among the test items" in found[f"recorded/{good}"]["reason"]
    assert {found[f"recorded/{path}"]["status"] for path in paths} == {"ran"}
    for name, reason in (("twice", "more than one guess"), ("negative", "'-4'"), ("broken.csv", "no column id, model")):
        assert found[f"recorded/{name}"]["status"] == "failed" and reason in found[f"recorded/{name}"]["reason"]
    assert found["constant"]["status"] == found["tfidf_ridge"]["status"] == "ran"


def test_files_and_names_are_looked_at_before_anything_runs(
    tmp_path: Path, at: Callable, capsys: pytest.CaptureFixture
) -> None:
    """A sheet that is not there, or a model with the name of another row, ends the run before its first stage."""
    store = at(tmp_path)
    model = "input_price: 0, output_price: 0"
    for override, expected in (
        ("evaluate.human=none.csv", "there is no file"),
        (f"evaluate.api=[{{name: base, {model}}}]", "the name of another row"),
        (f"evaluate.api=[{{name: recorded/x, {model}}}]", "the name of another row"),
    ):
        assert main(["run", *FAST, *store, override]) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "artifacts").exists()


def test_an_answer_that_was_missing_is_asked_for_by_the_next_run(
    words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An evaluation without its key is done; with the key there, the same command asks, and then it is done for good,
    whether or not the key is there; the key is in no artifact, tag, param or database."""
    monkeypatch.delenv("TEST_KEY", raising=False)
    with serving(lambda handler, _asked, _attempt: send(handler, completion("$50"))) as endpoint:
        model = {"name": "cloud", "base_url": endpoint.url, "key_env": "TEST_KEY", "question": str(tmp_path)}
        given = [f"evaluate.api={json.dumps([{**model, 'input_price': 1, 'output_price': 2}])}", "evaluate.budget=1"]
        command("evaluate", *words, *given)
        row = board(*words, *given)["cloud"]
        assert (row["status"], row["reason"], row["kind"]) == ("skipped", "TEST_KEY is not set", "api")
        monkeypatch.setenv("TEST_KEY", KEY)
        command("evaluate", *words, *given)
        row = board(*words, *given)["cloud"]
        asked = len(endpoint.requests)
        assert (row["status"], row["n"]) == ("ran", asked) and asked > 20
        assert row["input_tokens"] == 100 * asked and row["output_tokens"] == 10 * asked
        assert row["cost"] == pytest.approx(asked * 120e-6) and row["predict_ms"] > 0
        assert row["cost_per_1000"] == pytest.approx(0.12) and row["unparsable"] == 0
        monkeypatch.delenv("TEST_KEY")
        command("evaluate", *words, *given)
        assert board(*words, *given)["cloud"]["model_id"] == row["model_id"]
        assert len(endpoint.requests) == asked
    store = Path(words[-1].partition("=")[2]).parent
    assert not [file for file in store.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


@pytest.mark.skipif(not DATA, reason="PRICEWRIGHT_DATA names no folder with course2025_100")
def test_the_recorded_person_of_the_course_has_an_error_of_87_62(tmp_path: Path, at: Callable) -> None:
    """A fixed test set is never thinned, and recorded guesses are taken as they are: $87.62 over all 100 items."""
    folder = Path(str(DATA)) / "course2025_100"
    given = [f"data.path={tmp_path}/train.jsonl", f"data.test_path={folder}/items.jsonl", "data.source=files"]
    given += [f"evaluate.recorded={folder}/recorded_predictions.csv", *at(tmp_path / "store")]
    products = [{"title": f"Kettle number {number}, of steel", "price": 5 + number} for number in range(200)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, products)))
    given += ["finetune.prompt.highest=9", "finetune.prompt.text_tokens=4", "evaluate.resamples=200"]  # be quick
    command("run", *FAST, *given)
    rows = board(*FAST, *given)
    human = rows["recorded/human"]
    assert (round(human["mae"], 2), human["n"], human["kind"]) == (87.62, 100, "recorded")
    assert rows["recorded/student-cwait-week7-base-llama"]["n"] == 100

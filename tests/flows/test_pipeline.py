"""The whole ladder on the smoke experiment, run once: what it prints, and what it leaves in MLflow."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.config.loading import load
from tasks.data.splits import items_digest, read_split
from tasks.scoring.predictions import recall
from tasks.scoring.record import Record, open_run
from tasks.scoring.roles import Roles
from tasks.tracking.runs import MODEL, MODEL_ID, PARENT
from tasks.tracking.store import connect, experiment_id
from tests.smoke import SMOKE, Finished, command
from tests.waiting import PATIENCE

ASKED = {"human", "gpt-4o", "gpt-4o-mini"}  # nobody has, unless a sheet, or a key and a budget, are given

KEYS = {
    *("rank", "model", "kind", "step", "status", "reason", "n", "n_train", "mae", "mae_low", "mae_high"),
    *("rmsle", "hits", "split", "champion", "best_checkpoint"),
}


def latest(finished: Finished) -> str:
    """The run of the evaluation."""
    from flows.pipeline import recall_scores

    return recall_scores(finished.experiment).run_id


def test_a_run_ends_with_the_table_and_the_path_of_the_report(finished: Finished) -> None:
    """The table names every model, generated data are called so, and a script finds the report in the last line."""
    for name in (*load(SMOKE).baselines.models, "base", "finetuned", "blend", "floor", "pricewright ui"):
        assert name in finished.output
    assert "Generated data" in finished.output
    assert "off on average" in finished.output and "the error of its base model" in finished.output
    assert "pricewright init FILE" in finished.output
    report = Path(finished.output.splitlines()[-1])
    assert report.is_file() and report.suffix == ".html"
    assert finished.made == ["baselines", "curate", "evaluate", "finetune"]


def test_the_leaderboard_in_json_holds_every_model_best_first(finished: Finished) -> None:
    """From MLflow alone; the keys are the contract, exactly one row is champion and one the best checkpoint."""
    status, output = finished.command("leaderboard", "--json")
    rows = json.loads(output)
    assert status == 0
    ours = {*load(SMOKE).baselines.models, "base", "finetuned", "blend", "floor"}
    assert {row["model"] for row in rows} == ours | ASKED
    assert all(row.keys() >= KEYS for row in rows)
    ran = [row for row in rows if row["status"] == "ran"]
    assert ran == rows[: len(ran)]
    assert {row["model"] for row in rows[len(ran) :]} == ASKED and all(row["reason"] for row in rows[len(ran) :])
    errors = [row["mae"] for row in ran if row["kind"] != "floor"]
    assert errors == sorted(errors)
    assert sum(row["champion"] for row in rows) == sum(row["best_checkpoint"] for row in rows) == 1
    assert all(row["mae_low"] <= row["mae"] <= row["mae_high"] and row["n"] > 20 for row in ran)
    assert all(row["rank"] is None for row in rows if row["kind"] == "floor")
    assert next(row["step"] for row in rows if row["model"] == "finetuned") in (1, 2, 3, 4)


def test_a_leaderboard_is_found_on_a_machine_that_could_not_have_made_it(finished: Finished) -> None:
    """What another device computed is read by the conf and the data; a question that nobody asked has no answer."""
    assert finished.command("leaderboard", "--json", "finetune.device=cuda") == finished.command(
        "leaderboard", "--json"
    )
    status, said = finished.command("leaderboard", "finetune.lora.r=3")
    assert status == 2 and "Run `pricewright run` first" in said


def test_the_leaderboard_in_csv_and_markdown_holds_the_same_rows(finished: Finished) -> None:
    """For a spreadsheet and for a README, in the order of the terminal, where the floor is behind all models."""
    rows = json.loads(finished.command("leaderboard", "--json")[1])
    table = {row["model"]: row for row in csv.DictReader(io.StringIO(finished.command("leaderboard", "--csv")[1]))}
    assert list(table) == [row["model"] for row in rows]
    markdown = finished.command("leaderboard", "--markdown")[1]
    assert table.keys() == {row["model"] for row in rows} and "Generated data" in markdown
    for row in rows:
        if row["mae"] is None:
            assert table[row["model"]]["mae"] == "" and f"| {row['model']} |" in markdown
        else:
            assert float(table[row["model"]]["mae"]) == row["mae"] and f"| {row['mae']:.2f} |" in markdown


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_a_reader_who_leaves_early_is_no_failure(finished: Finished, form: list[str]) -> None:
    """As in `pricewright leaderboard | head -1`: the status is 0, and nothing is said."""
    words = [sys.executable, "-m", "flows.cli", "leaderboard", *form, "-c", SMOKE, *finished.overrides]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait(PATIENCE)) == ("", 0)


def test_the_leaderboard_and_the_report_need_no_model(finished: Finished, tmp_path: Path) -> None:
    """With every model's files gone, both are made again from what MLflow keeps of the evaluation."""
    before = finished.command("leaderboard", "--json")[1]
    models = finished.folder / "artifacts" / "models"
    away = models.rename(finished.folder / "away")
    try:
        assert finished.command("leaderboard", "--json", "--html", str(tmp_path / "report.html")) == (0, before)
    finally:
        away.rename(models)
    page = (tmp_path / "report.html").read_text()
    assert "Guess against price" in page and "Furthest off" in page and "pricewright run -c" in page


def test_mlflow_compares_models_as_runs(finished: Finished) -> None:
    """Each model is a run within the evaluation's, with its own figures, data and kind; the evaluation's own run says
    who leads, keeps the pictures, and has no figure that is one model's alone."""
    client, run_id = connect(finished.experiment), latest(finished)
    entries = client.search_runs([experiment_id(finished.experiment)], f"tags.`{PARENT}` = '{run_id}'")
    rows = json.loads(finished.command("leaderboard", "--json")[1])
    names = {r["model"] if r["step"] is None else f"{r['model']} step {r['step']}": r for r in rows}
    assert {run.info.run_name for run in entries} == set(names)
    for run in entries:
        row = names[run.info.run_name]
        if row["status"] == "ran":
            assert run.data.metrics["test_mae"] == pytest.approx(row["mae"])
        assert run.data.params["kind"] == row["kind"]
        assert [use.dataset.name for use in run.inputs.dataset_inputs] == ["sample-test"]
        assert (run.data.tags.get("pricewright.champion") == "true") == row["champion"]
    parent = client.get_run(run_id)
    assert "off on average" in parent.data.tags["mlflow.note.content"]
    assert "test_mae" not in parent.data.metrics
    pictures = {Path(info.path).stem for info in client.list_artifacts(run_id, "figures")}
    assert {"models", "guesses", "running", "checkpoints", "price", "calibration"} <= pictures


def test_one_name_of_a_metric_stands_for_one_set_of_items(finished: Finished) -> None:
    """MLflow draws metrics of one name as one chart: the validation error of every model is that on the items which all
    of them answered first, and what was measured on others is called otherwise."""
    client, run = connect(finished.experiment), open_run(finished.experiment, latest(finished))
    dataset = Record.read(run).dataset
    roles, everything = Roles.of(finished.experiment, dataset), read_split(dataset, "validation")
    first, whole = (
        f"{name}-{items_digest(items)}" for name, items in (("validation", roles.first), ("all", everything))
    )
    seen = set()
    for entry in client.search_runs([experiment_id(finished.experiment)], f"tags.`{PARENT}` = '{run.id}'"):
        model, metrics = client.get_logged_model(entry.data.tags[MODEL_ID]), entry.data.metrics
        kept = {Path(info.path).stem for info in client.list_logged_model_artifacts(model.model_id, "predictions")}
        logged = {metric.key for metric in model.metrics or []}
        assert ("validation_mae" in logged) == (first in kept) and ("validation_all_mae" in logged) == (whole in kept)
        if (answers := recall(run, model.model_id, "all", everything)) is not None:
            prices = dict(zip([item.id for item in everything], answers.price, strict=True))
            for key, items in (("validation_mae", roles.first), ("validation_selection_mae", roles.selection)):
                if key in metrics:
                    seen.add(key)
                    error = np.mean([abs(prices[item.id] - item.known_price) for item in items])
                    assert metrics[key] == pytest.approx(error)
    assert seen == {"validation_mae", "validation_selection_mae"}


def test_the_comparison_shows_the_models_that_ran(finished: Finished) -> None:
    """By the filter of the address that `pricewright ui` prints: neither the floor nor what was skipped."""
    from urllib.parse import parse_qs

    from flows.cli.ui import comparison

    (query,) = parse_qs(comparison(latest(finished)))["searchFilter"]
    client, rows = connect(finished.experiment), json.loads(finished.command("leaderboard", "--json")[1])
    shown = {run.data.tags[MODEL] for run in client.search_runs([experiment_id(finished.experiment)], query)}
    assert shown == {row["model"] for row in rows if row["status"] == "ran" and row["kind"] != "floor"}


def test_the_figures_can_be_recomputed_from_the_predictions_kept(finished: Finished) -> None:
    """Every metric comes from per-item predictions that anybody can read."""
    import pyarrow.parquet as pq

    from flows.pipeline import recall_scores
    from tasks.report.board import open_run

    run = open_run(finished.experiment, recall_scores(finished.experiment).run_id)
    frame = pq.read_table(run.artifact("predictions.parquet")).to_pandas()
    rows = json.loads(finished.command("leaderboard", "--json")[1])
    for row in (row for row in rows if row["status"] == "ran"):
        mine = frame[frame["model"] == row["model"]]
        assert len(mine) == row["n"]
        np.testing.assert_allclose(np.abs(mine["truth"] - mine["price"]).mean(), row["mae"])


def test_stages_that_are_switched_off_leave_rows_with_the_reason(finished: Finished) -> None:
    """The base model is scored all the same; the tuned row and the classic rows say why they did not run."""
    words = [
        "-c",
        SMOKE,
        *finished.overrides,
        "finetune.enabled=false",
        "baselines.enabled=false",
        "promote.name=untrained",
    ]
    assert command("run", *words)[0] == 0
    rows = {row["model"]: row for row in json.loads(command("leaderboard", "--json", *words)[1])}
    assert rows["finetuned"]["status"] == "skipped" and rows["finetuned"]["reason"] == "finetune.enabled is false"
    assert rows["constant"]["reason"] == "baselines.enabled is false" and rows["constant"]["mae"] is None
    assert rows["base"]["mae"] > 0


def test_a_model_that_fails_keeps_its_row_and_the_others_stand(
    tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is on the leaderboard, also of one that was fitted and would be refused when it is loaded."""
    from sklearn.dummy import DummyRegressor
    from sklearn.ensemble import StackingRegressor

    from tasks.models import classic

    def breaks(_items: object) -> object:
        raise MemoryError("the features do not fit")

    monkeypatch.setitem(
        classic.BASELINES, "tfidf_ridge", classic.Baseline(breaks, classic.BASELINES["constant"].estimator)
    )
    stacked = StackingRegressor([("mean", DummyRegressor())], DummyRegressor())
    monkeypatch.setitem(
        classic.BASELINES, "constant_median", classic.BASELINES["constant"]._replace(estimator=lambda *_: stacked)
    )
    words = ["-c", SMOKE, *at(tmp_path), "finetune.enabled=false"]
    assert command("run", *words)[0] == 0
    rows = {row["model"]: row for row in json.loads(command("leaderboard", "--json", *words)[1])}
    assert rows["tfidf_ridge"]["status"] == rows["constant_median"]["status"] == "failed"
    assert "made of sklearn.utils._bunch.Bunch" in rows["constant_median"]["reason"]
    assert "TRUSTED in tasks/models/estimator_files.py" in rows["constant_median"]["reason"]
    expected = "MemoryError: the features do not fit. `pricewright baselines --again` tries it again"
    assert rows["tfidf_ridge"]["reason"] == expected
    assert rows["constant"]["status"] == "ran"

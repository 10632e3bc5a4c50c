"""The whole ladder on the smoke experiment: once through, then again, then stage by stage."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from flows.cli.main import main
from tasks import digests
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.paths import PROJECT
from tasks.progress import Progress
from tasks.tracking.runs import PARENT, STAGE
from tasks.tracking.store import connect, experiment_id

SMOKE = "conf/smoke.yaml"
ASKED = {"human", "gpt-4o", "gpt-4o-mini"}  # nobody has, unless a sheet, or a key and a budget, are given
KEYS = {
    *("rank", "model", "kind", "step", "status", "reason", "n", "n_train", "mae", "mae_low", "mae_high"),
    *("rmsle", "hits", "split", "champion", "best_checkpoint"),
}


class Finished(NamedTuple):
    """A pipeline that was run once: its store, its conf, what it printed and the stages it did."""

    folder: Path
    overrides: list[str]
    output: str
    made: list[str]

    def command(self, *words: str) -> tuple[int, str]:
        return command(*words, "-c", SMOKE, *self.overrides)

    @property
    def experiment(self) -> Experiment:
        return load(SMOKE, self.overrides)

    def runs(self) -> set[str]:
        """Every run there is, those of single models included."""
        client = connect(self.experiment)
        return {run.info.run_id for run in client.search_runs([experiment_id(self.experiment)])}

    def stages(self) -> list[str]:
        """The stage of every run there is."""
        client = connect(self.experiment)
        runs = client.search_runs([experiment_id(self.experiment)])
        return sorted(run.data.tags[STAGE] for run in runs if STAGE in run.data.tags)


def command(*words: str) -> tuple[int, str]:
    """The exit status and standard output of a command."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = main([*words])
    return status, output.getvalue()


def prefect_artifact(key: str) -> dict[str, Any]:
    """The last artifact of a key, as Prefect's server has it."""
    from prefect.client.orchestration import get_client

    # The client's own `read_artifacts` sends empty values that its server refuses.
    query = {"artifacts": {"key": {"any_": [key]}}, "sort": "UPDATED_DESC", "limit": 1}
    with get_client(sync_client=True) as client:
        return client.request("POST", "/artifacts/filter", json=query).json()[0]


def latest(finished: Finished) -> str:
    """The run of the evaluation."""
    from flows.promotion import recall_scores

    return recall_scores(finished.experiment).run_id


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, at: Callable) -> Finished:
    folder = tmp_path_factory.mktemp("store")
    overrides = at(folder)
    status, output = command("run", "-c", SMOKE, *overrides)
    assert status == 0
    return Finished(folder, overrides, output, Finished(folder, overrides, output, []).stages())


def test_a_run_ends_with_the_table_and_the_path_of_the_report(finished: Finished) -> None:
    """The table names every model, generated data are called so, and a script finds the report in the last line."""
    for name in (*load(SMOKE).baselines.models, "base", "finetuned", "blend", "floor", "pricewright ui"):
        assert name in finished.output
    assert "Generated data" in finished.output
    report = Path(finished.output.splitlines()[-1])
    assert report.is_file() and report.suffix == ".html"
    assert finished.made == ["baselines", "curate", "evaluate", "finetune"]


def test_the_leaderboard_in_json_holds_every_rung_best_first(finished: Finished) -> None:
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


def test_the_leaderboard_in_csv_and_markdown_holds_the_same_rows(finished: Finished) -> None:
    """For a spreadsheet and for a README."""
    rows = json.loads(finished.command("leaderboard", "--json")[1])
    table = {row["model"]: row for row in csv.DictReader(io.StringIO(finished.command("leaderboard", "--csv")[1]))}
    markdown = finished.command("leaderboard", "--markdown")[1]
    assert table.keys() == {row["model"] for row in rows} and "Generated data" in markdown
    for row in rows:
        if row["mae"] is None:
            assert table[row["model"]]["mae"] == "" and f"| {row['model']} |" in markdown
        else:
            assert float(table[row["model"]]["mae"]) == row["mae"] and f"| {row['mae']:.2f} |" in markdown


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


def test_mlflow_compares_rungs_as_runs(finished: Finished) -> None:
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


def test_prefect_shows_the_leaderboard(finished: Finished) -> None:
    """A table artifact, best first, with the conclusion as its description."""
    assert finished.command("promote")[0] == 0
    artifact = prefect_artifact("leaderboard")
    rows = json.loads(finished.command("leaderboard", "--json")[1])
    assert artifact["type"] == "table" and "off on average" in artifact["description"]
    assert len(json.loads(artifact["data"])) == len(rows)


def test_what_takes_long_has_a_progress_artifact() -> None:
    """In a flow that is watched, a piece of work is shown with its share done, up to all of it."""
    from prefect import flow

    from flows.artifacts import watch_progress

    @flow(on_running=[watch_progress])
    def long() -> None:
        progress = Progress("Long work: 2", total=4)
        for _ in range(4):
            progress.due = 0
            progress.advance()

    long()
    artifact = prefect_artifact("long-work-2")
    assert artifact["type"] == "progress" and artifact["data"] == 100


def test_a_dashboard_that_is_gone_is_not_asked_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is raised, and after one failure the work goes on without another try."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from flows import artifacts

    monkeypatch.setattr(artifacts, "EVERY", 0)
    monkeypatch.setattr(artifacts, "_silent_until", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = []

        def refuse() -> None:
            with contextlib.suppress(OSError):  # until the socket is closed
                while True:
                    connection, _ = server.accept()
                    asked.append(connection)
                    time.sleep(0.2)  # what asking costs
                    connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        gone = {PREFECT_API_URL: f"http://127.0.0.1:{server.getsockname()[1]}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
        with temporary_settings(gone):
            progress = Progress("a thing", 10)
            for progress.done in range(10):
                artifacts.show_progress(progress)
        assert len(asked) == 1


def test_the_figures_can_be_recomputed_from_the_predictions_kept(finished: Finished) -> None:
    """Every metric comes from per-item predictions that anybody can read."""
    import pyarrow.parquet as pq

    from flows.promotion import recall_scores
    from tasks.report.board import open_run

    run = open_run(finished.experiment, recall_scores(finished.experiment).run_id)
    frame = pq.read_table(run.artifact("predictions.parquet")).to_pandas()
    rows = json.loads(finished.command("leaderboard", "--json")[1])
    for row in (row for row in rows if row["status"] == "ran"):
        mine = frame[frame["model"] == row["model"]]
        assert len(mine) == row["n"]
        np.testing.assert_allclose(np.abs(mine["truth"] - mine["price"]).mean(), row["mae"])


def test_nothing_is_done_twice(finished: Finished) -> None:
    """A second run, and a stage by itself, add no run when nothing has changed."""
    before, runs = finished.stages(), finished.runs()
    status, output = finished.command("run")
    assert status == 0 and output.splitlines()[-1] == finished.output.splitlines()[-1]
    for stage in ("curate", "evaluate", "promote"):
        assert finished.command(stage)[0] == 0
    assert finished.stages() == before and finished.runs() == runs


@pytest.mark.parametrize(
    ("override", "still_done"),
    [
        ("promote.name=other", {"curate", "baselines", "finetune", "evaluate"}),
        ("finetune.answer.batch_tokens=512", {"curate", "baselines", "finetune", "evaluate"}),
        ("evaluate.resamples=400", {"curate", "baselines", "finetune"}),
        ("evaluate.api=[]", {"curate", "baselines", "finetune"}),
        ("finetune.lora.r=2", {"curate", "baselines"}),
        ("finetune.answer.estimate=mean", {"curate", "baselines"}),  # tests/training/test_earlier.py: not trained again
        ("finetune.train_items=8", {"curate", "baselines"}),
        ("baselines.models=[constant]", {"curate", "finetune"}),
        ("data.rows=299", set()),
        ("seed=43", set()),
    ],
)
def test_a_change_of_conf_undoes_what_depends_on_it_and_nothing_else(
    finished: Finished, override: str, still_done: set[str]
) -> None:
    """Each stage depends on its slice of the conf and on the stages before it."""
    assert still(load(SMOKE, [*finished.overrides, override])) == still_done


@pytest.mark.parametrize(
    ("module", "still_done"),
    [
        ("data/cleaning", set()),
        ("data/splits", set()),
        ("scoring/metrics", {"curate"}),
        ("models/classic", {"curate", "finetune"}),
        ("models/language/price_trie", {"curate", "baselines"}),
        ("training/trainer", {"curate", "baselines"}),
        ("evaluation", {"curate", "baselines", "finetune"}),
        ("promotion", {"curate", "baselines", "finetune", "evaluate"}),
        ("report/html", {"curate", "baselines", "finetune", "evaluate"}),
    ],
)
def test_a_change_of_code_undoes_what_runs_it_and_nothing_else(
    finished: Finished, module: str, still_done: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage depends on the modules it runs, and on the stages before it."""
    shutil.copytree(PROJECT / "tasks", tmp_path / "tasks")
    with (tmp_path / "tasks" / f"{module}.py").open("a") as code:
        code.write("\nNEW = 1\n")
    digests.code_digest.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(digests, "PROJECT", tmp_path)
        assert still(finished.experiment) == still_done
    digests.code_digest.cache_clear()


@pytest.mark.parametrize(
    ("change", "still_done"),
    [
        (lambda rows: rows, {"curate", "baselines", "evaluate"}),
        (lambda rows: rows[::-1], {"baselines", "evaluate"}),
        (lambda rows: [*rows, {"title": "Without a price"}], {"baselines", "evaluate"}),
        (lambda rows: [*rows[1:], {**rows[0], "price": rows[0]["price"] + 1}], set()),
    ],
    ids=["nothing", "order", "a row that is rejected", "a price"],
)
def test_a_change_of_data_undoes_what_is_made_from_it(
    from_file: tuple[Path, list[str]], change: Callable, still_done: set[str]
) -> None:
    """The content of a file counts for curation, and for all others the content of its splits."""
    file, overrides = from_file
    before = file.read_text()
    rows = change([json.loads(line) for line in before.splitlines()])
    try:
        file.write_text("\n".join(map(json.dumps, rows)))
        experiment = load(SMOKE, overrides)
        done = still(experiment)
        if "curate" not in done:
            from tasks.curation import curate

            curate(experiment)
            done = still(experiment) - {"curate"}
        assert done == still_done
    finally:
        file.write_text(before)


@pytest.fixture(scope="module")
def from_file(tmp_path_factory: pytest.TempPathFactory, at: Callable) -> tuple[Path, list[str]]:
    """A run on a file, without the language model; and what it was run with."""
    from tasks.data.catalogue import generate

    folder = tmp_path_factory.mktemp("file")
    file = folder / "products.jsonl"
    file.write_text("\n".join(map(json.dumps, generate(200, seed=3))))
    overrides = [*at(folder), "data.source=files", f"data.path={file}"]
    overrides += ["baselines.models=[constant]", "finetune.enabled=false"]
    assert command("run", "-c", SMOKE, *overrides)[0] == 0
    return file, overrides


def still(experiment: Experiment) -> set[str]:
    """The stages whose results are there for a conf, data and code, as they are now."""
    from tasks.baselines import fit_baselines
    from tasks.curation import curate
    from tasks.errors import UserError
    from tasks.evaluation import evaluate
    from tasks.finetuning import finetune

    results = {}
    for name, recall in {
        "curate": lambda: curate(experiment, "recall"),
        "baselines": lambda: fit_baselines(experiment, results["curate"], "recall"),
        "finetune": lambda: finetune(experiment, results["curate"], "recall") if experiment.finetune.enabled else [],
        "evaluate": lambda: evaluate(
            experiment, results["curate"], [*results["baselines"], *results["finetune"]], "recall"
        ),
    }.items():
        with contextlib.suppress(UserError, KeyError):
            results[name] = recall()
    return set(results) if experiment.finetune.enabled else set(results) - {"finetune"}


def test_an_untuned_model_is_not_asked_again_for_other_statistics(finished: Finished) -> None:
    """A new evaluation of the same models takes the predictions they made: no model is loaded for it."""

    def models(*words: str) -> dict[str, str]:
        rows = json.loads(finished.command("leaderboard", "--json", *words)[1])
        return {row["model"]: row["model_id"] for row in rows if row["model"] not in {*ASKED, "floor"}}

    before = models()
    assert finished.command("evaluate", "evaluate.resamples=300")[0] == 0
    assert models("evaluate.resamples=300") == before


def test_the_champion_prices_a_text_in_a_new_process(finished: Finished) -> None:
    """Loaded by its alias with nothing but MLflow, from another folder, it gives the price the command line gives."""
    code = (
        "import mlflow, json; champion = mlflow.pyfunc.load_model('models:/pricewright@champion');"
        "print(json.dumps(champion.predict(['Steel kettle, pack of 2']).to_dict('records')))"
    )
    uri = finished.overrides[0].partition("=")[2]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "MLFLOW_TRACKING_URI": uri},
        cwd=finished.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = json.loads(done.stdout.splitlines()[-1])
    assert 0 < row["low"] <= row["price"] <= row["high"]


def test_stages_that_are_switched_off_leave_rows_with_the_reason(finished: Finished) -> None:
    """The base model is scored all the same; the tuned row and the classic rows say why they did not run."""
    words = ["-c", SMOKE, *finished.overrides, "finetune.enabled=false", "baselines.enabled=false"]
    assert command("run", *words)[0] == 0
    rows = {row["model"]: row for row in json.loads(command("leaderboard", "--json", *words)[1])}
    assert rows["finetuned"]["status"] == "skipped" and rows["finetuned"]["reason"] == "finetune.enabled is false"
    assert rows["constant"]["reason"] == "baselines.enabled is false" and rows["constant"]["mae"] is None
    assert rows["base"]["mae"] > 0


def test_a_rung_that_fails_keeps_its_row_and_the_others_stand(
    tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is on the leaderboard."""
    from tasks.models import classic

    def breaks(_items: object) -> object:
        raise MemoryError("the features do not fit")

    monkeypatch.setitem(
        classic.BASELINES, "tfidf_ridge", classic.Baseline(breaks, classic.BASELINES["constant"].estimator)
    )
    words = ["-c", SMOKE, *at(tmp_path), "finetune.enabled=false"]
    assert command("run", *words)[0] == 0
    rows = {row["model"]: row for row in json.loads(command("leaderboard", "--json", *words)[1])}
    assert rows["tfidf_ridge"]["status"] == "failed"
    assert rows["tfidf_ridge"]["reason"] == "MemoryError: the features do not fit"
    assert rows["constant"]["status"] == "ran"


def test_a_challenger_must_beat_the_champion_by_a_paired_test(finished: Finished) -> None:
    """With an incumbent, the alias moves only on evidence, and the decision is written on the version."""
    words = ["-c", SMOKE, *finished.overrides, "promote.name=duel", "finetune.enabled=false"]
    assert command("run", *words, "baselines.models=[random]")[0] == 0
    assert command("run", *words, "baselines.models=[random,constant,tfidf_ridge]")[0] == 0
    version = connect(finished.experiment).get_model_version_by_alias("duel", "champion")
    assert "beats the incumbent" in version.tags["decision"]
    assert float(version.tags["p_value"]) < 0.05
    assert command("run", *words, "baselines.models=[random]")[0] == 0
    kept = connect(finished.experiment).get_model_version_by_alias("duel", "champion")
    assert kept.version == version.version and "does not beat the incumbent" in kept.tags["decision"]

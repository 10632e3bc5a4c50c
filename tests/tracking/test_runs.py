"""MLflow is the only ledger: when a stage counts as done, and when it is done again."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from tasks import locks
from tasks.config.experiment import Experiment
from tasks.errors import UserError
from tasks.tracking.runs import MADE_FROM, slug
from tasks.tracking.stages import stage, whole_model
from tasks.tracking.store import connect, experiment_id, local_path
from tests.waiting import PATIENCE


def work(experiment: Experiment, digest: str = "d1", fail: BaseException | None = None, **options) -> tuple[bool, str]:
    """Whether a stage had been done, and the id of its run."""
    with stage(experiment, "curate", digest, command="pricewright curate", **options) as run:
        if not run.done:
            run.log_json({"digest": digest}, "result.json")
            if fail is not None:
                raise fail
        return run.done, run.id


def test_a_stage_is_done_once_for_one_digest(experiment: Experiment) -> None:
    """The same digest is done, another is not, and `again` does it all the same."""
    done, first = work(experiment)
    assert not done
    assert work(experiment) == (True, first)
    assert not work(experiment, "d2")[0]
    done, again = work(experiment, mode="again")
    assert not done and again != first
    assert work(experiment) == (True, again)


def test_what_was_done_last_counts_whatever_the_clock_said(experiment: Experiment) -> None:
    """A result of `again` takes the place of one that was dated later; damaged, it gives the place back."""
    import sqlite3

    _, first = work(experiment)
    with sqlite3.connect(experiment.tracking.uri.removeprefix("sqlite:///")) as database:
        database.execute("update runs set start_time = start_time + 10000000, end_time = end_time + 10000000")
    _, again = work(experiment, mode="again")
    assert again != first and work(experiment) == (True, again)
    folder = local_path(connect(experiment).get_run(again).info.artifact_uri)
    (folder / "result.json").write_text("{}")
    assert work(experiment) == (True, first)


def test_what_has_no_name_for_mlflow_is_logged_as_one_param(experiment: Experiment) -> None:
    """Categories are called as a shop calls them; everything else stands under its dotted name."""
    weights = {"Home & Garden": 0.5, "Men's": 0.2, "": 0.1}
    data = {"category_weights": weights, "columns": {"title": "Product name"}, "near": 0.7}
    with stage(experiment, "curate", "d1", command="pricewright curate") as run:
        run.log_params({"data": data, "other": {"Office Products": 2}})
    logged = connect(experiment).get_run(run.id).data.params
    assert json.loads(logged["data.category_weights"]) == weights
    assert (logged["data.columns.title"], logged["data.near"]) == ("Product name", "0.7")
    assert logged["other.Office Products"] == "2"


def test_a_stage_that_failed_is_not_done(experiment: Experiment) -> None:
    """Its run is FAILED, or KILLED when it was interrupted, and the next call does the work."""
    for error, status in ((ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")):
        with pytest.raises(type(error)):
            work(experiment, status, fail=error)
        runs = connect(experiment).search_runs([experiment_id(experiment)], f"attributes.status = '{status}'")
        assert len(runs) == 1
        assert not work(experiment, status)[0]


def test_an_interrupted_run_is_opened_again_where_it_can_resume(experiment: Experiment) -> None:
    """What it logged is still there; without `resume` a new run is made."""
    with pytest.raises(ValueError, match="x"):
        work(experiment, fail=ValueError("x"))
    client, where = connect(experiment), experiment_id(experiment)
    first = client.search_runs([where])[0].info.run_id
    assert work(experiment, resume=True) == (False, first)
    with pytest.raises(ValueError, match="x"):
        work(experiment, "d2", fail=ValueError("x"))
    assert work(experiment, "d2")[1] not in {run.info.run_id for run in client.search_runs([where])[1:]}


@pytest.mark.parametrize("damage", ["changed", "removed", "manifest"])
def test_a_finished_run_whose_files_changed_is_not_done(experiment: Experiment, damage: str) -> None:
    """Nothing half-written or damaged is trusted."""
    _, run_id = work(experiment)
    client = connect(experiment)
    folder = local_path(client.get_run(run_id).info.artifact_uri)
    assert folder is not None
    match damage:
        case "changed":
            (folder / "result.json").write_text("{}")
        case "removed":
            (folder / "result.json").unlink()
        case "manifest":
            (folder / "manifest.json").unlink()
    assert not work(experiment)[0]


def shared(experiment: Experiment, digest: str, fail: BaseException | None = None) -> str | None:
    """The id of a model that all evaluations share; None where the evaluation had been done."""
    with stage(experiment, "evaluate", digest, command="") as run:
        if run.done:
            return None
        known = whole_model(run, "nothing that changes")
        made = known or run.log_model(
            lambda folder: (folder / "weights").write_text("1"),
            "base",
            "base",
            tags={MADE_FROM: "nothing that changes"},
        )
        if fail is not None:
            raise fail
        return made.model_id


@pytest.mark.parametrize("damage", ["changed", "removed", "deleted"])
def test_a_shared_model_that_is_no_longer_whole_is_made_again(experiment: Experiment, damage: str) -> None:
    """By every evaluation that had it, once; else each of them would fail for ever, or name a model that is gone."""
    first = shared(experiment, "e1")
    assert shared(experiment, "e2") == first and shared(experiment, "e2") is None
    client = connect(experiment)
    folder = local_path(client.get_logged_model(first).artifact_location)
    match damage:
        case "changed":
            (folder / "artifacts" / "predictor" / "weights").write_text("2")
        case "removed":
            shutil.rmtree(folder)
        case "deleted":
            client.delete_logged_model(first)
    second = shared(experiment, "e2")
    assert second not in (None, first) and shared(experiment, "e1") == second == shared(experiment, "e3")
    assert {shared(experiment, digest) for digest in ("e1", "e2", "e3")} == {None}


def test_the_model_of_an_evaluation_that_failed_is_shared_while_it_has_files(experiment: Experiment) -> None:
    """What it should hold was not noted."""
    with pytest.raises(ValueError, match="x"):
        shared(experiment, "failed", fail=ValueError("x"))
    client = connect(experiment)
    (first,) = client.search_logged_models([experiment_id(experiment)])
    assert shared(experiment, "e1") == first.model_id
    shutil.rmtree(local_path(first.artifact_location))
    assert shared(experiment, "e1") not in (None, first.model_id)


def test_recalling_what_is_not_there_says_which_command_makes_it(experiment: Experiment) -> None:
    """A stage run before its inputs exist is told what to do."""
    with pytest.raises(UserError, match="Run `pricewright curate`"):
        work(experiment, mode="recall")
    work(experiment)
    assert work(experiment, mode="recall")[0]


def _hold(experiment: Experiment, started, leave) -> None:
    with stage(experiment, "curate", "d1", command="", mode="reuse"):
        started.set()
        leave.wait(PATIENCE)


def test_two_processes_never_do_the_same_stage_twice(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first, which leaves once the other says so, and finds its work done."""
    experiment_id(experiment)
    context = multiprocessing.get_context("spawn")
    started, leave = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(experiment, started, leave))
    first.start()
    assert started.wait(PATIENCE)
    monkeypatch.setattr(locks, "say", lambda _: leave.set())
    assert work(experiment)[0]
    first.join(PATIENCE)
    assert first.exitcode == 0


def test_a_run_is_not_finished_before_its_stage_is(experiment: Experiment) -> None:
    """Whenever a process is killed: keeping a model does not end the run for a moment. The model belongs to it."""
    import sqlite3

    experiment_id(experiment)
    with sqlite3.connect(experiment.tracking.uri.removeprefix("sqlite:///")) as database:
        database.execute("create table seen (status)")
        written = "after update of status on runs begin insert into seen values (new.status); end"
        database.execute(f"create trigger seen {written}")
        with stage(experiment, "finetune", "d1", command="") as run:
            run.log_params({"seed": 3})
            run.log_metrics({"train_loss": 1.5}, step=4)
            kept = run.log_model(lambda _: None, "finetuned", "finetuned", step=4, params={"n_train": 8})
        assert database.execute("select status from seen").fetchall() == [("FINISHED",)]
    model, run = run.client.get_logged_model(kept.model_id), run.client.get_run(run.id)
    assert (model.name, model.source_run_id, str(model.status)) == ("finetuned-step-4", run.info.run_id, "READY")
    assert model.experiment_id == run.info.experiment_id
    assert {key: model.params[key] for key in ("seed", "n_train")} == {"seed": "3", "n_train": "8"}
    assert [(metric.key, metric.step) for metric in model.metrics] == [("train_loss", 4)]
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(kept.model_id, 4)]


def test_metrics_without_a_value_are_left_out(experiment: Experiment) -> None:
    """MLflow would take NaN and then refuse the model."""
    with stage(experiment, "curate", "d1", command="") as run:
        run.log_metrics({"a": 1.0, "b": math.nan, "c": None})
        assert connect(experiment).get_run(run.id).data.metrics == {"a": 1.0}


def test_any_display_name_becomes_one_that_a_logged_model_accepts() -> None:
    """LoggedModels refuse / : . % and quotes."""
    assert slug("recorded/gpt-4.1: 'x'") == "recorded-gpt-4-1-x"


def test_a_read_only_store_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlruns that cannot be written is said before any work."""
    from tasks.tracking import store

    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(store, "PROJECT", tmp_path)
    with monkeypatch.context() as patch:  # what root, too, meets on a disk that is mounted to be read
        patch.setattr(store.tempfile, "TemporaryFile", refuse)
        with pytest.raises(UserError, match=r"mlruns cannot be written: Read-only file system\. Fix its permissions"):
            connect(Experiment())
    (tmp_path / "mlruns").rmdir()
    (tmp_path / "mlruns").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        connect(Experiment())

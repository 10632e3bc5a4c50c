"""Old runs: what `pricewright gc` would delete, what it leaves alone, and that everything still works afterwards."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli.main import main
from tasks import evaluation
from tasks.cache import PART, cached, remove_unused, unused
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.curation import curate
from tasks.locks import locked
from tasks.scoring.contest import Contest
from tasks.tracking import retention
from tasks.tracking.runs import MADE_FROM, MODEL, STAGE, Candidate
from tasks.tracking.stages import stage, whole_model
from tasks.tracking.store import connect, experiment_id, local_path

pytestmark = pytest.mark.usefixtures("without_prefect")

SMOKE = "conf/smoke.yaml"
SMALL = ["data.rows=240", "evaluate.api=[]", "evaluate.resamples=200", "finetune.checkpoints=2"]
SMALL += ["finetune.train_items=16", "finetune.score_items=8", "finetune.quantization=null"]
GOOD, POOR = "baselines.models=[constant,tfidf_ridge]", "baselines.models=[random]"


def command(*words: str) -> tuple[int, str]:
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = main([*words])
    return status, output.getvalue() if status == 0 else errors.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, at: Callable) -> tuple[list[str], Path, Path]:
    """A store with a champion from a good evaluation, two poorer ones, the last now challenger, the other on other
    data, and a stage that failed; the conf, the store's folder, and a copy of that."""
    folder = tmp_path_factory.mktemp("store")
    words = ["-c", SMOKE, *at(folder), *SMALL]
    assert command("run", *words, GOOD)[0] == 0
    for seed in (43, 42):
        assert command("run", *words, POOR, "finetune.enabled=false", f"seed={seed}")[0] == 0
    with contextlib.suppress(ValueError), stage(load(SMOKE, words[2:]), "curate", "broken", command="") as run:
        run.log_json({"half": 1}, "half.json")
        raise ValueError("broken")
    copy = Path(shutil.copytree(folder, tmp_path_factory.mktemp("copy") / "store"))
    return words, folder, copy


@pytest.fixture
def conf(made: tuple[list[str], Path, Path]) -> list[str]:
    """The conf of the store, which is as it was made, whatever another test deleted."""
    words, folder, copy = made
    # MLflow keeps the database open: its content is put back, not the file.
    connections = [contextlib.closing(sqlite3.connect(place / "mlflow.db")) for place in (copy, folder)]
    with connections[0] as source, connections[1] as target:
        source.backup(target)
    shutil.rmtree(folder / "artifacts")
    shutil.copytree(copy / "artifacts", folder / "artifacts")
    return words


def stages(conf: list[str]) -> dict[str, str]:
    """The name of every stage run there is, by its id."""
    return stages_of(load(SMOKE, conf[2:]))


def stages_of(experiment: Experiment) -> dict[str, str]:
    """The same of an experiment's store."""
    runs = connect(experiment).search_runs([experiment_id(experiment)])
    return {run.info.run_id: run.info.run_name for run in runs if STAGE in run.data.tags}


def files(conf: list[str]) -> set[Path]:
    place = local_path(load(SMOKE, conf[2:]).tracking.artifacts)
    assert place is not None
    return {path for path in place.rglob("*") if path.is_file()}


def test_nothing_goes_unless_it_is_asked_for(conf: list[str]) -> None:
    """All is of the last days; and what may go by a narrower conf is only said."""
    before, there = stages(conf), files(conf)
    status, said = command("gc", *conf)
    assert status == 0 and said.startswith("0 stage runs, 0 models") and "Nothing was deleted" in said
    for best, evaluations in ((1, 0), (0, 1)):  # the best of the other data is one of the best, too
        status, said = command("gc", *conf, "gc.keep_days=0", f"gc.keep_best={best}")
        assert status == 0 and "MB" in said and "FAILED" in said and "Nothing was deleted" in said
        assert said.count("  evaluate-") == evaluations
    assert stages(conf) == before and files(conf) == there


def test_what_an_evaluation_reads_stays_while_it_runs(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The runs that made its models and its splits, however old they are, although it has no leaderboard yet."""
    dataset, kept = curate(experiment), {}
    with stage(experiment, "baselines", "old", command="") as run:
        models = [run.log_absent("constant", "baseline", "ran", None)]
    with stage(experiment, "evaluate", "older", command="") as older:
        shared = older.log_absent("base", "base", "ran", None)
        older.client.set_logged_model_tags(shared.model_id, {MADE_FROM: "base"})
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("update runs set start_time = start_time - 60 * 86400000, end_time = end_time - 60 * 86400000")

    def look(contest: Contest, _: list[Candidate]) -> None:
        assert whole_model(contest.run, "base") == shared
        kept.update(retention.Ledger(experiment).kept())
        raise ValueError("enough")

    monkeypatch.setattr(evaluation, "collect", look)
    with pytest.raises(ValueError, match="enough"):
        evaluation.evaluate(experiment, dataset, models)
    assert {run.id, older.id} < set().union(*kept.values()) == stages_of(experiment).keys()


def test_what_an_alias_needs_stays_although_its_runs_were_deleted_in_mlflow(conf: list[str], tmp_path: Path) -> None:
    """The evaluation, and the run that made the model, which stays of use; runs that nothing needs go."""
    price = command("predict", "-c", written(conf, tmp_path), "Steel kettle", "--json")
    experiment = load(SMOKE, [*conf[2:], "gc.keep_best=0"])
    client = connect(experiment)
    for run in stages(conf):
        client.delete_run(run)
    found = retention.plan(experiment)
    held = {str(number) for number in client.get_registered_model(experiment.registered_model).aliases.values()}
    assert found.runs and held and not held & {str(version.version) for version in found.versions}
    assert command("gc", *conf, "gc.keep_best=0", "--delete")[0] == 0
    assert command("predict", "-c", written(conf, tmp_path), "Steel kettle", "--json") == price and price[0] == 0


def test_what_others_logged_in_the_experiment_is_theirs(conf: list[str]) -> None:
    """A nested run and a model of somebody else are neither planned nor deleted, whatever the conf says."""
    experiment = load(SMOKE, [*conf[2:], "gc.keep_days=0", "gc.keep_best=0"])
    client, where = connect(experiment), experiment_id(experiment)
    parent = client.create_run(where, run_name="my sweep")
    trial = client.create_run(where, run_name="trial 1", tags={"mlflow.parentRunId": parent.info.run_id})
    model = client.create_logged_model(where, name="mine", source_run_id=trial.info.run_id)
    found = retention.plan(experiment)
    assert found.runs and found.models
    assert not {parent.info.run_id, trial.info.run_id} & {run.info.run_id for run in found.runs}
    assert model.model_id not in {one.model_id for one in found.models}


def test_what_is_deleted_leaves_the_lineage_whole(
    conf: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The champion's and the other aliases' runs; the files of the others are
    gone from disk, and leaderboard, predict and a new run work as before."""
    monkeypatch.setattr(retention, "PROJECT", tmp_path)
    monkeypatch.setattr(retention, "LOCKS", tmp_path / "mlruns" / "locks")
    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "mlruns" / "work"
    (work / "of-another-store").mkdir(parents=True)
    experiment = load(SMOKE, conf[2:])
    board = command("leaderboard", *conf, GOOD, "--json")[1]
    price = command("predict", "-c", written(conf, tmp_path), "Steel kettle", "--json")[1]
    narrow = ["gc.keep_days=0", "gc.keep_best=0"]
    doomed = [run for run in retention.plan(load(SMOKE, [*conf[2:], *narrow])).runs if STAGE in run.data.tags]
    (work / doomed[0].info.run_id).mkdir()
    before, there = stages(conf), files(conf)
    status, said = command("gc", *conf, *narrow, "--delete")
    assert status == 0 and said.endswith("Deleted.\n") and "1 work folders" in said
    gone = before.keys() - stages(conf).keys()
    assert {run.info.run_id for run in doomed} == gone and any(before[key].startswith("evaluate") for key in gone)
    assert not [path for path in files(conf) if gone & set(path.parts)] and len(files(conf)) < len(there)
    assert [path.name for path in work.iterdir()] == ["of-another-store"]
    models = connect(experiment).search_logged_models([experiment_id(experiment)])
    assert {model.source_run_id for model in models} <= stages(conf).keys()
    assert sum(path.name == "MLmodel" for path in files(conf)) <= len(models)
    assert command("leaderboard", *conf, GOOD, "--json") == (0, board)
    assert command("predict", "-c", written(conf, tmp_path), "Steel kettle", "--json") == (0, price)
    status, said = command("gc", *conf, *narrow)
    assert said.startswith("0 stage runs, 0 models, 0 versions")
    assert command("run", *conf, GOOD)[0] == 0
    assert stages(conf).keys() == before.keys() - gone
    assert command("run", *conf, POOR, "finetune.enabled=false", "seed=43")[0] == 0  # what was deleted is made again


def test_what_nobody_uses_in_the_cache_goes(conf: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With its lock; what was used meanwhile, is held by another process or cost money stays, whatever is asked for."""
    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path))
    old, places = time.time() - 40 * 86_400, ("model-1", "opinions/a", "opinions/b", "opinions/c", "vectors/a")
    for place in places:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        cached(tmp_path / place, lambda folder: (folder / "weights").write_text("12"))
    for folder in ("data/a", "answers/a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_text("12")
    for place in (*places, "data/a", "answers/a"):
        os.utime(tmp_path / place, (old, old))
    cached(tmp_path / "opinions/b", lambda _: pytest.fail("it is there"))
    with locked(tmp_path / "opinions/c.lock"):
        status, said = command("gc", *conf, "gc.keep_days=0", "--delete")
    assert status == 0 and "folders of the cache" in said
    left = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"opinions/b", "opinions/c", "opinions", "answers/a"}
    assert {path.stem for path in (tmp_path / "opinions").glob("*.lock")} == {"b", "c"}
    # What was used between plan and deletion stays, and so does what another gc has removed already.
    os.utime(tmp_path / "opinions/b", (old, old))
    assert tmp_path / "opinions/b" in unused(time.time())
    cached(tmp_path / "opinions/b", lambda _: pytest.fail("it is there"))
    for place in ("opinions/b", "opinions/gone"):
        remove_unused(tmp_path / place, time.time())
    assert (tmp_path / "opinions/b").is_dir()
    # What a process left that was killed while it made it.
    (tmp_path / f"opinions/d{PART}").mkdir()
    os.utime(tmp_path / f"opinions/d{PART}", (old, old))
    assert command("gc", *conf, "--delete")[0] == 0 and not (tmp_path / f"opinions/d{PART}").exists()
    # A process that knew it as whole makes it again.
    assert (cached(tmp_path / "model-1", lambda folder: (folder / "weights").write_text("12")) / "weights").is_file()


def test_a_model_that_is_deleted_in_mlflow_is_missed_by_its_stage_and_not_by_the_leaderboard(conf: list[str]) -> None:
    """The evaluation is found all the same; running again makes the model again."""
    words = [*conf, GOOD, "promote.name=other"]
    board = command("leaderboard", *words, "--json")[1]
    experiment = load(SMOKE, words[2:])
    client = connect(experiment)
    models = client.search_logged_models([experiment_id(experiment)])
    ridge = [model for model in models if model.tags.get(MODEL) == "tfidf_ridge"]
    for model in ridge:
        client.delete_logged_model(model.model_id)
    rows = {row["model"]: row["mae"] for row in json.loads(command("leaderboard", *words, "--json")[1])}
    assert rows == {row["model"]: row["mae"] for row in json.loads(board)}
    assert command("evaluate", *words)[0] == 2
    assert command("baselines", *words)[0] == 0
    assert command("evaluate", *words)[0] == 0


def written(conf: list[str], folder: Path) -> str:
    """A conf file with these overrides, for the commands that take none."""
    import yaml

    (folder / "own.yaml").write_text(yaml.safe_dump(load(SMOKE, conf[2:]).model_dump(mode="json")))
    return str(folder / "own.yaml")

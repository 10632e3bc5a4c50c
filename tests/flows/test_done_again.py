"""What is done again after a change of conf, code or data, and what is not."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import digests, evaluation
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.data.splits import Dataset
from tasks.errors import UserError
from tasks.models.predictor import Predictor
from tasks.paths import PROJECT
from tests.smoke import SMOKE, Finished, command


def still(experiment: Experiment) -> set[str]:
    """The stages whose results are there for a conf, data and code, as they are now."""
    from tasks.baselines import fit_baselines
    from tasks.curation import curate
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


def test_nothing_is_done_twice(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run, and a stage by itself, add no run when nothing has changed; the run asks nothing of Prefect."""
    from flows import pipeline

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a flow was started")

    before, runs = finished.stages(), finished.runs()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "pipeline", started)
        status, output = finished.command("run")
    assert status == 0 and output.splitlines()[-1] == finished.output.splitlines()[-1]
    for stage in ("curate", "evaluate", "promote"):
        assert finished.command(stage)[0] == 0
    assert finished.stages() == before and finished.runs() == runs


def test_an_evaluation_depends_on_what_its_prompts_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing is trained: on what lies in the encoder's folder, which may be other weights than before, and
    on what near duplicates are, of which nothing is told."""
    keys: list[str] = []

    def noted(_experiment: Experiment, _name: str, key: str, **_: object) -> None:
        keys.append(key)
        raise UserError("not evaluated here")

    monkeypatch.setattr(evaluation, "stage", noted)
    words = ["finetune.enabled=false", f"finetune.prompt.encoder={tmp_path}", "finetune.prompt.nearest=meaning"]
    words += ["finetune.prompt.comparables=2"]
    for content, more in ((b"1", []), (b"2", []), (b"2", ["data.near=0.9"]), (b"2", ["data.near=0.9"])):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="not evaluated here"):
            evaluation.evaluate(load(SMOKE, [*words, *more]), Dataset("goods", "0", "", {}), [])
    assert len(set(keys[:3])) == 3 and keys[2] == keys[3]


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
        ("models/language/price_distribution", {"curate", "baselines"}),
        ("training/trainer", {"curate", "baselines"}),
        ("evaluation", {"curate", "baselines", "finetune"}),
        ("promotion", {"curate", "baselines", "finetune", "evaluate"}),
        ("report/html", {"curate", "baselines", "finetune", "evaluate"}),
    ],
)
def test_a_change_of_code_undoes_what_runs_it_and_nothing_else(
    finished: Finished,
    module: str,
    still_done: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changing_code: Callable[[], None],
) -> None:
    """Each stage depends on the modules it runs, and on the stages before it."""
    shutil.copytree(PROJECT / "tasks", tmp_path / "tasks")
    with (tmp_path / "tasks" / f"{module}.py").open("a") as code:
        code.write("\nNEW = 1\n")
    changing_code()
    monkeypatch.setattr(digests, "PROJECT", tmp_path)
    assert still(finished.experiment) == still_done


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


def test_a_renamed_file_is_called_by_its_new_name_everywhere(from_file: tuple[Path, list[str]]) -> None:
    """In the handle of its splits, on the leaderboard, and in the registry; nothing is curated or fitted again."""
    from flows.pipeline import recall_scores
    from tasks.curation import curate
    from tasks.scoring.origin import Origin
    from tasks.scoring.record import Record, open_run
    from tasks.tracking.registry import CHAMPION, version_of

    file, overrides = from_file
    words = [*overrides, f"data.path={shutil.copy(file, file.with_name('goods.jsonl'))}"]
    experiment = load(SMOKE, words)
    assert still(experiment) == {"curate", "baselines"}
    assert command("run", "-c", SMOKE, *words)[0] == 0
    assert curate(experiment, "recall").name == "goods"
    assert Record.read(open_run(experiment, recall_scores(experiment).run_id)).dataset.name == "goods"
    champion = version_of(experiment, CHAMPION)
    assert champion is not None and champion.name == "pricewright-goods"
    assert (origin := Origin.read(champion.tags)) is not None and origin.dataset == "goods"


def test_an_untuned_model_is_not_asked_again_for_other_statistics(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new evaluation of the same models takes the predictions they made: no model is loaded for it."""

    def loaded(folder: Path) -> Predictor:
        raise AssertionError(f"{folder} was loaded")

    def models(*words: str) -> dict[str, str]:
        rows = json.loads(finished.command("leaderboard", "--json", *words)[1])
        return {row["model"]: row["model_id"] for row in rows if row["status"] == "ran" and row["kind"] != "floor"}

    before = models()
    monkeypatch.setattr("tasks.evaluation.load_predictor", loaded)
    status, said = finished.command("evaluate", "evaluate.resamples=300")
    assert status == 0, said
    assert models("evaluate.resamples=300") == before

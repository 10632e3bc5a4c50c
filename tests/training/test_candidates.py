"""Of a training's checkpoints the best on validation is chosen, with its margin; no more is kept than asked for."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tasks import finetuning
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.curation import curate
from tasks.errors import UserError
from tasks.evaluation import evaluate
from tasks.models.language import base_model
from tasks.models.language.model import LanguageModel
from tasks.models.loading import load_predictor
from tasks.models.predictor import Predictions
from tasks.progress import Progress
from tasks.scoring.checkpoint_choice import choice, chosen, curve
from tasks.scoring.predictions import recall
from tasks.scoring.record import Record, open_run
from tasks.scoring.roles import Roles
from tasks.tracking.runs import CHOSEN, Candidate, StageRun
from tasks.tracking.store import connect, experiment_id, model_folder
from tasks.training.candidates import Candidates, mean_adapter

pytestmark = pytest.mark.usefixtures("without_prefect")

# Eight checkpoints whose answers differ: the mean of a tiny model's distribution moves, its median hardly.
VARIED = ["finetune.sft.num_train_epochs=4", "finetune.checkpoints=8", "finetune.answer.estimate=mean"]
VARIED += ["finetune.sft.learning_rate=0.05", "baselines.models=[constant]"]


def training(experiment: Experiment) -> StageRun:
    """The only training there is."""
    client = connect(experiment)
    (run,) = client.search_runs([experiment_id(experiment)], "tags.`pricewright.stage` = 'finetune'")
    return StageRun(client, run, "finetune", done=run.info.status == "FINISHED")


def errors(run: StageRun) -> dict[int, float]:
    """The validation error of each checkpoint, from the curve on the run."""
    return {point.step: point.value for point in run.client.get_metric_history(run.id, "validation_mae")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, at: Callable) -> Experiment:
    """A training to the end that keeps the two best adapters and their mean."""
    folder = tmp_path_factory.mktemp("whole")
    experiment = load("conf/smoke.yaml", [*at(folder), *VARIED, "finetune.keep=2", "finetune.average=2"])
    finetuning.finetune(experiment, curate(experiment))
    return experiment


def test_the_choice_stands_on_the_run_with_its_margin(whole: Experiment) -> None:
    """The curve over steps has every checkpoint; tags, figures and description say which was chosen, by how much."""
    run = training(whole)
    curve = errors(run)
    assert sorted(curve) == [2, 4, 6, 8, 10, 12, 14, 16] and len(set(curve.values())) > 4
    models = {model.step: model for model in run.candidates()}
    mean = run.client.get_logged_model(models[None].model_id)
    found = {**curve, None: next(m.value for m in mean.metrics if m.key == "validation_mae")}
    best, following = sorted(found, key=lambda step: (found[step], step is None))[:2]
    metrics, tags = run.run.data.metrics, run.run.data.tags
    assert metrics["chosen_mae"] == pytest.approx(found[best])
    assert metrics["chosen_mae_low"] < found[best] < metrics["chosen_mae_high"]
    assert metrics["runner_up_difference"] == pytest.approx(found[following] - found[best])
    assert (
        metrics["runner_up_difference_low"] <= metrics["runner_up_difference"] <= metrics["runner_up_difference_high"]
    )
    assert tags[CHOSEN] == (models[None].reason if best is None else f"step {best}")
    assert f"| ◆ {tags[CHOSEN]} | {found[best]:.2f} |" in tags["mlflow.note.content"]
    chosen = [m.tags[CHOSEN] for m in run.models() if CHOSEN in m.tags]
    assert chosen == ["true"] and run.client.get_logged_model(models[best].model_id).tags[CHOSEN] == "true"


@pytest.mark.parametrize("by", ["text", "head"])
def test_a_checkpoint_answers_as_it_did_when_it_was_scored(by: str, tmp_path: Path, at: Callable) -> None:
    """In bfloat16, too, where an adapter in float32 could be computed in either."""
    words = [*at(tmp_path), "finetune.dtype=bfloat16", "finetune.device=cpu", f"finetune.answer.by={by}"]
    experiment = load("conf/smoke.yaml", [*words, "finetune.sft.learning_rate=2e-2", "finetune.checkpoints=1"])
    (kept,) = finetuning.finetune(experiment, dataset := curate(experiment))
    first = Roles.of(experiment, dataset).first
    scored = recall(training(experiment), kept.model_id, "validation", first)
    again = load_predictor(model_folder(connect(experiment), kept.model_id)).predict(first)
    # What is kept of a distribution is in float32.
    np.testing.assert_allclose(again.distribution.probabilities, scored.distribution.probabilities, rtol=1e-6)


def test_only_the_best_adapters_the_last_and_the_mean_are_kept(whole: Experiment) -> None:
    """The others lose their files and keep their figures and predictions; the stage is done all the same."""
    run = training(whole)
    curve = errors(run)
    best = sorted(curve, key=lambda step: (curve[step], step))[:2]
    for model in run.candidates():
        place = Path(run.client.get_logged_model(model.model_id).artifact_location.removeprefix("file://"))
        assert list(place.glob("predictions/validation-*.parquet")), model
        kept = (place / "artifacts" / "predictor" / "adapter" / "adapter_model.safetensors").is_file()
        assert kept == (model.step in {*best, 16, None}), model
    assert "steps " + ", ".join(map(str, sorted(best))) in next(m.reason for m in run.candidates() if m.step is None)
    assert finetuning.finetune(whole, curate(whole), "recall") == run.candidates()


def test_the_evaluation_chooses_among_all_and_loads_only_the_chosen(whole: Experiment) -> None:
    """Without the adapters that are gone: by the predictions that they left."""
    candidates, run = finetuning.finetune(whole, curate(whole), "recall"), training(whole)
    scores = evaluate(whole, curate(whole), candidates)
    record = Record.read(open_run(whole, scores.run_id))
    assert [one.step for one in record.curve] == [2, 4, 6, 8, 10, 12, 14, 16, None]
    best = chosen(record.curve)
    assert best.label == run.run.data.tags[CHOSEN] and record.best_checkpoint == best.model_id
    row = next(row for row in record.rows if row.model == "finetuned")
    assert (row.step, row.model_id) == (best.step, best.model_id) and row.mae > 0


def test_patience_ends_a_training_where_an_interrupted_one_ends(
    whole: Experiment, tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training stops after so many checkpoints that were no better, at the step that the curve of the whole one
    says; and one that died between that checkpoint and its end adds nothing when it is started again, and has no line
    of progress any more once it is over."""
    curve = errors(training(whole))
    steps = sorted(curve)
    # With a patience of one: the first checkpoint that was no better than one before it.
    last = next(step for step in steps[1:] if curve[step] >= min(curve[s] for s in steps if s < step))
    assert last < steps[-1]
    impatient = load("conf/smoke.yaml", [*at(tmp_path), *VARIED, "finetune.patience=1"])

    def die(_: Candidates) -> None:
        raise OSError("gone")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="gone"):
        patch.setattr(Candidates, "conclude", die)
        finetuning.finetune(impatient, curate(impatient))

    def conclude(candidates: Candidates) -> None:
        left_open.extend(progress.what for known in Progress._open if (progress := known()) is not None)
        whole_conclude(candidates)

    left_open, whole_conclude = [], Candidates.conclude
    monkeypatch.setattr(Candidates, "conclude", conclude)
    finetuning.finetune(impatient, curate(impatient))
    assert errors(training(impatient)) == {step: curve[step] for step in steps if step <= last}
    assert "fine-tuning" not in left_open


def test_a_mean_adapter_is_the_mean_of_the_effects(whole: Experiment, tmp_path: Path) -> None:
    """On every layer, the product of the joined factors at its scale is the mean of the products at theirs."""
    run, found = training(whole), []
    for model in run.candidates():
        with contextlib.suppress(FileNotFoundError):  # not kept
            if model.step is not None:
                found.append(model_folder(run.client, model.model_id) / "adapter")
    first, second = found[0], found[-1]
    mean_adapter([first, second], tmp_path)

    def effects(folder: Path) -> dict[str, np.ndarray]:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
        names = [name for name in tensors if "lora_A" in name]
        scale = config["lora_alpha"] / config["r"]
        return {name: scale * tensors[name.replace("lora_A", "lora_B")] @ tensors[name] for name in names}

    one, other, both = effects(first), effects(second), effects(tmp_path)
    assert one.keys() == both.keys() and len(both) > 10
    for name, effect in both.items():
        np.testing.assert_allclose(effect, (one[name] + other[name]) / 2, rtol=1e-5, atol=1e-7)


def test_a_mean_may_be_chosen() -> None:
    """It stands last, is named by what it is made of, and the sentence says whether its lead is more than chance."""
    truth = np.linspace(10, 100, 40)
    checkpoints = [Candidate("m12", "finetuned", "finetuned", 12), Candidate("m6", "finetuned", "finetuned", 6)]
    mean = Candidate("mean", "finetuned", "finetuned", None, reason="the mean of the adapters of steps 6, 12")
    off = {"m6": 5.0, "m12": 4.0, "mean": 1.0}
    answers = {model: Predictions.points(truth + by) for model, by in off.items()}
    rows = curve([mean, *checkpoints], answers, truth, seed=0, resamples=200)
    assert [(row.step, row.chosen) for row in rows] == [(6, False), (12, False), (None, True)]
    said = choice(rows)
    assert said.startswith("Chosen: the mean of the adapters of steps 6, 12, $1.00 off on 40 validation items")
    assert "The next, step 12, is $3.00 worse (95% interval $3.00 to $3.00), more than chance explains." in said
    tied = curve(checkpoints, dict.fromkeys(off, answers["m6"]), truth, seed=0, resamples=200)
    assert [row.step for row in tied if row.chosen] == [6]
    one = curve(checkpoints, {name: Predictions.points(truth[:1] + by) for name, by in off.items()}, truth[:1], seed=0)
    alone = "Chosen: step 12, $4.00 off on 1 validation item. The next, step 6, is $1.00 worse, "
    assert choice(one) == f"{alone}which chance alone can explain."


def test_a_runner_up_that_left_items_unpriced_is_compared_on_those_it_answered() -> None:
    """It may be closer on these than the one that answered all, and is then called better there, not worse by less than
    nothing."""
    truth = np.linspace(10, 100, 40)
    gaps = np.where(np.arange(40) < 2, np.nan, 1.0)
    both = [Candidate("m6", "finetuned", "finetuned", 6), Candidate("m12", "finetuned", "finetuned", 12)]
    answers = {"m6": Predictions.points(truth + 5.0), "m12": Predictions.points(truth + gaps)}
    said = choice(curve(both, answers, truth, seed=0, resamples=200))
    assert said.startswith("Chosen: step 6, $5.00 off on 40 validation items")
    assert "The next, step 12, is $4.00 better on the 38 items that it answered (95% interval $4.00 to $4.00)" in said
    answers["m12"] = Predictions.points(truth + 9 * gaps)
    assert "is $4.00 worse on the 38 items that it answered" in choice(curve(both, answers, truth, seed=0))


def test_an_adapter_of_another_base_model_is_refused(whole: Experiment, tmp_path: Path) -> None:
    """It names its base by content: another one of the same size is refused, and where it lies makes no difference."""
    run = training(whole)
    chosen = next(m for m in run.models() if m.tags.get(CHOSEN) == "true")
    folder = Path(shutil.copytree(model_folder(run.client, chosen.model_id), tmp_path / "model"))
    spec = folder / "predictor.json"
    fields = json.loads(spec.read_text(encoding="utf-8"))
    assert LanguageModel.load(folder).spec.base == "tiny-random"
    base = Path(shutil.copytree(base_model.locate("tiny-random"), tmp_path / "mine"))
    spec.write_text(json.dumps(fields | {"base": str(base)}), encoding="utf-8")
    with pytest.raises(UserError, match=rf"trained on the base model tiny-random-\w+, and {base} is \w+ now"):
        LanguageModel.load(folder)
    spec.write_text(json.dumps(fields | {"base": str(base), "identity": base_model.identity(str(base))}))
    LanguageModel.load(folder)
    moved = base.rename(tmp_path / "moved")
    spec.write_text(json.dumps(json.loads(spec.read_text()) | {"base": str(moved)}))
    LanguageModel.load(folder)
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="Put that one back, or fine-tune again"):
        LanguageModel.load(folder)

"""What only asks or scores checkpoints trains nothing again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tasks import digests, finetuning
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.splits import Dataset
from tasks.finetuning import weights_digest
from tasks.models.language import hardware
from tasks.models.language.base_model import TINY, locate
from tasks.models.language.model import LanguageModel
from tasks.paths import PROJECT
from tasks.scoring.predictions import recall
from tasks.scoring.roles import Roles
from tasks.tracking.runs import DROPPED, STEP, TRAINED_IN, StageRun
from tasks.tracking.store import connect, experiment_id, model_folder
from tasks.training.candidates import Candidates

pytestmark = pytest.mark.usefixtures("without_prefect")

SMOKE = "conf/smoke.yaml"
STEPS = [1, 2, 3, 4]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, at: Callable) -> list[str]:
    """The overrides of a training that was left alone."""
    overrides = at(tmp_path_factory.mktemp("trained"))
    experiment = load(SMOKE, overrides)
    finetuning.finetune(experiment, curate(experiment))
    return overrides


def runs(experiment: Experiment) -> list[StageRun]:
    """The trainings there are, the latest first."""
    client = connect(experiment)
    found = client.search_runs([experiment_id(experiment)], "tags.`pricewright.stage` = 'finetune'")
    return [StageRun(client, run, "finetune", done=run.info.status == "FINISHED") for run in found]


def adapters(run: StageRun) -> dict[int, dict[str, np.ndarray]]:
    """The adapter of every checkpoint of a run."""
    files = {m.step: model_folder(run.client, m.model_id) / "adapter" for m in run.candidates() if m.step is not None}
    return {step: load_file(folder / "adapter_model.safetensors") for step, folder in files.items()}


def assert_same(one: dict[int, dict[str, np.ndarray]], other: dict[int, dict[str, np.ndarray]]) -> None:
    """Both hold every checkpoint, with the same weights."""
    assert sorted(one) == sorted(other) == STEPS
    for step, weights in one.items():
        for name, values in weights.items():
            np.testing.assert_array_equal(values, other[step][name])


def steps_trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that every step of a training from now on is added to."""
    from tasks.training.trainer import PriceTrainer

    plain, taken = PriceTrainer.training_step, []

    def step(self: PriceTrainer, *arguments: object, **named: object) -> object:
        taken.append(self.state.global_step + 1)
        return plain(self, *arguments, **named)

    monkeypatch.setattr(PriceTrainer, "training_step", step)
    return taken


@pytest.mark.parametrize(
    "override", ["finetune.answer.estimate=mean", "finetune.score_items=9", "finetune.average=2", "finetune.keep=4"]
)
def test_another_way_to_ask_trains_nothing_again(
    trained: list[str], override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoints are asked again, and each becomes a model that answers as the conf says now; then it is done."""
    experiment, taken = load(SMOKE, [*trained, override]), steps_trained(monkeypatch)
    dataset = curate(experiment)
    candidates = finetuning.finetune(experiment, dataset)
    latest, *others = runs(experiment)
    assert taken == [] and latest.run.data.tags[TRAINED_IN] in {run.id for run in others}
    assert_same(adapters(latest), adapters(next(run for run in others if TRAINED_IN not in run.run.data.tags)))
    assert [c.step for c in candidates if c.step is None] == ([None] if "average" in override else [])
    asked = Roles.of(experiment, dataset).first
    model = LanguageModel.load(model_folder(latest.client, candidates[-1].model_id))
    assert model.spec.answer.estimate == experiment.finetune.answer.estimate
    kept = recall(latest, candidates[-1].model_id, "validation", asked)
    np.testing.assert_allclose(kept.price, model.predict(asked).price, rtol=1e-5)
    assert finetuning.finetune(experiment, dataset) == candidates and len(runs(experiment)) == 1 + len(others)


def test_a_base_model_that_was_moved_trains_nothing_again(
    tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same by its content; the models of its checkpoints find it at its new place."""
    store, here, there = at(tmp_path / "store"), tmp_path / "here" / "base", tmp_path / "there"
    shutil.copytree(locate(TINY), here)
    monkeypatch.chdir(tmp_path)
    finetuning.finetune(experiment := load(SMOKE, [*store, "finetune.base=here/base"]), curate(experiment))
    here.rename(there)
    monkeypatch.chdir(PROJECT)
    taken = steps_trained(monkeypatch)
    moved = load(SMOKE, [*store, f"finetune.base={there}"])
    candidates = finetuning.finetune(moved, curate(moved))
    assert taken == []
    LanguageModel.load(model_folder(connect(moved), candidates[-1].model_id))


def test_again_trains_again(trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for it gets it, though the weights are there."""
    experiment, taken = load(SMOKE, [*trained, "finetune.score_items=7"]), steps_trained(monkeypatch)
    finetuning.finetune(experiment, curate(experiment), "again")
    assert taken == STEPS


def test_fewer_adapters_are_kept_without_a_training_and_more_are_trained_again(
    tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Whoever keeps fewer pays for no training; one who wants more than were kept gets all of them, and is told why
    that takes one. A training that kept enough is found behind one that did not."""
    taken = steps_trained(monkeypatch)

    def kept(*words: str) -> set[int]:
        """The steps whose adapters a run with these words leaves."""
        experiment = load(SMOKE, [*at(tmp_path), *words])
        finetuning.finetune(experiment, curate(experiment))
        latest, *_ = runs(experiment)
        return {int(model.tags[STEP]) for model in latest.models() if DROPPED not in model.tags}

    two = kept("finetune.keep=2")
    assert taken == STEPS and len(two) in (2, 3) and 4 in two  # the last is kept, and may be one of the best
    one = kept("finetune.keep=1")
    assert taken == STEPS and len(one) < 3 and one <= two
    capsys.readouterr()
    assert kept() == {*STEPS} and taken == 2 * STEPS
    assert "finetune.keep deleted adapters" in capsys.readouterr().err
    three = kept("finetune.keep=3")
    assert taken == 2 * STEPS and len(three) > 2 and three >= two


def test_a_mean_is_that_of_the_best_adapters_and_not_of_those_that_an_earlier_training_left(
    tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Whatever was trained before in the same store: it takes a training where adapters to average are gone."""
    taken, keep = steps_trained(monkeypatch), [*at(tmp_path), "finetune.keep=1"]
    experiment = load(SMOKE, keep)
    finetuning.finetune(experiment, dataset := curate(experiment))
    capsys.readouterr()
    averaged = finetuning.finetune(load(SMOKE, [*keep, "finetune.average=3"]), dataset)
    assert taken == 2 * STEPS and "finetune.keep deleted adapters" in capsys.readouterr().err
    (mean,) = (one for one in averaged if one.step is None)
    assert mean.reason is not None and mean.reason.count(",") == 2


@pytest.mark.parametrize(
    ("first", "then", "steps"),
    [
        ([], ["finetune.answer.estimate=mean"], [4]),
        (["finetune.keep=1"], [], STEPS),
        (["finetune.keep=1", "finetune.average=4"], ["finetune.keep=4"], [4]),
    ],
    ids=["asked otherwise", "to keep more", "to keep those that were to be averaged"],
)
def test_an_interrupted_training_that_is_to_be_asked_otherwise_goes_on(
    trained: list[str],
    first: list[str],
    then: list[str],
    steps: list[int],
    tmp_path: Path,
    at: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It starts from its last checkpoint, what was scored before is asked again, though that is interrupted too, and
    the weights are the same. Where adapters are gone that are to be kept now, it starts from the beginning."""
    plain = Candidates.add

    def interrupted(experiment: Experiment, at_step: int) -> None:
        def dies(self: Candidates, tuned: LanguageModel, step: int, *arguments: object) -> None:
            if step == at_step:
                raise OSError("gone")
            plain(self, tuned, step, *arguments)

        with monkeypatch.context() as patch, pytest.raises(OSError, match="gone"):
            patch.setattr(Candidates, "add", dies)
            finetuning.finetune(experiment, curate(experiment))

    interrupted(load(SMOKE, [*at(tmp_path), *first]), 3)
    after, taken = load(SMOKE, [*at(tmp_path), *then]), steps_trained(monkeypatch)
    interrupted(after, 2)
    finetuning.finetune(after, curate(after))
    assert taken == steps
    latest, *_ = runs(after)
    assert_same(adapters(latest), adapters(runs(load(SMOKE, trained))[-1]))
    assert not (PROJECT / "mlruns" / "work" / latest.id).exists()


INDIFFERENT = ("scoring/comparisons", "models/features")
ASKING = ("models/language/price_trie", "training/candidates", "scoring/roles", "scoring/metrics")
DATASET = Dataset("sample", "d1", "nowhere", {}, True)


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("finetune.answer.estimate=mean", True),
        ("finetune.answer.temperature=2", True),
        ("finetune.score_items=9", True),
        ("finetune.average=2", True),
        ("finetune.busy=fail", True),
        ("evaluate.resamples=400", True),
        ("baselines.models=[constant]", True),
        ("finetune.keep=2", True),
        ("finetune.device=auto", True),  # which is a CPU here
        ("finetune.dtype=auto", True),
        ("finetune.prompt.similar=Like it", True),
        ("finetune.prompt.encoder=elsewhere", True),
        ("finetune.prompt.opinion=They say", True),
        ("finetune.patience=2", False),
        ("finetune.checkpoints=2", False),
        ("finetune.lora.r=2", False),
        ("finetune.dtype=bfloat16", False),
        ("finetune.prompt.question=How much?", False),
        ("seed=43", False),
    ],
)
def test_the_weights_depend_on_what_makes_them(override: str, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And on nothing that only asks or scores them, or that comes to the same here."""
    monkeypatch.setattr(hardware, "pick_device", lambda _: "cpu")
    monkeypatch.setattr(hardware, "_cpu_bf16", lambda: False)
    words = ["finetune.device=cpu", "finetune.dtype=float32"]
    one, other = (weights_digest(load(SMOKE, each), DATASET) for each in (words, [*words, override]))
    assert (one == other) == same


@pytest.mark.parametrize(
    ("told", "override", "same"),
    [
        ("finetune.patience=2", "finetune.keep=2", True),
        ("finetune.patience=2", "finetune.score_items=9", False),
        ("finetune.prompt.comparables=4", "finetune.prompt.similar=Like it", False),
        ("finetune.prompt.comparables=4", "finetune.prompt.opinion=They say", True),
        ("finetune.prompt.opinions=[constant]", "finetune.prompt.opinion=They say", False),
    ],
)
def test_the_weights_depend_on_more_where_more_is_asked_for(told: str, override: str, same: bool) -> None:
    """With patience on the answers, and on the words before what is told."""
    one, other = (weights_digest(load(SMOKE, words), DATASET) for words in ([told], [told, override]))
    assert (one == other) == same


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ([], {*INDIFFERENT, *ASKING, "models/terms"}),
        (["finetune.patience=2"], {*INDIFFERENT, "models/terms"}),
        (["finetune.prompt.comparables=4"], {*INDIFFERENT, *ASKING}),
        (["finetune.prompt.opinions=[constant]"], {*INDIFFERENT, *ASKING} - {"models/features"}),
    ],
    ids=["alone", "patient", "told of comparables", "told opinions"],
)
def test_the_weights_depend_on_the_code_that_makes_them(
    overrides: list[str],
    kept: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changing_code: Callable[[], None],
) -> None:
    """A metric or a baseline never does; what answers does where patience listens to it, what finds comparables where
    a prompt holds them."""
    experiment = load(SMOKE, overrides)
    before = weights_digest(experiment, DATASET)
    shutil.copytree(PROJECT / "tasks", tmp_path / "tasks")
    monkeypatch.setattr(digests, "PROJECT", tmp_path)
    same = set()
    for module in (*INDIFFERENT, *ASKING, "models/terms", "training/trainer", "models/language/prompts"):
        file = tmp_path / "tasks" / f"{module}.py"
        whole = file.read_text()
        file.write_text(f"{whole}\nNEW = 1\n")
        changing_code()
        same |= {module} if weights_digest(experiment, DATASET) == before else set()
        file.write_text(whole)
    assert same == kept

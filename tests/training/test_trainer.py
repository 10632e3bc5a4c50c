"""Fine-tuning learns the price and nothing else, and loses nothing when it is killed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tasks import finetuning
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.splits import read_split
from tasks.errors import UserError
from tasks.models.language.base_model import TINY, load_tokenizer
from tasks.models.language.prompts import render
from tasks.paths import PROJECT
from tasks.progress import Progress
from tasks.tracking.runs import STEP, StageRun
from tasks.tracking.store import connect, experiment_id, model_folder
from tasks.training.checkpoints import Interruption, finish_checkpoint, last_whole_checkpoint
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("without_prefect")

# Twelve steps, four checkpoints, and dropout, so that the random state matters.
LONGER = ["finetune.sft.num_train_epochs=3", "finetune.lora.lora_dropout=0.2", "finetune.train_items=32"]
STEPS = [3, 6, 9, 12]
FORKS = multiprocessing.get_context("forkserver")  # one process imports the libraries, for all that are to be killed
FORKS.set_forkserver_preload(["mlflow", "tasks.finetuning", "tasks.training.trainer"])


def train(overrides: list[str]) -> None:
    """What a child process does: the stage without a Prefect server of its own."""
    finetuning.train_checkpoints = finetuning.train_checkpoints.fn
    experiment = load("conf/smoke.yaml", overrides)
    finetuning.finetune(experiment, curate(experiment))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, at: Callable) -> Experiment:
    """A training that was left alone."""
    experiment = load("conf/smoke.yaml", [*at(tmp_path_factory.mktemp("undisturbed")), *LONGER])
    finetuning.finetune(experiment, curate(experiment))
    return experiment


def adapters(experiment: Experiment) -> dict[int, dict[str, np.ndarray]]:
    """The weights of every checkpoint's adapter, and of its head if it has one, by step."""
    client = connect(experiment)
    runs = client.search_runs([experiment_id(experiment)], "tags.`pricewright.stage` = 'finetune'")
    assert len(runs) == 1 and runs[0].info.status == "FINISHED"
    models = StageRun(client, runs[0], "finetune", done=True).candidates()
    found = {}
    for model in models:
        files = (model_folder(client, model.model_id) / "adapter").glob("*.safetensors")
        found[model.step] = {name: values for file in files for name, values in load_file(file).items()}
    return found


def fit_seconds(experiment: Experiment) -> list[float]:
    """The seconds of training that each checkpoint took, by step."""
    client = connect(experiment)
    models = client.search_logged_models([experiment_id(experiment)], "tags.`pricewright.kind` = 'finetuned'")
    return [float(model.params["fit_seconds"]) for model in sorted(models, key=lambda model: int(model.tags[STEP]))]


def assert_same_weights(one: Experiment, other: Experiment) -> None:
    """Every checkpoint is there once in both, with the same weights."""
    whole, resumed = adapters(one), adapters(other)
    assert sorted(whole) == sorted(resumed) == STEPS
    for step, weights in whole.items():
        for name, values in weights.items():
            assert values.dtype == np.float32  # TRL would make them bfloat16, which loses small steps
            np.testing.assert_array_equal(values, resumed[step][name], err_msg=f"step {step}, {name}")


def work_of(experiment: Experiment) -> Path:
    """The work folder of the only training there is."""
    client = connect(experiment)
    (run,) = client.search_runs([experiment_id(experiment)], "tags.`pricewright.stage` = 'finetune'")
    return PROJECT / "mlruns" / "work" / run.info.run_id


def saved(work: Path) -> list[int]:
    """The steps of the whole checkpoints in a work folder."""
    return sorted(int(whole.parent.name.rpartition("-")[2]) for whole in work.glob("checkpoint-*/complete.json"))


def train_until_killed(overrides: list[str], seconds: float) -> None:
    """The same, but it kills itself so many seconds after its next checkpoint, before another one is whole."""
    from tasks.training import trainer

    whole, told = trainer.finish_checkpoint, threading.Event()

    def kill() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    def then_killed(checkpoint: Path) -> None:
        if told.is_set():
            time.sleep(PATIENCE)
        whole(checkpoint)
        told.set()
        threading.Thread(target=kill).start()

    trainer.finish_checkpoint = then_killed
    train(overrides)


def test_killed_and_resumed_equals_never_killed(undisturbed: Experiment, tmp_path: Path, at: Callable) -> None:
    """SIGKILL at three moments drawn at random, each some time after a further checkpoint, and the same command again
    each time: every checkpoint's weights are those of a training that was left alone, and each is there once."""
    overrides = [*at(tmp_path), *LONGER]
    killed = load("conf/smoke.yaml", overrides)
    dataset = curate(killed)
    random = np.random.default_rng(5)
    for _ in range(3):
        process = FORKS.Process(target=train_until_killed, args=(overrides, random.uniform(0, 0.5)))
        process.start()
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL
    work = work_of(killed)
    assert saved(work) == [6, 9]
    finetuning.finetune(killed, dataset)
    assert_same_weights(undisturbed, killed)
    assert not work.exists()
    seconds = fit_seconds(killed)
    assert seconds == sorted(seconds) and min(seconds) > 0  # the time before the kills is not forgotten


class Terminated(Exception):  # noqa: N818 - what a signal becomes is no error
    """What the process would die of."""


def test_a_training_told_to_leave_saves_first(
    undisturbed: Experiment, tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the middle of a step, in a Prefect flow: the step is finished and saved, and only then does the flow
    end; what was saved is no candidate, and the training that goes on from it ends with the same weights."""
    from flows.finetuning import finetuning as flow
    from tasks.training.trainer import Watch

    def die(*_: object) -> None:
        raise Terminated

    def tell(*arguments: Any, **_: Any) -> None:
        if arguments[2].global_step == 4:
            signal.raise_signal(signal.SIGTERM)

    overrides = [*at(tmp_path), *LONGER]
    told = load("conf/smoke.yaml", overrides)
    dataset = curate(told)
    monkeypatch.setattr(Watch, "on_step_begin", tell)
    before = signal.signal(signal.SIGTERM, die)
    try:
        with pytest.raises(Terminated):
            flow("conf/smoke.yaml", overrides)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert saved(work_of(told)) == [3, 5]
    monkeypatch.undo()
    finetuning.finetune(told, dataset)
    assert_same_weights(undisturbed, told)


def test_a_training_whose_last_checkpoint_was_not_scored_takes_no_further_step(
    tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its last step ends no epoch, at whose end alone upstream looks whether there is one more to take."""
    from tasks.training.candidates import Candidates

    experiment = load("conf/smoke.yaml", [*at(tmp_path), "finetune.sft.max_steps=3", "finetune.checkpoints=3"])
    dataset = curate(experiment)
    add = Candidates.add

    def die(candidates: Candidates, tuned: Any, step: int, *arguments: Any) -> None:
        if step == 3:
            raise Terminated
        add(candidates, tuned, step, *arguments)

    monkeypatch.setattr(Candidates, "add", die)
    with pytest.raises(Terminated):
        finetuning.finetune(experiment, dataset)
    assert saved(work_of(experiment)) == [2, 3]
    monkeypatch.undo()
    finetuning.finetune(experiment, dataset)
    assert sorted(adapters(experiment)) == [1, 2, 3]


def test_a_head_that_goes_on_is_the_one_that_was_left_alone(
    tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is resumed with its adapter and its own part of the optimizer: interrupted or not, the weights are the same,
    and they have learned something."""
    from tasks.training.trainer import Watch

    opinions = ["finetune.answer.by=head", "finetune.prompt.opinions=[tfidf_ridge]", "finetune.prompt.comparables=2"]
    experiments = [load("conf/smoke.yaml", [*at(tmp_path / name), *LONGER, *opinions]) for name in ("whole", "left")]
    dataset = curate(experiments[0])
    curate(experiments[1])
    finetuning.finetune(experiments[0], dataset)

    def die(*_: object) -> None:
        raise Terminated

    def tell(*arguments: Any, **_: Any) -> None:
        if arguments[2].global_step == 4:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Watch, "on_step_begin", tell)
    before = signal.signal(signal.SIGTERM, die)
    try:
        with pytest.raises(Terminated):
            finetuning.finetune(experiments[1], dataset)
    finally:
        signal.signal(signal.SIGTERM, before)
    monkeypatch.undo()
    finetuning.finetune(experiments[1], dataset)
    assert_same_weights(*experiments)
    heads = adapters(experiments[0])
    assert not np.array_equal(heads[3]["state.weight"], heads[12]["state.weight"])


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_waits_for_what_is_unsaved_and_for_nothing_else(number: int, raised: type[BaseException]) -> None:
    """It is obeyed once a checkpoint is whole, at once where nothing is unsaved or when it comes again, and by whoever
    listened before; afterwards it is theirs again. One that was ignored stays so."""
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)  # whoever started the tests may have it ignored
    try:
        for unsaved, again in ((True, False), (True, True), (False, False)):
            interruption = Interruption()
            with pytest.raises(raised) as caught, interruption.postponed():
                interruption.unsaved = unsaved
                signal.raise_signal(number)
                assert unsaved and interruption.asked == number
                if again:
                    signal.raise_signal(number)
                interruption.saved()
                raise AssertionError("not obeyed")
            assert getattr(caught.value, "code", 143) == 143
            assert signal.getsignal(number) is usual
        signal.signal(number, signal.SIG_IGN)
        with Interruption().postponed():
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path) -> None:
    """The one before it is resumed from; none is made up where none is whole."""
    for step in (5, 10, 15):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "adapter.bin").write_bytes(bytes(100))
        if step < 15:
            finish_checkpoint(folder)
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-10"
    finish_checkpoint(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-10" / "adapter.bin").write_bytes(bytes(99))
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-5"
    (tmp_path / "checkpoint-5" / "complete.json").write_text("{")
    assert last_whole_checkpoint(tmp_path) is None
    assert last_whole_checkpoint(tmp_path / "nowhere") is None


def test_labels_that_are_not_the_price_are_refused() -> None:
    """What the loss is taken on is decoded before the first step: masks have been wrong after upgrades."""
    from tasks.training.trainer import check_labels

    tokenizer = load_tokenizer(TINY)
    good = tokenizer("Price is $12.00")["input_ids"]
    masked = [-100] * (len(good) - 5) + good[-5:]

    def trainer(labels: list[int]) -> SimpleNamespace:
        return SimpleNamespace(processing_class=tokenizer, train_dataset=[{"input_ids": good, "labels": labels}])

    asked = [good[:-5]]
    check_labels(trainer(masked), ["12.00"], asked)
    with pytest.raises(UserError, match=r"say 'Price is \$12\.00', but its price is '12\.00'"):
        check_labels(trainer(good), ["12.00"], asked)
    with pytest.raises(UserError, match=r"behind the tokens '.*Price is \$', but would be asked for behind 'Price'"):
        check_labels(trainer(masked), ["12.00"], [tokenizer("Price")["input_ids"]])


def test_a_loss_that_is_no_number_stops_the_training_at_its_step(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the step and the items of the batch, nothing of that step is kept, and no line of progress goes
    on."""
    from tasks.training.trainer import PriceTrainer

    plain, seen = PriceTrainer.compute_loss, []

    def broken(self: PriceTrainer, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        loss = plain(self, model, inputs, *arguments, **named)
        seen.append(
            [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
        )
        return loss * (float("nan") if len(seen) == 3 else 1)

    monkeypatch.setattr(PriceTrainer, "compute_loss", broken)
    dataset = curate(experiment)
    with pytest.raises(UserError) as caught:
        finetuning.finetune(experiment, dataset)
    said = str(caught.value)
    assert len(seen) == 3 and "The training loss is nan at step 3, of the items " in said
    tokenizer = load_tokenizer(TINY)
    by_id = {item.id: item for item in read_split(dataset, "train")}
    named = [by_id[name] for name in said.partition("items ")[2].partition(".")[0].split(", ")]
    assert len(named) == len(seen[2]) == 8
    prompts = tokenizer(render(named, experiment.finetune.prompt, tokenizer))["input_ids"]
    assert {tuple(ids) for ids in prompts} == {
        next(tuple(row[: len(ids)]) for ids in prompts if row[: len(ids)] == ids) for row in seen[2]
    }
    assert saved(work_of(experiment)) == [1, 2]
    shutil.rmtree(work_of(experiment))
    assert "fine-tuning" not in {line.what for known in Progress._open if (line := known()) is not None}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.sft.learning_rat=1", "finetune.sft.learning_rat: there is no such key. Did you mean learning_rate?"),
        ("finetune.lora.rank=8", "finetune.lora.rank"),
        ("finetune.quantization.load_in_4bits=true", "Did you mean load_in_4bit?"),
        ("finetune.sft.output_dir=x", "not for the conf"),
        ("finetune.answer.estimate=mode", "Expected one of"),
        ("finetune.sft.optim=no-such-optimizer", "finetune.sft: no-such-optimizer is not a valid"),
        ("finetune.sft.lr_scheduler_type=cosin", "finetune.sft: cosin is not a valid"),
        ("finetune.sft.per_device_train_batch_size=0", "per_device_train_batch_size: expected a whole number, 1 or"),
        ("finetune.sft.gradient_accumulation_steps=0", "gradient_accumulation_steps: expected a whole number, 1 or"),
        ("finetune.sft.num_train_epochs=0", "num_train_epochs: got 0, and so no step is taken"),
        ("finetune.sft.learning_rate=-1e-3", "learning_rate: got -0.001. Expected more than 0"),
        ("finetune.quantization.bnb_4bit_quant_type=nf5", "bnb_4bit_quant_type: got 'nf5'. Expected nf4 or fp4"),
        ("finetune.lora.r=0", "finetune.lora: tiny-random takes no such adapter. `r` should be a positive"),
        ("finetune.lora.target_modules=[query_key_value]", "finetune.lora: tiny-random takes no such adapter. Target"),
        ("finetune.lora.target_modules=[q_proj,lm_head]", "TRL trains no adapter on lm_head"),
        ("finetune.lora.init_lora_weights=orthogonal", "orthogonal takes weights that are not quantized"),
        ("finetune.sft.bf16=true", "finetune.sft.bf16 is not for the conf: set finetune.dtype"),
        ("finetune.sft.max_length=40", "max_length is not for the conf: set finetune.prompt.text_tokens"),
        ("finetune.sft.packing=true", "packing is not for the conf"),
        ("finetune.sft.eval_strategy=steps", "eval_strategy is not for the conf: checkpoints are scored"),
        ("finetune.sft.label_smoothing_factor=0.5", "label_smoothing_factor is not for the conf"),
        ("finetune.sft.save_only_model=true", "save_only_model is not for the conf: an interrupted training goes on"),
        ("finetune.lora.init_lora_weights=pissa_niter_4", "pissa_niter_4 changes the weights of the base model"),
        ("finetune.quantization.load_in_4bit=often", "finetune.quantization: load_in_4bit must be a boolean"),
    ],
)
def test_upstream_keys_and_values_are_checked_before_anything_runs(override: str, message: str) -> None:
    """A key that the library does not have, or that the stage sets itself, is refused by name; a value that it will not
    have, in its own words."""
    with pytest.raises(UserError) as caught:
        finetuning.check(load("conf/smoke.yaml", [override]))
    assert message in str(caught.value)


def test_training_goes_on_after_a_checkpoint_is_scored_in_4_bits() -> None:
    """On CPUs that pack 4-bit weights for inference, a scored model would lose its gradients without a word."""
    import torch

    from tasks.models.language.base_model import load_model
    from tasks.models.language.model import ModelSpec

    conf = load("conf/smoke.yaml").finetune
    model = load_model(TINY, ModelSpec.of(conf).settings())
    ids = torch.tensor([[5, 6, 7, 8]])

    def gradient() -> torch.Tensor:
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        model.train()(inputs_embeds=embedded).logits.logsumexp(-1).sum().backward()
        return embedded.grad

    before = gradient()
    with torch.inference_mode():
        model.eval()(ids)
    torch.testing.assert_close(gradient(), before)
    assert before.abs().sum() > 0

"""What a training takes is said before it starts, and one that is too big is refused with numbers and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flows.cli.doctor import examine
from tasks import finetuning
from tasks.config.experiment import Experiment, Finetune, Prompt
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.items import Item
from tasks.errors import UserError
from tasks.models.language.hardware import GIB, Hardware, settings
from tasks.models.language.prompts import check_prices
from tasks.training import memory
from tasks.training.memory import TrainingCost, check_context, estimate, out_of_memory, steps_and_epochs

pytestmark = pytest.mark.usefixtures("without_prefect")

GPU = Hardware("cuda", bf16=True)


def llama() -> object:
    """The config of Llama 3.1 8B."""
    from transformers import LlamaConfig

    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256}
    return LlamaConfig(**sizes, num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131072)


def of_llama(**changes: object) -> memory.MemoryEstimate:
    """What the recipe's run takes, with changes of the conf."""
    conf = load("conf/amazon.yaml").finetune
    conf = conf.model_copy(update={**changes, "sft": {**conf.sft, **changes.pop("sft", {})}})
    return estimate(conf, llama(), settings(GPU, conf.quantization, conf.sft), 190)


def test_the_recipe_s_run_fits_its_gpu() -> None:
    """Llama 3.1 8B is 8.03 billion weights, in 4 bits 5 to 6 GiB; its adapter of rank 32 on four projections is 27.3
    million numbers. Without recomputing activations it would not fit into 24 GB."""
    found = of_llama()
    assert 5 * GIB < found.weights < 6 * GIB
    assert found.adapter == 27_262_976 * 16  # a float32 each, its gradient and two states of Adam
    assert found.total < 24e9
    assert of_llama(quantization=None).weights == pytest.approx(2 * 8.03e9, rel=0.01)
    whole = of_llama(sft={"gradient_checkpointing": False})
    assert whole.activations > 5 * found.activations and whole.total > 24e9
    assert whole.remedies().startswith("finetune.sft.gradient_checkpointing=true; finetune.sft.per_device_train_batch")
    assert found.operations == pytest.approx(6 * 6.98e9, rel=0.03)  # forward, again, and back through 7.0 billion


def test_a_training_that_does_not_fit_is_refused_or_tried(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message holds what it takes, what is there and what to change; finetune.oversize=try goes on."""
    monkeypatch.setattr(memory, "free_memory", lambda _: 2**20)
    with pytest.raises(UserError) as caught:
        finetuning.finetune(experiment, curate(experiment))
    said = str(caught.value)
    assert "This training takes about" in said and "1 MiB are free on cpu for a process" in said
    assert "finetune.answer.batch_tokens (now 8192) lower" in said and "finetune.oversize=try" in said

    def give_out(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("tasks.training.trainer.train", give_out)
    trying = experiment.model_copy(update={"finetune": experiment.finetune.model_copy(update={"oversize": "try"})})
    with pytest.raises(UserError, match=r"Out of memory on cpu \(\[enforce fail\].*estimated at.*1 MiB are free now"):
        finetuning.finetune(trying, curate(trying))


def test_only_what_says_so_is_out_of_memory() -> None:
    """A GPU's error, Python's, a CPU allocator's and CUDA's words; no other error is taken for it."""
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(MemoryError()) and out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_the_doctor_says_what_training_takes(
    monkeypatch: pytest.MonkeyPatch, at: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    """Memory and time of the conf, what is free, and what to change where that is too little."""
    conf = load("conf/smoke.yaml", [*at(tmp_path), "finetune.sft.optim=paged_adamw_32bit"])
    said = examine(conf)
    assert "training  32 items in 4 steps: about " in said and " are free." in said and "TOO LITTLE" not in said
    assert "training  paged_adamw_32bit needs CUDA" in said
    monkeypatch.setattr("flows.cli.doctor.free_memory", lambda _: 1)
    assert "TOO LITTLE: change finetune.answer.batch_tokens" in examine(conf)
    unknown = load("conf/smoke.yaml", [*at(tmp_path), "finetune.base=nobody/nothing"])
    assert "training  unknown until nobody/nothing is fetched" in examine(unknown)


@pytest.mark.parametrize(
    ("sft", "expected"),
    [
        ({"per_device_train_batch_size": 8, "num_train_epochs": 2}, (26, 2)),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 26}, (26, 2)),
        ({}, (39, 3)),
    ],
)
def test_steps_are_counted_as_the_trainer_counts_them(sft: dict, expected: tuple) -> None:
    """100 items by batch, accumulation and epochs, or by max_steps."""
    assert steps_and_epochs(sft, 100) == expected


def test_prompts_longer_than_the_context_are_refused() -> None:
    """With how many there are, how long the longest is, and the number of tokens that would fit."""
    conf = Finetune(base="tiny-random", prompt=Prompt(text_tokens=1100))
    config = type("Config", (), {"max_position_embeddings": 1024, "get_text_config": lambda self: self})()
    check_context([1024, 3], config, conf)
    with pytest.raises(UserError) as caught:
        check_context([1100, 3, 1124], config, conf)
    assert "2 of 3 prompts are longer than the context of tiny-random, 1,024 tokens" in str(caught.value)
    assert "the longest has 1,124. Set finetune.prompt.text_tokens=1000" in str(caught.value)


def test_training_prices_outside_the_range_are_refused() -> None:
    """With how many there are, examples by id, and both remedies; a price is outside once it is rounded."""
    item = Item("a", "pot", "a pot", "", {}, 10.0)
    items = [
        item,
        replace(item, id="b", price=99.4),
        replace(item, id="c", price=99.5),
        replace(item, id="d", price=120),
    ]
    check_prices(items[:2], Prompt(highest=99))
    with pytest.raises(UserError) as caught:
        check_prices(items, Prompt(highest=99))
    said = str(caught.value)
    assert "2 of 4 training prices are outside 0..99" in said and "in steps of 1: 120.00 (d), 99.50 (c)" in said
    assert "data.price_max" in said and "finetune.prompt" in said and "$" not in said  # the data may be in euros
    check_prices(items, Prompt(highest=99_999, unit=0.01))


def test_items_and_conf_are_checked_before_the_model_is_loaded(
    at: Callable[[Path], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prices outside the range and prompts beyond the context are known from the items and the model's config alone."""

    def load_model(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("tasks.models.language.base_model.load_model", load_model)
    for override, message in (
        ("finetune.prompt.highest=99", "training prices are outside 0..99"),
        (f"finetune.prompt.question={'why ' * 300}", "finetune.prompt.text_tokens|a shorter finetune.prompt.question"),
        ("finetune.sft.optim=no-such-optimizer", r"finetune\.sft"),
    ):
        experiment = load("conf/smoke.yaml", [*at(tmp_path), override])
        with pytest.raises(UserError, match=message):
            finetuning.finetune(experiment, curate(experiment))


def test_the_size_of_items_counts_every_token(items: list[Item]) -> None:
    """Steps, tokens over all epochs, and a lower bound of the time by the measured rate."""
    conf = load("conf/smoke.yaml", ["finetune.sft.num_train_epochs=2"]).finetune
    size = TrainingCost.of(conf, settings(Hardware("cpu"), conf.quantization, conf.sft), items)
    assert (size.items, size.steps) == (100, 26)
    half = TrainingCost.of(conf, settings(Hardware("cpu"), conf.quantization, conf.sft), items[:50])
    assert 1.8 < size.tokens / half.tokens < 2.2


def test_the_time_is_a_lower_bound_for_all_processes_together(
    items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs take half of the time of one; two processes on a CPU share it."""
    monkeypatch.setattr(memory, "multiplication_rate", lambda *_: 1e9)

    def seconds(hardware: Hardware, processes: int) -> float:
        conf = load("conf/smoke.yaml", [f"finetune.processes={processes}", "finetune.quantization=null"]).finetune
        plan = settings(hardware, conf.quantization, conf.sft)
        alone = conf.model_copy(update={"processes": 1})
        several, one = (TrainingCost.foreseen(each, plan).seconds for each in (conf, alone))
        assert one / several == pytest.approx(processes if hardware is GPU else 1)
        return TrainingCost.of(conf, plan, items).seconds

    assert seconds(GPU, 1) == pytest.approx(1.73, rel=0.01)
    assert seconds(GPU, 2) == pytest.approx(0.865, rel=0.01)
    assert seconds(Hardware("cpu"), 2) == seconds(Hardware("cpu"), 1) == pytest.approx(1.73, rel=0.01)

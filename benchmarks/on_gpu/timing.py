"""How steps of a training are timed and profiled on whatever device there is, and how much memory they take."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from tasks.training.trainer import attending


@dataclass(frozen=True)
class Step:
    """One step of a training: seconds (None: not timed), what was in its batch, and its loss."""

    seconds: float | None
    rows: int
    places: int  # tokens, padding included
    tokens: int  # padding left out
    learned: int  # tokens that the loss is taken on
    loss: float


def wait() -> None:
    """Until the GPU, if there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds of some work, the GPU's part included."""
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def forget_peak() -> None:
    """Count the peak of the GPU's memory from here on; what nobody holds any more is given back first."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> dict[str, int | None]:
    """Bytes of the GPU that tensors took at most since `forget_peak`, and that torch had reserved for them."""
    if not torch.cuda.is_available():
        return {"allocated": None, "reserved": None}
    return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}


class _Clock(TrainerCallback):
    """The seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        wait()
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        wait()
        self.seconds.append(time.perf_counter() - self.start)


def run_steps(trainer: Any, attention: str, resume: str | None = None) -> list[Step]:
    """Train as the trainer is set up, with `finetune.sft.logging_steps=1`; each step that was taken here."""
    collate, clock = trainer.data_collator, _Clock()
    fed: list[tuple[int, int, int, int]] = []  # one batch is fetched ahead of its step

    def collated(examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(examples)
        mask, labels = batch["attention_mask"], batch["labels"]
        fed.append((len(examples), mask.numel(), int(mask.sum()), int((labels != -100).sum())))
        return batch

    trainer.data_collator = collated
    trainer.add_callback(clock)
    with attending(trainer.model, attention):
        trainer.train(resume_from_checkpoint=resume)
    count = len(clock.seconds)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-count:]
    return [
        Step(seconds, *batch, loss) for seconds, batch, loss in zip(clock.seconds, fed[:count], losses, strict=True)
    ]


def profile(trainer: Any, steps: int = 2, most: int = 10) -> list[dict[str, Any]]:
    """What takes most of the time of a step, forward and back, by torch's profiler: kernels of the GPU if there is one,
    else operators of the CPU. Each with its share of all of them and how often a step runs it."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    cuda = torch.cuda.is_available()
    batches = iter(trainer.get_train_dataloader())
    trainer.model.train()

    def step() -> None:
        inputs = trainer._prepare_inputs(next(batches))
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, inputs)
        trainer.accelerator.backward(loss)
        trainer.model.zero_grad()
        wait()

    step()  # it allocates
    with profiled(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as record:
        for _ in range(steps):
            step()
    events = record.key_averages()
    if cuda:  # the kernels themselves: the operators that started them hold the same time
        events = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    spent = {id(event): event.self_device_time_total if cuda else event.self_cpu_time_total for event in events}
    total = sum(spent.values())
    longest = sorted(events, key=lambda event: -spent[id(event)])[:most]
    return [
        {
            "name": event.key,
            "share": spent[id(event)] / total,
            "milliseconds": spent[id(event)] / steps / 1000,
            "times": event.count / steps,
        }
        for event in longest
    ]

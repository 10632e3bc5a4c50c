"""Is it right? The same short training on the GPU and on the CPU, in one go and interrupted; and the prices after it.

On the GPU in 4 bits and bfloat16, on the CPU in float32: what the two differ by is rounding.
"""

from __future__ import annotations

import os
import signal
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from benchmarks.finetune_speed import ALONE
from benchmarks.on_gpu.results import Task
from benchmarks.on_gpu.timing import Step, forget_peak, peak, run_steps, seconds_of
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.data.items import Item
from tasks.data.splits import Dataset
from tasks.models.language.hardware import Hardware, settings
from tasks.models.language.model import LanguageModel, ModelSpec
from tasks.training.checkpoints import Interruption, last_whole_checkpoint
from tasks.training.plan import TrainingPlan, lora_config, sft_config
from tasks.training.trainer import make_trainer

STEPS, SCORED, COMPARED = 20, 200, 16
NARROW = ["finetune.dtype=bfloat16"]
WIDE = ["finetune.device=cpu", "finetune.dtype=float32"]


def measure(task: Task) -> None:
    """Train three times, and score."""
    steps, scored = (4, 32) if task.dry else (STEPS, SCORED)
    conf = ["conf/smoke.yaml"] if task.dry else ["conf/files.yaml", "data.path=unread", *ALONE]
    narrow, wide = (load(conf[0], [*conf[1:], *ways]) for ways in (NARROW, WIDE))
    items = task.items(max(scored, 8 * steps))
    with tempfile.TemporaryDirectory() as folder:
        whole = trained(narrow, items, steps, Path(folder) / "whole")
        task.results.keep(narrow=whole.figures)
        tuned = LanguageModel(whole.language.spec, whole.model, whole.language.tokenizer)
        tuned.predict(items[:COMPARED])
        forget_peak()
        answers: list[Any] = []
        seconds = seconds_of(lambda: answers.append(tuned.predict(items[:scored])))
        mass = float(answers[0].mass.mean())
        task.results.keep(scoring={"items": scored, "seconds": seconds, "mass": mass, **peak()})
        again = trained(narrow, items, steps, Path(folder) / "again", stop_at=steps // 2)
        task.results.keep(resumed=again.figures | {"stopped_at": steps // 2, "apart": apart(whole, again)})
        reference = trained(wide, items, steps, Path(folder) / "wide")
    moved = np.abs(whole.before - reference.before).sum(axis=1).mean() / 2
    task.results.keep(wide=reference.figures | {"apart": apart(whole, reference), "total_variation": float(moved)})


@dataclass
class Trained:
    """A short training: the model before and after it, and its steps."""

    language: LanguageModel
    before: np.ndarray  # the distributions of the base model [COMPARED, prices]
    model: Any
    steps: list[Step]
    figures: dict[str, Any]


def trained(experiment: Experiment, items: list[Item], steps: int, work: Path, stop_at: int | None = None) -> Trained:
    """Train for some steps; with `stop_at` this process gets SIGTERM during that step, and what it then saved is gone
    on with."""
    conf = experiment.finetune
    conf = conf.model_copy(update={"sft": {**conf.sft, "max_steps": steps, "logging_steps": 1}})
    on = settings(Hardware.here(conf.device), conf.quantization, conf.sft, conf.dtype)
    arguments = sft_config(conf, on, experiment.seed, len(items), work)
    experiment = experiment.model_copy(update={"finetune": conf})
    plan = TrainingPlan(experiment, Dataset("", "", "", {}), on, items, arguments, lora_config(conf))
    spec, resume, done = ModelSpec.of(conf, items), None, []
    if stop_at is not None:
        done = interrupted(plan, LanguageModel.of(spec, settings=on), stop_at)
        resume = last_whole_checkpoint(work)
        assert resume is not None and resume.name == f"checkpoint-{stop_at}", f"{resume} was saved"
    language = LanguageModel.of(spec, settings=on)
    before, _ = language.distribution(items[:COMPARED])
    trainer = make_trainer(plan, language, lambda _: None, Interruption())
    forget_peak()
    taken = run_steps(trainer, on.attention, None if resume is None else str(resume))
    figures = {
        "device": on.device,
        "dtype": on.dtype,
        "optimizer": type(trainer.optimizer.optimizer).__name__,
        "attention": on.attention,
        "liger": bool(trainer.args.use_liger_kernel),
        "steps": [asdict(step) for step in [*done, *taken]],
        **peak(),
    }
    return Trained(language, before, trainer.model, [*done, *taken], figures)


def interrupted(plan: TrainingPlan, language: LanguageModel, stop_at: int) -> list[Step]:
    """The steps of a training up to a SIGTERM, as far as a checkpoint holds them."""
    interruption = Interruption()
    trainer = make_trainer(plan, language, lambda _: None, interruption)

    class Signal(TrainerCallback):
        def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == stop_at - 1:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer.add_callback(Signal())
    with interruption.postponed():
        try:
            run_steps(trainer, plan.settings.attention)
        except SystemExit as left:
            assert left.code == 128 + signal.SIGTERM, left.code
        else:
            raise AssertionError("SIGTERM did not end the training")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return [Step(None, 0, 0, 0, loss) for loss in losses]


def apart(one: Trained, other: Trained) -> float:
    """The largest difference of two losses of the same step, relative to the first."""
    losses = [np.array([step.loss for step in run.steps]) for run in (one, other)]
    return float((np.abs(losses[0] - losses[1]) / losses[0]).max())

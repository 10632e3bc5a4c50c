"""Is it right? The same short training on the GPU and on the CPU, in one go and interrupted; and the prices after it.

On the GPU in 4 bits and bfloat16, on the CPU in float32: what the two differ by is rounding.
"""

from __future__ import annotations

import os
import signal
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

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
TOLD_NOTHING = ["finetune.prompt.opinions=[]", "finetune.prompt.comparables=0"]
BY = ("text", "head")


def measure(task: Task) -> None:
    """Train three times, and score, of each kind of answer; what the CPU does comes last, since it takes longest."""
    steps, scored, compared = (4, 8, 4) if task.dry else (STEPS, SCORED, COMPARED)
    items, known = task.items(max(scored, 16 * steps)), {by: {} for by in BY}

    def keep(by: str, **figures: Any) -> None:
        known[by] |= figures
        task.results.keep(**{by: known[by]})

    with tempfile.TemporaryDirectory() as folder:

        def twice(by: str) -> tuple[np.ndarray, list[Step]]:
            experiment, work = experiment_of(task, by, NARROW), Path(folder)
            whole = trained(experiment, items, steps, work / f"{by}-whole")
            keep(by, narrow=whole.figures)
            keep(by, scoring=priced(whole, items[:scored]))
            before = untuned(LanguageModel.of(whole.language.spec), items[:compared])
            again = trained(experiment, items, steps, work / f"{by}-again", stop_at=steps // 2)
            keep(by, resumed=again.figures | {"stopped_at": steps // 2, "apart": apart(whole.steps, again.steps)})
            return before, whole.steps

        first = {by: twice(by) for by in BY}
        for by, (before, taken) in first.items():
            wide = trained(experiment_of(task, by, WIDE), items, steps, Path(folder) / f"{by}-wide")
            keep(by, wide=wide.figures | {"apart": apart(taken, wide.steps)})
            moved = np.abs(before - untuned(LanguageModel.of(wide.language.spec), items[:compared])).sum(axis=1) / 2
            keep(by, wide=known[by]["wide"] | {"total_variation": float(moved.mean())})


def priced(run: Trained, items: list[Item]) -> dict[str, Any]:
    """How long the prices of items take after a training, and what of the probability lies on prices."""
    language = run.language
    tuned = LanguageModel(language.spec, run.model, language.tokenizer, language.head)
    tuned.predict(items[:8])  # the first pass allocates
    forget_peak()
    answers: list[Any] = []
    seconds = seconds_of(lambda: answers.append(tuned.predict(items)))
    return {"items": len(items), "seconds": seconds, "mass": float(answers[0].mass.mean()), **peak()}


def experiment_of(task: Task, by: str, changes: list[str]) -> Experiment:
    """The conf of a training that is told nothing and answers in text or by a head."""
    conf = ["conf/smoke.yaml"] if task.dry else ["conf/files.yaml", "data.path=unread"]
    return load(conf[0], [*conf[1:], *TOLD_NOTHING, f"finetune.answer.by={by}", *changes])


@dataclass
class Trained:
    """A short training: what was loaded for it, the model after it, and its steps."""

    language: LanguageModel
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
    return Trained(language, trainer.model, [*done, *taken], figures)


def untuned(language: LanguageModel, items: list[Item]) -> np.ndarray:
    """The distributions [n, prices] that a model writes, which are there before any head is."""
    spec = replace(language.spec, answer=language.spec.answer.model_copy(update={"by": "text"}))
    return LanguageModel(spec, language.model, language.tokenizer).distribution(items)[0]


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
    return [Step(None, 0, 0, 0, 0, loss) for loss in losses]


def apart(one: list[Step], other: list[Step]) -> float:
    """The largest difference of two losses of the same step, relative to the first."""
    losses = [np.array([step.loss for step in steps]) for steps in (one, other)]
    return float((np.abs(losses[0] - losses[1]) / losses[0]).max())

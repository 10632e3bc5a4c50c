"""Fine-tune: QLoRA by TRL's SFTTrainer; every checkpoint is scored by the price it would answer, and kept.

An interrupted training is the same MLflow run when it is started again, and the work folder is named by that run: so it
finds its checkpoints.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import basemodel
from tasks.config import PROJECT, Experiment
from tasks.digests import code_digest, digest
from tasks.errors import UserError
from tasks.predictors.language import LanguageModel, Recipe
from tasks.splits import Dataset, read_split, sample
from tasks.tracking import Candidate, Mode, StageRun, stage

# What the stage decides itself, so that a conf cannot ask for two things at once.
OURS = {
    "output_dir": "the stage's run names it",
    "seed": "set `seed` of the experiment",
    "save_strategy": "set finetune.checkpoints",
    "save_steps": "set finetune.checkpoints",
    "save_total_limit": "every checkpoint's adapter is kept in MLflow",
    "report_to": "the stage logs to MLflow",
    "push_to_hub": "checkpoints are kept in MLflow",
    "task_type": "it is CAUSAL_LM",
}


def finetune(experiment: Experiment, dataset: Dataset, mode: Mode = "reuse") -> list[Candidate]:
    """The checkpoints of the fine-tuned model, each with its step and its validation error.

    Raises:
        UserError: the conf asks for what the libraries or this machine do not have.
    """
    conf = experiment.finetune
    key = digest(
        {
            "stage": "finetune",
            "conf": conf.model_dump(mode="json", exclude={"enabled": True, "answer": {"batch_tokens"}}),
            "base": basemodel.identity(conf.base),
            "seed": experiment.seed,
            "dataset": dataset.digest,
            "code": code_digest("tasks.finetuning"),
        }
    )
    with stage(experiment, "finetune", key, command="pricewright finetune", mode=mode, resume=True) as run:
        if not run.done:
            work = PROJECT / "mlruns" / "work" / run.id
            train_checkpoints(run, experiment, dataset, work)
            shutil.rmtree(work, ignore_errors=True)
        return run.candidates()


@task(name="train", cache_policy=NO_CACHE)
def train_checkpoints(run: StageRun, experiment: Experiment, dataset: Dataset, work: Path) -> None:
    """Train from the last whole checkpoint in `work`, or from the base model."""
    from tasks.training import train

    check(experiment)
    conf, seed = experiment.finetune, experiment.seed
    run.log_params({"dataset": dataset.digest, "seed": seed, "finetune": conf.model_dump(mode="json")})
    items = sample(read_split(dataset, "train"), conf.train_items, seed)
    validation = sample(read_split(dataset, "validation"), conf.score_items, seed)
    train(run, LanguageModel.of(Recipe.of(conf)), items, validation, dataset, experiment, work)


def check(experiment: Experiment) -> None:
    """Refuse upstream keys that upstream does not know, with the nearest one that it does.

    Raises:
        UserError: there is such a key, or one that the stage sets itself.
    """
    basemodel.quiet()
    from peft import LoraConfig
    from trl import SFTConfig

    conf = experiment.finetune
    Recipe.of(conf)
    for section, values, config in (("sft", conf.sft, SFTConfig), ("lora", conf.lora, LoraConfig)):
        _check_names(f"finetune.{section}", values, [field.name for field in dataclasses.fields(config) if field.init])
    if conf.quantization:
        from transformers import BitsAndBytesConfig

        names = [name for name in inspect.signature(BitsAndBytesConfig).parameters if name != "kwargs"]
        _check_names("finetune.quantization", conf.quantization, names)


def _check_names(section: str, values: dict[str, Any], names: Iterable[str]) -> None:
    names = list(names)
    for name in values:
        if name in OURS:
            raise UserError(f"{section}.{name} is not for the conf: {OURS[name]}.")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {near[0]}?" if near else "See the fields of the library's config of that name."
            raise UserError(f"{section}.{name}: there is no such key. {hint}")

"""What a training is made of, worked out once from the conf, the data and the machine before any weights are loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from peft import LoraConfig
from trl import SFTConfig

from tasks.config.experiment import Experiment, Finetune
from tasks.data.items import Item
from tasks.data.splits import Dataset, read_split, sample
from tasks.errors import UserError
from tasks.models.language.hardware import Settings
from tasks.models.language.model import LanguageModel, ModelSpec
from tasks.models.language.prompts import check_prices
from tasks.training.memory import steps_and_epochs


@dataclass(frozen=True)
class TrainingPlan:
    """One training: who wants it, on what it computes, what it learns from, and the libraries' configs."""

    experiment: Experiment
    dataset: Dataset
    settings: Settings
    items: list[Item]  # those that are learned from
    arguments: SFTConfig
    lora: LoraConfig

    @classmethod
    def of(cls, experiment: Experiment, dataset: Dataset, settings: Settings, work: Path) -> Self:
        """The plan of a training whose checkpoints on disk go into `work`.

        Raises:
            UserError: there are prices that cannot be answered, or a library refuses its config.
        """
        conf = experiment.finetune
        items = sample(read_split(dataset, "train"), conf.train_items, experiment.seed)
        check_prices(items, conf.prompt)
        arguments = sft_config(conf, settings, experiment.seed, len(items), work)
        return cls(experiment, dataset, settings, items, arguments, lora_config(conf))

    @property
    def conf(self) -> Finetune:
        """The experiment's `finetune`."""
        return self.experiment.finetune

    def load(self) -> LanguageModel:
        """The base model, ready to be trained."""
        train, near = read_split(self.dataset, "train"), self.experiment.data.near
        spec = ModelSpec.of(self.conf, train, self.experiment.seed, near)
        return LanguageModel.of(spec, settings=self.settings)


def lora_config(conf: Finetune) -> LoraConfig:
    """The conf's `lora`.

    Raises:
        UserError: peft refuses it.
    """
    try:
        return LoraConfig(task_type="CAUSAL_LM", **conf.lora)
    except (TypeError, ValueError) as error:
        raise UserError(f"finetune.lora: {error}") from error


def sft_config(conf: Finetune, settings: Settings, seed: int, n_items: int, work: Path) -> SFTConfig:
    """The conf's `sft` with what the machine and the stage decide: folders, seeds, the steps between checkpoints.

    Raises:
        UserError: trl refuses it.
    """
    ours = {"output_dir": str(work), "seed": seed, "data_seed": seed, "report_to": "none", "save_strategy": "steps"}
    # Of a mixture of experts too, only prices are learned: how evenly its experts are used is counted over texts.
    ours["router_aux_loss_coef"] = 0.0
    # The other processes wait while the first one scores a checkpoint, however long that takes.
    several = {"ddp_timeout": 7 * 24 * 3600, "ddp_find_unused_parameters": False}
    quiet = {"disable_tqdm": True, "logging_steps": 5, "train_sampling_strategy": "group_by_length"}
    lengths = {"max_length": None, "completion_only_loss": True}  # prompts are cut where they are made
    try:
        config = SFTConfig(**{**quiet, **several, **lengths, **settings.sft, **ours})
    except (TypeError, ValueError) as error:
        raise UserError(f"finetune.sft: {error}") from error
    total, _ = steps_and_epochs(vars(config), n_items, conf.processes)
    if total < 1:
        raise UserError(
            f"finetune.sft.num_train_epochs: got {config.num_train_epochs:g}, and so no step is taken. Expected more "
            "than 0, or max_steps of 1 or more."
        )
    if not config.learning_rate > 0:
        raise UserError(f"finetune.sft.learning_rate: got {config.learning_rate:g}. Expected more than 0.")
    config._n_gpu = min(config.n_gpu, 1)  # it counts all that are visible, and the trainer would share a batch out
    config.save_steps = max(1, math.ceil(total / conf.checkpoints))
    return config

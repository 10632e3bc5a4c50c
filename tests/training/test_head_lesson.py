"""A price head is trained with the adapter: by the same optimizer, on batches of any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tasks.config.loading import load
from tasks.data.items import Item
from tasks.data.splits import Dataset
from tasks.models.language.hardware import Hardware, settings
from tasks.models.language.model import LanguageModel, ModelSpec
from tasks.training.checkpoints import Interruption
from tasks.training.plan import TrainingPlan, lora_config, sft_config
from tasks.training.trainer import PriceTrainer, make_trainer


def trainer_of_a_head(work: Path, overrides: Sequence[str] = ()) -> PriceTrainer:
    """The trainer of a head that is told nothing, over two items."""
    experiment = load("conf/smoke.yaml", ["finetune.answer.by=head", "finetune.prompt.opinions=[]", *overrides])
    conf, items = experiment.finetune, [Item(str(price), "a lamp", "of steel", price=float(price)) for price in (5, 80)]
    on = settings(Hardware("cpu"), None, conf.sft, "float32")
    arguments = sft_config(conf, on, seed=1, n_items=2, work=work)
    plan = TrainingPlan(experiment, Dataset("", "", "", {}), on, items, arguments, lora_config(conf))
    language = LanguageModel.of(ModelSpec.of(conf, items), settings=on)
    return make_trainer(plan, language, lambda _: None, Interruption())


def test_no_optimizer_is_given_a_parameter_without_numbers(tmp_path: Path) -> None:
    """A head that is told nothing has one; the optimizer that is the default on a GPU fails on it."""
    trainer = trainer_of_a_head(tmp_path)
    given = [parameter for group in trainer.create_optimizer().param_groups for parameter in group["params"]]
    assert not trainer.lesson.head.numbers.numel()
    assert all(parameter.numel() for parameter in given)
    assert any(parameter is trainer.lesson.head.state.weight for parameter in given)


def test_two_batches_of_one_step_teach_a_head_what_one_of_both_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the base model's class says that its loss counts no items, as that of Gemma 3n does."""
    from transformers import LlamaForCausalLM

    found = []
    for accepts, batch in ((True, 2), (True, 1), (False, 1)):
        monkeypatch.setattr(LlamaForCausalLM, "accepts_loss_kwargs", accepts, raising=False)
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 2 // batch, "logging_steps": 1}
        plain = ["finetune.sft.optim=sgd", "finetune.sft.lr_scheduler_type=constant", "finetune.sft.max_grad_norm=0"]
        words = [*plain, "finetune.sft.max_steps=1", *(f"finetune.sft.{key}={value}" for key, value in sizes.items())]
        trainer = trainer_of_a_head(tmp_path, words)
        trainer.train()
        loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
        found.append((loss, trainer.lesson.head.state.weight.detach().numpy().copy()))
    (loss, weights), *others = found
    assert np.abs(weights).max() > 0  # it begins with zeros
    for again, moved in others:
        assert again == pytest.approx(loss, rel=1e-4)
        np.testing.assert_allclose(moved, weights, rtol=1e-3, atol=1e-3 * np.abs(weights).max())

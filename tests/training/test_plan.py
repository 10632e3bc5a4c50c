"""What a training is made of is worked out once, for the machine it runs on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.config.loading import load
from tasks.curation import curate
from tasks.models.language.hardware import Hardware, settings
from tasks.paths import PROJECT
from tasks.training.plan import TrainingPlan, sft_config

ALONE = """
import sys
from pathlib import Path
import torch
from tasks.config.experiment import Finetune
from tasks.models.language.hardware import Hardware, settings
from tasks.training.plan import sft_config
torch.cuda.is_available, torch.cuda.device_count, torch.cuda.set_device = lambda: True, lambda: 2, lambda _: None
torch.cuda.is_bf16_supported = lambda *_, **__: True
hardware = Hardware("cuda", bf16=True, bitsandbytes=False, count=2)
config = sft_config(Finetune(), settings(hardware, None, {"per_device_train_batch_size": 4}), 1, 64, Path(sys.argv[1]))
print(config.device, config.n_gpu, config.train_batch_size, config.parallel_mode.name)
"""


def test_one_process_trains_on_one_gpu_of_several(tmp_path: Path) -> None:
    """transformers counts all that are visible and would share each batch out, which TRL refuses."""
    command = [sys.executable, "-W", "ignore", "-c", ALONE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cuda:0", "1", "4", "NOT_PARALLEL"]


def test_the_plan_of_a_training_holds_what_its_conf_asks_for(tmp_path: Path, at: pytest.FixtureRequest) -> None:
    """Its items, its checkpoints, and what the machine decides."""
    experiment = load("conf/smoke.yaml", at(tmp_path))
    conf = experiment.finetune
    resolved = settings(Hardware("cpu"), conf.quantization, conf.sft, conf.dtype)
    plan = TrainingPlan.of(experiment, curate(experiment), resolved, tmp_path / "work")
    assert len(plan.items) == conf.train_items == 32
    assert (plan.arguments.save_steps, plan.arguments.seed, plan.arguments.use_cpu) == (1, experiment.seed, True)
    assert (plan.lora.r, plan.arguments.output_dir) == (4, str(tmp_path / "work"))


@pytest.mark.parametrize(
    ("items", "checkpoints", "apart"),
    [(640, 4, 20), (80, 4, 3), (48, 5, 2), (8, 3, 1)],
    ids=["default", "10", "6", "1"],
)
def test_checkpoints_lie_as_far_apart_as_it_takes_for_no_more_than_asked_for(
    items: int, checkpoints: int, apart: int, tmp_path: Path
) -> None:
    """As docs/finetuning.md says, of steps of eight items each."""
    conf = load("conf/laptop.yaml", [f"finetune.checkpoints={checkpoints}"]).finetune
    resolved = settings(Hardware("cpu"), conf.quantization, conf.sft, conf.dtype)
    assert sft_config(conf, resolved, 1, items, tmp_path).save_steps == apart

"""Several processes train what one would, and end as one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tasks import finetuning
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.curation import curate
from tasks.tracking.runs import StageRun
from tasks.tracking.store import connect, experiment_id, model_folder

ONE = [
    "finetune.sft.per_device_train_batch_size=8",
    "finetune.dtype=float32",
    "finetune.sft.logging_steps=1",
    "finetune.checkpoints=2",
]
TWO = [*ONE[1:], "finetune.sft.per_device_train_batch_size=4", "finetune.processes=2"]


def trained(experiment: Experiment) -> tuple[list[tuple[int, float]], dict[int, dict[str, np.ndarray]]]:
    """The loss after each step, and the adapter of each checkpoint."""
    finetuning.finetune(experiment, curate(experiment))
    client = connect(experiment)
    (run,) = client.search_runs([experiment_id(experiment)], "tags.`pricewright.stage` = 'finetune'")
    losses = sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, "train_loss"))
    models = StageRun(client, run, "finetune", done=True).candidates()
    files = {m.step: model_folder(client, m.model_id) / "adapter" / "adapter_model.safetensors" for m in models}
    assert len(files) == len(models)
    return sorted(set(losses)), {step: load_file(file) for step, file in files.items()}


def test_two_processes_reach_what_one_does_with_the_same_batch(tmp_path: Path, at: Callable) -> None:
    """The same loss at every step and the same adapters, to rounding; each checkpoint is logged once. A second process
    adds up half of the gradients, so the last digits differ."""
    loss, alone = trained(load("conf/smoke.yaml", [*at(tmp_path / "one"), *ONE]))
    losses, together = trained(load("conf/smoke.yaml", [*at(tmp_path / "two"), *TWO]))
    assert [step for step, _ in loss] == [step for step, _ in losses] == [1, 2, 3, 4]
    np.testing.assert_allclose([value for _, value in losses], [value for _, value in loss], rtol=1e-5)
    assert sorted(alone) == sorted(together) == [2, 4]
    for step, weights in alone.items():
        for name, values in weights.items():
            np.testing.assert_allclose(together[step][name], values, atol=2e-5, err_msg=f"step {step}, {name}")
    assert pytest.approx(0, abs=1e-9) != np.abs(alone[4][name] - alone[2][name]).max()

"""Fine-tuning learns the price and nothing else, and loses nothing when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tasks import finetuning
from tasks.config import PROJECT, Experiment, load
from tasks.curation import curate
from tasks.errors import UserError
from tasks.store import connect, experiment_id, model_folder
from tasks.tracking import STEP, StageRun

# Twelve steps, four checkpoints, and dropout, so that the random state matters.
LONGER = ["finetune.sft.num_train_epochs=3", "finetune.lora.lora_dropout=0.2", "finetune.train_items=32"]
CHILD = """
import sys
from tasks.config import load
from tasks.curation import curate
from tasks.finetuning import finetune
experiment = load("conf/smoke.yaml", sys.argv[1:])
print([c.model_id for c in finetune(experiment, curate(experiment))])
"""


def adapters(experiment: Experiment) -> dict[int, dict[str, np.ndarray]]:
    """The adapter weights of every checkpoint, by step."""
    client = connect(experiment)
    runs = client.search_runs([experiment_id(experiment)], "tags.`pricewright.stage` = 'finetune'")
    assert len(runs) == 1 and runs[0].info.status == "FINISHED"
    models = StageRun(client, runs[0], "finetune", done=True).candidates()
    return {
        model.step: load_file(model_folder(client, model.model_id) / "adapter" / "adapter_model.safetensors")
        for model in models
    }


def fit_seconds(experiment: Experiment) -> list[float]:
    """The seconds of training that each checkpoint took, by step."""
    client = connect(experiment)
    models = client.search_logged_models([experiment_id(experiment)], "tags.`pricewright.kind` = 'finetuned'")
    return [float(model.params["fit_seconds"]) for model in sorted(models, key=lambda model: int(model.tags[STEP]))]


def child(overrides: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, *overrides]
    return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_killed_and_resumed_equals_never_killed(tmp_path: Path, at: Callable) -> None:
    """SIGKILL after the first checkpoint, then the same command again: every checkpoint's weights are the same as those
    of a training that was left alone, and each is there once."""
    undisturbed = load("conf/smoke.yaml", [*at(tmp_path / "a"), *LONGER])
    overrides = [*at(tmp_path / "b"), *LONGER]
    killed = load("conf/smoke.yaml", overrides)
    finetuning.finetune(undisturbed, curate(undisturbed), "again")
    others = set((PROJECT / "mlruns" / "work").glob("*"))
    process = child(overrides)
    work = finished_checkpoint(process, others)
    os.killpg(process.pid, signal.SIGKILL)  # with the Prefect server it started, as when a machine goes down
    process.wait(30)
    assert work.is_dir()
    process = child(overrides)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    whole, resumed = adapters(undisturbed), adapters(killed)
    assert sorted(whole) == sorted(resumed) == [3, 6, 9, 12]
    for step, weights in whole.items():
        for name, values in weights.items():
            assert values.dtype == np.float32  # TRL would make them bfloat16, which loses small steps
            np.testing.assert_array_equal(values, resumed[step][name], err_msg=f"step {step}, {name}")
    assert not work.exists()
    seconds = fit_seconds(killed)
    assert seconds == sorted(seconds) and min(seconds) > 0  # the time before the kill is not forgotten


def finished_checkpoint(process: subprocess.Popen, others: set[Path]) -> Path:
    """The work folder of a process, as soon as it holds a whole checkpoint."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        for whole in (PROJECT / "mlruns" / "work").glob("*/checkpoint-*/whole.json"):
            if whole.parent.parent not in others:
                return whole.parent.parent
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint: {process.poll()}")


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path) -> None:
    """The one before it is resumed from; none is made up where none is whole."""
    from tasks.training import last_whole_checkpoint, mark_whole

    for step in (5, 10, 15):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "adapter.bin").write_bytes(bytes(100))
        if step < 15:
            mark_whole(folder)
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-10"
    mark_whole(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-10" / "adapter.bin").write_bytes(bytes(99))
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-5"
    (tmp_path / "checkpoint-5" / "whole.json").write_text("{")
    assert last_whole_checkpoint(tmp_path) is None
    assert last_whole_checkpoint(tmp_path / "nowhere") is None


def test_labels_that_are_not_the_price_are_refused() -> None:
    """What the loss is taken on is decoded before the first step: masks have been wrong after upgrades."""
    from types import SimpleNamespace

    from tasks.basemodel import TINY, load_tokenizer
    from tasks.training import check_labels

    tokenizer = load_tokenizer(TINY)
    good = tokenizer("Price is $12.00")["input_ids"]
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=64))
    masked = [-100] * (len(good) - 5) + good[-5:]

    def trainer(labels: list[int], ids: list[int] = good) -> SimpleNamespace:
        examples = [{"input_ids": ids, "labels": labels}]
        return SimpleNamespace(processing_class=tokenizer, model=model, train_dataset=examples)

    check_labels(trainer(masked), ["12.00"])
    with pytest.raises(UserError, match=r"say 'Price is \$12\.00', but its price is '12\.00'"):
        check_labels(trainer(good), ["12.00"])
    with pytest.raises(UserError, match="context of 64"):
        check_labels(trainer(masked, good * 10), ["12.00"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.sft.learning_rat=1", "finetune.sft.learning_rat: there is no such key. Did you mean learning_rate?"),
        ("finetune.lora.rank=8", "finetune.lora.rank"),
        ("finetune.quantization.load_in_4bits=true", "Did you mean load_in_4bit?"),
        ("finetune.sft.output_dir=x", "not for the conf"),
        ("finetune.answer.estimate=mode", "Expected one of"),
    ],
)
def test_upstream_keys_are_checked_before_anything_runs(override: str, message: str) -> None:
    """A key that the library does not have, or that the stage sets itself, is refused by name."""
    with pytest.raises(UserError) as caught:
        finetuning.check(load("conf/smoke.yaml", [override]))
    assert message in str(caught.value)


def test_upstream_values_are_refused_in_upstream_words(experiment: Experiment) -> None:
    """A value that SFTConfig will not have is a message about the conf, not a traceback."""
    bad = experiment.model_copy(
        update={"finetune": experiment.finetune.model_copy(update={"sft": {"optim": "no-such-optimizer"}})}
    )
    with pytest.raises(UserError, match=r"finetune\.sft"):
        finetuning.finetune(bad, curate(bad))


def test_training_goes_on_after_a_checkpoint_is_scored_in_4_bits() -> None:
    """On CPUs that pack 4-bit weights for inference, a scored model would lose its gradients without a word."""
    import torch

    from tasks.basemodel import TINY, load_model

    conf = load("conf/smoke.yaml").finetune
    model = load_model(TINY, conf.quantization)
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

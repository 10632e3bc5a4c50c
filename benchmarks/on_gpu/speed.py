"""How fast Llama 3.1 8B is fine-tuned and asked, and what memory it takes: ours and plain TRL at equal settings.

Settings of conf/amazon.yaml, whose prompts have some 180 tokens. A setup that does not fit is a row too.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluation_speed import limit
from benchmarks.finetune_speed import OURS, PLAIN, make_trainer
from benchmarks.on_gpu.arithmetic import operations
from benchmarks.on_gpu.llama import NAMES, config_of, llama_like_tokenizer, random_llama
from benchmarks.on_gpu.results import Task
from benchmarks.on_gpu.timing import forget_peak, peak, profile, run_steps, seconds_of
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.data.items import Item
from tasks.models.language.hardware import Hardware, settings
from tasks.models.language.model import LanguageModel, ModelSpec
from tasks.training.memory import estimate, out_of_memory

CONF = "conf/amazon.yaml"
WARM, SCORED = 3, 512  # steps that do not count, since they allocate; items
BATCH_TOKENS = (32_768, 8_192)


@dataclass(frozen=True)
class Setup:
    """One way to train."""

    way: str
    bits: int  # 4: QLoRA; 16: LoRA on weights in bfloat16
    batch: int
    checkpointing: bool  # whether activations are computed again in the backward pass


SETUPS = (  # in the order of their worth
    Setup(OURS, 4, 16, False),
    Setup(OURS, 16, 16, False),
    Setup(PLAIN, 4, 16, False),
    Setup(PLAIN, 16, 16, False),
    Setup(OURS, 4, 16, True),  # as conf/amazon.yaml has it
    Setup(OURS, 16, 32, False),
    Setup(OURS, 4, 32, False),
    Setup(PLAIN, 4, 16, True),
    Setup(OURS, 16, 16, True),
    Setup(OURS, 16, 64, True),
    Setup(OURS, 4, 64, True),
)
SMALL = tuple(dataclasses.replace(setup, batch=setup.batch // 8) for setup in SETUPS[:6])


def measure(task: Task) -> None:
    """Train in every setup, each on a model of its own; score with the first of each number of bits."""
    steps, setups = (WARM + 1, SMALL) if task.dry else (WARM + 7, SETUPS)
    items = task.items(steps * max(setup.batch for setup in setups))
    config, tokenizer, scored = config_of(task.dry), llama_like_tokenizer(task.dry), set()
    for setup in setups:
        experiment = experiment_of(setup, task.dry)
        conf = experiment.finetune
        on = settings(Hardware.here(conf.device), conf.quantization, conf.sft, conf.dtype)
        forget_peak()
        model = random_llama(config, on)
        if not scored:
            task.results.keep(product_rate=limit(model, times=4 if task.dry else 50))
        try:
            took, longest = trained(setup, experiment, items, steps, (model, tokenizer))
            expected = estimate(conf, config, on, longest)
            needed = expected.weights + expected.adapter + expected.activations
            task.results.add("setups", **asdict(setup), **took, estimated=needed)
            if setup.way == OURS and setup.bits not in scored:
                for batch_tokens in BATCH_TOKENS:
                    answer = conf.answer.model_copy(update={"batch_tokens": batch_tokens, "temperature": 1.0})
                    asking = conf.model_copy(update={"answer": answer})
                    expected = estimate(asking, config, on, longest)
                    rate = answered(LanguageModel(ModelSpec.of(asking), model.eval(), tokenizer), items, task.dry)
                    needed = expected.weights + expected.scoring
                    task.results.add("scoring", bits=setup.bits, batch_tokens=batch_tokens, **rate, estimated=needed)
                scored.add(setup.bits)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            task.results.add("setups", **asdict(setup), failed="out of memory", **peak())
        del model
    for bits in sorted(scored):
        setup = next(one for one in setups if one.way == OURS and one.bits == bits)
        task.results.keep(**{f"profile_{bits}": profiled(setup, items, config, tokenizer, task.dry)})


def experiment_of(setup: Setup, dry: bool) -> Experiment:
    """The conf of a setup."""
    sft = f"finetune.sft.per_device_train_batch_size={setup.batch}"
    recompute = f"finetune.sft.gradient_checkpointing={str(setup.checkpointing).lower()}"
    quantization = [] if setup.bits == 4 else ["finetune.quantization=null"]
    return load(CONF, [f"finetune.base={NAMES[dry]}", "finetune.dtype=bfloat16", sft, recompute, *quantization])


def trained(
    setup: Setup, experiment: Experiment, items: list[Item], steps: int, base: tuple[Any, Any]
) -> tuple[dict[str, Any], int]:
    """What some steps took, of a base model with its tokenizer: medians over those after the first ones. And how many
    tokens the longest row of any batch had."""
    conf = experiment.finetune
    attention = settings(Hardware.here(conf.device), None, {}, conf.dtype).attention if setup.way == OURS else "sdpa"
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(setup.way, experiment, items, steps, Path(folder), base)
        forget_peak()
        taken = run_steps(trainer, attention)
    seconds = np.array([step.seconds for step in taken])
    tokens = np.array([step.tokens for step in taken])
    config = base[0].config.get_text_config()
    needed = np.array([operations(config, conf.lora, step.rows, step.tokens, step.learned) for step in taken])
    took = {
        "attention": attention,
        "liger": bool(trainer.args.use_liger_kernel),
        "optimizer": type(trainer.optimizer.optimizer).__name__,
        "tokens_an_item": float(tokens.sum() / sum(step.rows for step in taken)),
        "seconds_a_step": float(np.median(seconds[WARM:])),
        "tokens_a_second": float(np.median((tokens / seconds)[WARM:])),
        "operations_a_second": float(np.median((needed / seconds)[WARM:])),
        "losses": [taken[0].loss, taken[-1].loss],
        **peak(),
    }
    return took, max(step.places // step.rows for step in taken)


def answered(language: LanguageModel, items: list[Item], dry: bool) -> dict[str, Any]:
    """How fast a tuned model prices items, each with the whole distribution."""
    scored = items[: 8 if dry else SCORED]
    language.predict(scored[:16])
    forget_peak()
    seconds = seconds_of(lambda: language.predict(scored))
    return {"nodes": language.trie.nodes, "items_a_second": len(scored) / seconds, **peak()}


def profiled(setup: Setup, items: list[Item], config: Any, tokenizer: Any, dry: bool) -> list[dict[str, Any]]:
    """Where the time of a step goes."""
    experiment = experiment_of(setup, dry)
    conf = experiment.finetune
    on = settings(Hardware.here(conf.device), conf.quantization, conf.sft, conf.dtype)
    forget_peak()
    with tempfile.TemporaryDirectory() as folder:
        model = random_llama(config, on)
        return profile(make_trainer(OURS, experiment, items, WARM, Path(folder), (model, tokenizer)))

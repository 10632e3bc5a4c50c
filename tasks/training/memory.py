"""How much memory and time a training takes, from the model's config alone: no weights are loaded.

Counted are the weights in their bits, the adapter with its gradient and the optimizer's states, what the backward pass
keeps of a batch, the logits of the completion, and what scoring a checkpoint takes instead. The time is the arithmetic
of a LoRA step at the machine's measured rate of matrix multiplication, so it is a lower bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tasks.config.experiment import Finetune
from tasks.data.items import Item
from tasks.errors import UserError
from tasks.models.language import base_model
from tasks.models.language.hardware import GIB, Settings, free_memory
from tasks.models.language.price_distribution import LOGITS_BYTES
from tasks.models.language.prompts import completion, in_words, longest_told, render, token_counts
from tasks.models.language.suitability import check_context, longest_prompt
from tasks.progress import clock, say

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

LOGITS = 2 * LOGITS_BYTES  # at most, in scoring: they and a copy of them
COMPLETION = 6  # tokens of a price
COLUMNS = 2 * COMPLETION  # in which they stand in a batch of like lengths: measured on a GPU, docs/benchmarks.md
HEAD = "lm_head"  # the layer that writes words, which TRL multiplies by itself, and so without an adapter
PROBE_SECONDS = 0.3
# On a CPU freed blocks stay in glibc's heap, cut into pieces that the next layer's do not fit into: measured in
# docs/finetuning.md, with recomputed activations as much as all of them would take, without 1.7 times that.
HEAP = 1.7


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a training takes, by part, and its arithmetic."""

    weights: int
    adapter: int  # with its gradient and the states of the optimizer
    activations: int  # of one batch, logits included
    scoring: int
    operations: float  # floating-point operations of a token's share in a step
    parts: dict[str, Any] = field(default_factory=dict)  # what the conf says about the size, for the remedy

    @property
    def total(self) -> int:
        """Bytes at the worst moment: a batch in training, or a checkpoint that is scored."""
        return self.weights + self.adapter + max(self.activations, self.scoring)

    def __str__(self) -> str:
        return (
            f"{_gib(self.total)}: weights {_gib(self.weights)}, adapter and optimizer {_gib(self.adapter)}, a batch in "
            f"training {_gib(self.activations)} or scoring {_gib(self.scoring)}"
        )

    def remedies(self) -> str:
        """What to change so that it takes less, the most effective first."""
        conf = self.parts
        ways = []
        if self.scoring > self.activations:
            ways.append(f"finetune.answer.batch_tokens (now {conf['batch_tokens']}) lower")
        if self.activations >= self.scoring or self.activations > self.weights:
            if not conf["checkpointing"]:
                ways.append("finetune.sft.gradient_checkpointing=true")
            if conf["batch"] > 1:
                half = conf["batch"] // 2
                ways.append(
                    f"finetune.sft.per_device_train_batch_size={half} with gradient_accumulation_steps="
                    f"{conf['accumulation'] * conf['batch'] // half}"
                )
            ways.append(f"finetune.prompt.text_tokens (now {conf['text_tokens']}) lower")
        if not conf["quantized"]:
            ways.append("finetune.quantization.load_in_4bit=true")
        if self.adapter > self.weights / 4:
            ways.append("finetune.lora.r lower")
        ways.append("a smaller finetune.base")
        return "; ".join(ways)


def estimate(conf: Finetune, config: PreTrainedConfig, settings: Settings, longest: int) -> MemoryEstimate:
    """What training takes where the longest prompt with its price has so many tokens."""
    model = _skeleton(config)
    head, compute = model.get_output_embeddings(), 2 if settings.dtype == "bfloat16" else 4
    linear = {name: module for name, module in model.named_modules() if _is_linear(module) and module is not head}
    matrices = sum(module.weight.numel() for module in linear.values())
    everything = sum(parameter.numel() for parameter in model.parameters())
    weights = compute * (everything - matrices) + _quantized_bytes(settings.quantization, compute) * matrices
    ranks, trained = _adapter(model, conf, linear)
    text = config.get_text_config()
    sft, dropout = settings.sft, float(conf.lora.get("lora_dropout") or 0)
    batch = int(sft.get("per_device_train_batch_size", 8))
    tokens = batch * longest
    hidden, inner, layers = text.hidden_size, getattr(text, "intermediate_size", 4 * text.hidden_size), _layers(text)
    # What autograd keeps of a token in one layer: the inputs of both norms and what they become, queries, keys, values
    # and what attention makes of them; the gate, its activation, the other half and their product; a LoRA input that
    # went through dropout once more, and its r numbers behind A.
    kept = layers * (8 * hidden + 4 * inner) + sum(
        rank + (module.in_features if dropout else 0) for module, rank in ranks.values()
    )
    if settings.attention == "eager":  # each head's weights over the prompt, in float32 and as they are multiplied
        kept += layers * text.num_attention_heads * longest * (4 / compute + 1)
    checkpointing = bool(sft.get("activation_checkpointing", sft.get("gradient_checkpointing", True)))
    if settings.device == "cpu":
        kept *= 1 if checkpointing else HEAP
    elif checkpointing:  # the input of every layer, and one layer in full
        kept = layers * hidden + kept / layers
    largest = max((module.weight.numel() for module in linear.values()), default=0)
    alike = sft.get("train_sampling_strategy", "group_by_length") == "group_by_length"
    # On a CPU the heap's share was measured with columns of its own for each row.
    columns = COLUMNS if alike and settings.device != "cpu" else COMPLETION * batch
    logits = 3 * 4 * batch * min(longest, columns) * text.vocab_size
    scored = conf.answer.batch_tokens
    cache = 2 * layers * _cached(text) * compute * scored
    quantized = settings.quantization is not None
    return MemoryEstimate(
        weights=int(weights),
        adapter=int(trained * (8 + _state_bytes(str(sft.get("optim", "adamw_torch"))))),
        activations=int(kept * compute * tokens + logits + (largest * compute if quantized else 0)),
        scoring=int(cache + scored * (4 * hidden + 3 * inner) * compute + min(LOGITS, 8 * scored * text.vocab_size)),
        # Forward and back through frozen weights: two operations a weight each, and one more forward to recompute.
        operations=(6 if checkpointing else 4) * matrices + 6 * trained,
        parts={
            "batch": batch,
            "accumulation": int(sft.get("gradient_accumulation_steps", 1)),
            "checkpointing": checkpointing,
            "quantized": quantized,
            "text_tokens": conf.prompt.text_tokens,
            "batch_tokens": scored,
        },
    )


def _skeleton(config: PreTrainedConfig) -> nn.Module:
    """The model without its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def check_adapter(conf: Finetune, config: PreTrainedConfig) -> None:
    """Refuse an adapter that this model does not take.

    Raises:
        UserError: peft puts none on it, or TRL would not train it.
    """
    if HEAD in (conf.lora.get("target_modules") or ()):
        raise UserError(
            f"finetune.lora.target_modules: TRL trains no adapter on {HEAD}. Expected layers below it, or all-linear, "
            "which leaves it out."
        )
    _adapter(_skeleton(config), conf, {})


def _is_linear(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, nn.Linear)


def _adapter(model: nn.Module, conf: Finetune, linear: dict[str, Any]) -> tuple[dict[str, tuple[Any, int]], int]:
    """The layers that an adapter is put on, each with its rank, and how many numbers are trained.

    Raises:
        UserError: peft puts none on this model.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    try:
        with torch.device("meta"):
            tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **conf.lora))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UserError(f"finetune.lora: {conf.base} takes no such adapter. {error}") from error
    trained = {name: parameter for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    ranks = {}
    for name, module in linear.items():
        found = next((p for key, p in trained.items() if f".{name}.lora_A." in key), None)
        if found is not None:
            ranks[name] = module, found.shape[0]
    return ranks, sum(parameter.numel() for parameter in trained.values())


def _layers(text: PreTrainedConfig) -> int:
    return int(text.num_hidden_layers)


def _cached(text: PreTrainedConfig) -> int:
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def _quantized_bytes(quantization: dict[str, Any] | None, compute: int) -> float:
    """Bytes of one weight."""
    if not quantization:
        return compute
    if quantization.get("load_in_8bit"):
        return 1.0
    # A scale for each block of 64: 4 bytes, or 1 and a share of the second quantization's.
    return 0.5 + (1 / 64 if quantization.get("bnb_4bit_use_double_quant") else 4 / 64)


def _state_bytes(optimizer: str) -> int:
    if "8bit" in optimizer:
        return 2
    return 0 if optimizer in ("sgd", "adafactor") else 4 if optimizer.startswith(("lion", "paged_lion")) else 8


@dataclass(frozen=True)
class TrainingCost:
    """A training of so many tokens and steps, and what it takes."""

    estimate: MemoryEstimate
    items: int
    steps: int
    tokens: int  # in all steps together
    rate: float  # operations a second, of all processes together

    @classmethod
    def of(cls, conf: Finetune, settings: Settings, items: Sequence[Item]) -> Self:
        """What these items take, on this machine.

        Raises:
            UserError: a prompt does not fit into the model's context, or there is no such model.
        """
        tokenizer, config = base_model.load_tokenizer(conf.base), base_model.load_config(conf.base)
        words = in_words(conf.prompt, conf.answer)
        prompts = render(items, words, tokenizer, longest_told(words, len(items)))
        texts = (f"{prompt}{completion(item.known_price, words)}" for item, prompt in zip(items, prompts, strict=True))
        lengths = [count + 1 for count in token_counts(texts, tokenizer)]  # and the token that ends the answer
        check_context(lengths, config, conf)
        steps, epochs = steps_and_epochs(settings.sft, len(items), conf.processes)
        tokens = int(sum(lengths) * epochs)
        needed = estimate(conf, config, settings, max(lengths, default=1))
        return cls(needed, len(items), steps, tokens, _rate(conf, settings))

    @classmethod
    def foreseen(cls, conf: Finetune, settings: Settings) -> Self:
        """What a training takes as far as the conf says: the longest prompts, and a thousand items where it is silent.

        Raises:
            UserError: there is no such model.
        """
        tokenizer, config = base_model.load_tokenizer(conf.base), base_model.load_config(conf.base)
        longest = longest_prompt(in_words(conf.prompt, conf.answer), tokenizer)
        check_context([longest], config, conf)
        items = conf.train_items or 1000
        steps, epochs = steps_and_epochs(settings.sft, items, conf.processes)
        needed = estimate(conf, config, settings, longest)
        return cls(needed, items, steps, int(items * longest * epochs), _rate(conf, settings))

    @property
    def seconds(self) -> float:
        """The arithmetic of the training at the measured rate: it takes no less."""
        return self.tokens * self.estimate.operations / self.rate

    def __str__(self) -> str:
        return (
            f"{self.items:,} items in {self.steps:,} steps: about {_gib(self.estimate.total)} of memory, at least "
            f"{clock(self.seconds)} of arithmetic"
        )

    def check(self, device: str, conf: Finetune) -> None:
        """Say what the training takes, and refuse it where that is not there.

        Raises:
            UserError: it is not, and `finetune.oversize` is "refuse".
        """
        say(f"fine-tuning {self}")
        each = free_memory(device) // (conf.processes if device == "cpu" else 1)  # a GPU is a process's own
        if self.estimate.total > each and conf.oversize == "refuse":
            raise UserError(
                f"This training takes about {self.estimate}; {_gib(each)} are free on {device} for a process. Change "
                f"{self.estimate.remedies()}. Or set finetune.oversize=try."
            )

    def exceeded(self, device: str, said: str) -> str:
        """What to say when the memory did not suffice after all."""
        return (
            f"Out of memory on {device} ({said.partition(chr(10))[0] or 'no more was given'}). The training was "
            f"estimated at {self.estimate}; {_gib(free_memory(device))} are free now. "
            f"Change {self.estimate.remedies()}."
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no more memory, on a GPU or not."""
    import torch

    said = str(error).lower()
    allocation = "can't allocate memory" in said or "not enough memory" in said or "out of memory" in said
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and allocation)


def steps_and_epochs(sft: Mapping[str, Any], n_items: int, processes: int = 1) -> tuple[int, float]:
    """How many steps of the optimizer a training takes, and how often it sees each item.

    Raises:
        UserError: a batch of nothing.
    """
    batch = processes
    for name, default in (("per_device_train_batch_size", 8), ("gradient_accumulation_steps", 1)):
        size = sft.get(name, default)
        if not isinstance(size, int) or size < 1:
            raise UserError(f"finetune.sft.{name}: expected a whole number, 1 or more, found {size}.")
        batch *= size
    each = max(1, math.ceil(n_items / batch))
    epochs, most = float(sft.get("num_train_epochs", 3)), int(sft.get("max_steps", -1))
    return (most, most / each) if most > 0 else (math.ceil(each * epochs), epochs)


def _rate(conf: Finetune, settings: Settings) -> float:
    """Operations a second of all processes: each has a GPU of its own, and on a CPU they share it."""
    return multiplication_rate(settings.device, settings.dtype) * (conf.processes if settings.device != "cpu" else 1)


def multiplication_rate(device: str, dtype: str, hidden: int = 1024) -> float:
    """Floating-point operations a second in products of matrices of this size, measured for a moment."""
    import torch

    kind = getattr(torch, dtype)
    left, right = (torch.ones(size, hidden, device=device, dtype=kind) for size in (512, 4 * hidden))
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device, lambda: None)
    torch.matmul(left, right.T)
    wait()
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < PROBE_SECONDS:
        torch.matmul(left, right.T)
        wait()
        done += 1
    return done * 2 * 512 * hidden * 4 * hidden / passed


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.0f} MiB"

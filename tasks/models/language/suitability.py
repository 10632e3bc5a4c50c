"""Whether a base model can be tuned and asked here, by its files, config and tokenizer: no weights are loaded."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.config.experiment import Finetune, Prompt
from tasks.data.items import Item
from tasks.errors import UserError
from tasks.models.language import base_model
from tasks.models.language.estimators import GREEDY
from tasks.models.language.price_distribution import check_layers
from tasks.models.language.price_trie import build_trie
from tasks.models.language.prompts import completion, in_words, longest_told, render
from tasks.progress import say

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

EXPECTED = "Expected a causal language model such as Llama, Qwen, Gemma or SmolLM2"
FORWARD = ("position_ids", "past_key_values", "logits_to_keep")  # what the tree of prices is laid out with


def check_base(conf: Finetune) -> None:
    """Refuse a base model that would fail, or answer nonsense, later on; say what is done otherwise for it.

    Raises:
        UserError: there is no such model, it is of a kind that cannot be used, or it cannot write the prompt's prices.
    """
    base_model.quiet()
    _check_files(conf.base)
    config, tokenizer = base_model.load_config(conf.base), base_model.load_tokenizer(conf.base)
    kind = _class_of(conf.base, config)
    if tokenizer.eos_token is None:
        raise UserError(
            f"finetune.base: the tokenizer of {conf.base} has no token that ends a text (eos_token), with which an "
            "answer is learned to end. Set it in the model's tokenizer_config.json, or take another base model."
        )
    if tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id:
        raise UserError(
            f"finetune.base: the tokenizer of {conf.base} ends every text by {tokenizer.eos_token}, the question for a "
            "price too, behind which no price would come. Take that out of its tokenizer.json (post_processor), or "
            "take another base model."
        )
    if getattr(config, "quantization_config", None) and not conf.quantization:
        raise UserError(
            f"finetune.base: the weights of {conf.base} are stored in few bits, and finetune.quantization is null. "
            "Take the model that it was made from, or set finetune.quantization.load_in_4bit=true."
        )
    if not kind._supports_sdpa:
        say(f"{conf.base} has no kernel of torch's attention (sdpa): training and prediction use eager attention")
    longest = longest_prompt(in_words(conf.prompt, conf.answer), tokenizer)
    check_context([longest], config, conf)
    _check_prices(conf, config, tokenizer, longest)


def _check_prices(conf: Finetune, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, longest: int) -> None:
    """Refuse what would end the first scoring: the base model answers in words, whatever a fine-tuned one does."""
    prompt, answer = conf.prompt, conf.answer
    try:
        trie = build_trie(tokenizer, prompt.lowest, prompt.highest, prefix=prompt.prefix, suffix=prompt.suffix)
    except ValueError as error:
        raise UserError(f"finetune.prompt: {error}") from error
    if answer.estimate == GREEDY:  # which lays out no tree
        return
    try:
        check_layers(config.get_text_config(), trie, longest - trie.path.shape[1], trie.closing(answer.closing))
    except ValueError as error:
        raise UserError(
            f"finetune.base: {conf.base} ({config.model_type}): {error} {EXPECTED}, or finetune.answer.estimate=greedy."
        ) from error


def longest_prompt(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens that a prompt may have with its price."""
    sizes = "999.99 pounds, 999.99 x 999.99 x 999.99, pack of 999" if prompt.sizes else ""
    (around,) = render([Item.from_text(sizes)], prompt, tokenizer, longest_told(prompt, 1))
    return prompt.text_tokens + len(tokenizer(f"{around}{completion(math.inf, prompt)}")["input_ids"]) + 2


def check_context(lengths: Sequence[int], config: PreTrainedConfig, conf: Finetune) -> None:
    """Refuse prompts that are longer, with their price, than the model can read.

    Raises:
        UserError: there are such prompts.
    """
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    over = [length for length in lengths if context and length > context]
    if context and over:
        room = conf.prompt.text_tokens - (max(over) - context)
        remedy = f"finetune.prompt.text_tokens={room}" if room > 0 else "a shorter finetune.prompt.question"
        raise UserError(
            f"{len(over):,} of {len(lengths):,} prompts are longer than the context of {conf.base}, {context:,} "
            f"tokens; the longest has {max(over):,}. Set {remedy}, or take a base model with a longer context."
        )


def _check_files(base: str) -> None:
    folder = Path(base)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if "adapter_config.json" in names:
        noted = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        raise UserError(
            f"finetune.base: {base} holds an adapter, which is no model by itself. Expected the model that it was "
            f"trained on ({noted}), or the two merged."
        )
    if "config.json" not in names and any(name.endswith(".gguf") for name in names):
        raise UserError(
            f"finetune.base: {base} is a GGUF, which holds weights for llama.cpp. Expected the folder or hub id of the "
            "model it was made from, with safetensors."
        )


def _class_of(base: str, config: PreTrainedConfig) -> Any:
    """The class of the model behind a config."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    mapping, what = AutoModelForCausalLM._model_mapping, None
    if getattr(config, "is_encoder_decoder", False):
        what = "an encoder with a decoder, made to turn one text into another"
    elif type(config) not in mapping:
        what = "no causal language model"
    elif config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        what = "an encoder, which reads a text in both directions and continues none"
    kind: Any = mapping[type(config)] if what is None else None
    if kind is not None:
        missing = [name for name in FORWARD if name not in inspect.signature(kind.forward).parameters]
        if kind._is_stateful or missing:
            why = "a recurrent state" if kind._is_stateful else f"no {missing[0]}"
            what = f"a model with {why}: prices are laid out as a tree behind a cache of keys and values"
    if what is not None:
        raise UserError(f"finetune.base: {base} ({config.model_type}) is {what}. {EXPECTED}.")
    return kind

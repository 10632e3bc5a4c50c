"""The distribution over prices is exact, and its pruning keeps its promise."""

from __future__ import annotations

import functools
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.models.language import price_distribution as scoring
from tasks.models.language.price_distribution import price_distribution
from tasks.models.language.price_trie import build_trie

DIGITS, NUMBERS = (
    r"\d",
    r"\d{1,3}",
)  # one token for every digit (SmolLM2, Qwen), or for every number up to 999 (Llama 3)


@functools.cache
def tokenizer_of(number: str, merged: str = "", largest: int = 999):
    """A tokenizer of single characters and of `merged`, whose numbers are split as the expression `number` says."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    digits = 1 if number == DIGITS else 3
    numbers = [f"{n:0{width}}" for width in range(1, digits + 1) for n in range(min(10**width, largest + 1))]
    words = ["<unk>", "$", ".", " ", *"abcdefgh", *numbers, *filter(None, [merged])]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    pattern = "|".join([*map(re.escape, filter(None, [merged])), number, r"[^\d]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@functools.cache
def model_of(number: str, attention: str = "sdpa"):
    """A small random Llama with grouped keys, of weights so large that its distributions are far from even."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer_of(number)),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.25,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).eval()


@functools.cache
def trie_of(number: str, low: int = 0, high: int = 999):
    return build_trie(tokenizer_of(number), low, high)


def encode(number: str, *texts: str) -> list[list[int]]:
    return [tokenizer_of(number)(text, add_special_tokens=False)["input_ids"] for text in texts]


TEXTS = ("ab cab $", "$", "hgfe dcba hh ab cc dd ee $", "fa $")


def one_by_one(model, number: str, prompt: list[int], low: int, high: int, *, closed: bool = True) -> np.ndarray:
    """Probability of each number and the point behind it, scored as a text of its own: no tree, cache, mask or padding.

    Unless `closed`, numbers that no other one continues stand without the point.
    """
    import torch

    tokenizer = tokenizer_of(number)
    tokens = {n: tokenizer(str(n), add_special_tokens=False)["input_ids"] for n in range(low, high + 1)}
    stop = tokenizer.convert_tokens_to_ids(".")
    begun = {tuple(t[:i]) for t in tokens.values() for i in range(len(t))}
    texts = {n: [*t, stop] if closed or tuple(t) in begun else t for n, t in tokens.items()}
    scores = np.zeros(high - low + 1)
    for length in {len(t) for t in texts.values()}:
        alike = [n for n, t in texts.items() if len(t) == length]
        batch = torch.tensor([prompt + texts[n] for n in alike])
        with torch.inference_mode():
            logits = model(input_ids=batch, use_cache=False).logits[:, len(prompt) - 1 : -1].double().log_softmax(-1)
        given = logits.gather(2, batch[:, len(prompt) :, None]).sum(dim=(1, 2))
        scores[np.array(alike) - low] = given.exp().numpy()
    return scores


def assert_exact(model, number: str, low: int = 0, high: int = 999, texts: tuple[str, ...] = TEXTS) -> None:
    prompts = encode(number, *texts)
    probabilities, mass = price_distribution(model, trie_of(number, low, high), prompts)
    for row, prompt in enumerate(prompts):
        expected = one_by_one(model, number, prompt, low, high)
        assert mass[row] == pytest.approx(expected.sum(), abs=1e-6)
        np.testing.assert_allclose(probabilities[row] * mass[row], expected, rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("number", [DIGITS, NUMBERS])
@pytest.mark.parametrize(("low", "high"), [(0, 999), (5, 120), (120, 120), (90, 1234)])
def test_equals_one_by_one_scoring(number, low, high):
    """Prompts of any lengths in one batch get the probabilities that each number has on its own."""
    assert_exact(model_of(number), number, low, high)


@pytest.mark.parametrize(("number", "low"), [(DIGITS, 0), (NUMBERS, 8000)])
def test_four_digits_equal_one_by_one_scoring(number, low):
    """Ranges of four digits are as exact."""
    assert_exact(model_of(number), number, low, 9999, texts=TEXTS[:1])


@settings(max_examples=10)
@given(data=st.data(), number=st.sampled_from([DIGITS, NUMBERS]), text=st.text("abcdefgh ", max_size=12))
def test_any_range_equals_one_by_one_scoring(data, number, text):
    """Whatever the range, up to cents of a thousand dollars: a number has the probability it has by itself."""
    low = data.draw(st.integers(0, 99_000))
    high = data.draw(st.integers(low, min(low + 120, 99_999)))
    assert_exact(model_of(number), number, low, high, texts=(f"{text}$",))


@pytest.mark.parametrize("number", [DIGITS, NUMBERS])
def test_without_closing_the_longest_numbers_count_as_ended(number):
    """The cheaper event of before: "129" counts whatever follows it, so that the mass is too high."""
    model, (prompt,) = model_of(number), encode(number, TEXTS[0])
    probabilities, mass = price_distribution(model, trie_of(number), [prompt], closing=0)
    expected = one_by_one(model, number, prompt, 0, 999, closed=False)
    np.testing.assert_allclose(probabilities[0] * mass[0], expected, rtol=1e-4, atol=1e-10)
    assert mass[0] > price_distribution(model, trie_of(number), [prompt])[1][0]


@pytest.mark.parametrize("number", [DIGITS, NUMBERS])
def test_a_few_closed_numbers_stand_for_all(number):
    """The most probable ones are exact in proportion, at one node each; the others end as often as these on average."""
    model, prompts = model_of(number), encode(number, *TEXTS)
    whole, all_mass = price_distribution(model, trie_of(number), prompts)
    few, mass = price_distribution(model, trie_of(number), prompts, closing=8)
    for row in range(len(prompts)):
        longest = np.argsort(-price_distribution(model, trie_of(number), prompts, closing=0)[0][row][100:])[:6] + 100
        chosen = longest if number == DIGITS else longest[:0]
        np.testing.assert_allclose(few[row][chosen] * mass[row], whole[row][chosen] * all_mass[row], rtol=1e-4)
        assert mass[row] == pytest.approx(all_mass[row], rel=0.6)


def test_eager_attention_is_exact_too():
    """Eager attention adds the mask where sdpa takes it as an argument; both give the same answer."""
    assert_exact(model_of(DIGITS, "eager"), DIGITS)


def test_adapter_is_part_of_the_answer():
    """A PEFT-wrapped model answers with its adapter, exactly."""
    import copy

    from peft import LoraConfig, get_peft_model

    plain = model_of(DIGITS)
    tuned = get_peft_model(
        copy.deepcopy(plain), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ).eval()
    assert_exact(tuned, DIGITS)
    prompts, trie = encode(DIGITS, *TEXTS), trie_of(DIGITS)
    assert (
        np.abs(price_distribution(tuned, trie, prompts)[0] - price_distribution(plain, trie, prompts)[0]).max() > 1e-3
    )


def test_four_bit_weights_are_exact_too(tmp_path):
    """A 4-bit model answers as its own one-by-one scoring does."""
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model_of(DIGITS).save_pretrained(tmp_path)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantization, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False  # or the first forward rounds the weights to bfloat16
    assert_exact(model.eval(), DIGITS)


@pytest.mark.parametrize(("number", "nodes"), [(DIGITS, 100), (NUMBERS, 1)])
def test_runs_inner_nodes_only(number, nodes, monkeypatch):
    """The model sees the prompt and 99 prefixes where digits are tokens, and only the prompt where numbers are."""
    model, seen = model_of(number), []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **kw: seen.append(kw["input_ids"].shape[1]) or forward(**kw))
    (prompt,) = encode(number, TEXTS[0])
    price_distribution(model, trie_of(number), [prompt], closing=0)
    assert trie_of(number).nodes == nodes
    assert sum(seen) == len(prompt) + nodes - 1


@pytest.mark.parametrize("number", [DIGITS, NUMBERS])
@settings(max_examples=15)
@given(
    texts=st.lists(st.text("abcdefgh ", max_size=9), min_size=1, max_size=6),
    batch_tokens=st.integers(1, 800),
    data=st.data(),
)
def test_batches_and_order_do_not_matter(number, texts, batch_tokens, data):
    """An item's answer is its own, in whatever company and order it is asked for; rows sum to 1, masses are shares."""
    order = data.draw(st.permutations(range(len(texts))))
    prompts = encode(number, *(f"{text}$" for text in texts))
    model, trie, told = model_of(number), trie_of(number), []
    probabilities, mass = price_distribution(model, trie, prompts)
    shuffled = price_distribution(
        model, trie, [prompts[i] for i in order], batch_tokens=batch_tokens, progress=told.append
    )
    assert sum(told) == len(prompts)
    assert np.abs(shuffled[0] - probabilities[order]).max() < 1e-6
    assert np.abs(shuffled[1] - mass[order]).max() < 1e-6
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert ((mass > 0) & (mass <= 1 + 1e-6)).all()


def test_logits_stay_small(monkeypatch):
    """No forward pass returns more logits than the limit, and the answer is the same as without one."""
    model, trie, prompts, sizes = model_of(DIGITS), trie_of(DIGITS), encode(DIGITS, *TEXTS), []
    expected, _ = price_distribution(model, trie, prompts)
    limit = 4 * model.config.vocab_size * 30
    read = scoring._read
    monkeypatch.setattr(scoring, "LOGITS_BYTES", limit)
    monkeypatch.setattr(scoring, "_read", lambda *args: sizes.append(4 * args[-1].numel()) or read(*args))
    assert np.abs(price_distribution(model, trie, prompts)[0] - expected).max() < 1e-6
    assert max(sizes) <= limit
    assert len(sizes) > 5


@settings(max_examples=15)
@given(prune=st.floats(0, 0.9), high=st.sampled_from([120, 999, 1050]))
def test_pruning_keeps_its_promise(prune, high):
    """The total variation from the exact answer, and the excess of the mass, are at most `prune`."""
    prompts, trie = encode(DIGITS, *TEXTS), trie_of(DIGITS, 5, high)
    exact, mass = price_distribution(model_of(DIGITS), trie, prompts, closing=0)
    pruned, roughly = price_distribution(model_of(DIGITS), trie, prompts, prune=prune, closing=0)
    assert np.allclose(pruned.sum(axis=1), 1, atol=1e-12)
    assert (np.abs(pruned - exact).sum(axis=1) / 2 <= prune + 1e-6).all()
    assert (roughly >= mass - 1e-6).all()
    assert (roughly - mass <= prune * roughly + 1e-6).all()


def test_a_batch_that_is_split_answers_as_one_that_is_not(monkeypatch):
    """Items with few nodes to run go on apart from those with many; each keeps its own answer and place."""
    prompts, trie = encode(DIGITS, *(f"{text}{i % 7}$" for i, text in enumerate("abcdefgh" * 2))), trie_of(DIGITS)
    whole = price_distribution(model_of(DIGITS), trie, prompts, prune=0.2)
    splits, part = [], scoring._Walk.part
    monkeypatch.setattr(scoring, "SPLIT_NODES", 0)
    monkeypatch.setattr(scoring._Walk, "part", lambda walk, rows: splits.append(len(rows)) or part(walk, rows))
    apart = price_distribution(model_of(DIGITS), trie, prompts, prune=0.2)
    assert len(splits) > 2
    for one, other in zip(whole, apart, strict=True):
        assert np.abs(one - other).max() < 1e-6


def test_pruning_runs_fewer_nodes(monkeypatch):
    """More pruning means less work, and none at all skips nothing."""
    model, (prompt,), seen = model_of(DIGITS), encode(DIGITS, TEXTS[0]), []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **kw: seen.append(kw["input_ids"].shape[1]) or forward(**kw))
    work = []
    for prune in (0.0, 0.05, 0.3):
        seen.clear()
        price_distribution(model, trie_of(DIGITS), [prompt], prune=prune)
        work.append(sum(seen))
    assert work[0] > work[1] > work[2]


def test_training_mode_is_left_as_it_was(monkeypatch):
    """Dropout is off while answering, and every module is back in its own mode afterwards, failure or not."""
    import copy

    model = copy.deepcopy(model_of(DIGITS))
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    prompts, trie = encode(DIGITS, *TEXTS), trie_of(DIGITS)
    same, _ = price_distribution(model, trie, prompts)
    assert np.abs(same - price_distribution(model_of(DIGITS), trie, prompts)[0]).max() < 1e-6
    assert [module.training for module in model.modules()] == modes
    monkeypatch.setattr(scoring, "_score_batch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        price_distribution(model, trie, prompts)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("merged", ["$1", "7."])
def test_merged_tokens_are_refused(merged):
    """A tokenizer that merges a number with what is before or after it is refused, with the tokens that show it."""
    with pytest.raises(ValueError, match=r"apart: .+ becomes"):
        build_trie(tokenizer_of(DIGITS, merged))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 9, "high": 5}, "low <= high"),
        ({"low": -1}, "low <= high"),
        ({"suffix": ""}, "suffix"),
        ({"suffix": "5"}, "suffix"),
    ],
)
def test_impossible_ranges_and_suffixes_are_refused(arguments, message):
    """What cannot tell a number from a longer one, or is no range, is refused before any model runs."""
    with pytest.raises(ValueError, match=message):
        build_trie(tokenizer_of(DIGITS), **arguments)


def test_unknown_numbers_are_refused():
    """Numbers the tokenizer does not know would share one token, and one probability."""
    with pytest.raises(ValueError, match="same tokens"):
        build_trie(tokenizer_of(NUMBERS, largest=50))


def test_empty_prompts_and_shares_are_refused():
    """A prompt without tokens has no next token, and a share is below 1; no prompts at all is an empty answer."""
    model, trie = model_of(DIGITS), trie_of(DIGITS)
    with pytest.raises(ValueError, match="Prompt 1 has no tokens"):
        price_distribution(model, trie, [[1], []])
    with pytest.raises(ValueError, match="prune"):
        price_distribution(model, trie, [[1]], prune=1.0)
    assert price_distribution(model, trie, [])[0].shape == (0, 1000)


def test_attention_without_a_tree_mask_is_refused(monkeypatch):
    """Flash attention would ignore the tree; where numbers are single tokens there is no tree, and it will do."""
    for number in (DIGITS, NUMBERS):
        monkeypatch.setattr(model_of(number).config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(ValueError, match="attn_implementation='sdpa'"):
        price_distribution(model_of(DIGITS), trie_of(DIGITS), [[1]])
    scoring._check_model(model_of(NUMBERS), trie_of(NUMBERS), longest=10, closing=0)


def test_attention_windows_are_respected():
    """A model with an attention window is exact inside it, and refused beyond it, since the tree would see too far."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(
        vocab_size=len(tokenizer_of(DIGITS)), num_key_value_heads=2, initializer_range=0.25, sliding_window=30, **sizes
    )
    model = MistralForCausalLM(config).eval()
    assert_exact(model, DIGITS)
    with pytest.raises(ValueError, match="attention window of 30"):
        price_distribution(model, trie_of(DIGITS), [[1] * 29])


def test_importing_stays_light():
    """The module is imported where no model is run: it must not bring torch in."""
    code = (
        "import sys, tasks.models.language.price_distribution as _;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

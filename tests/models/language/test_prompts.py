"""One place says what a model is asked and how its words become a price."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from tasks.config.experiment import Answer, Prompt
from tasks.data.items import Item
from tasks.models.features import stated
from tasks.models.language import prompts
from tasks.models.language.base_model import TINY, load_tokenizer
from tasks.models.language.prompts import Told, beyond_range, completion, example, in_words, parse, render, token_counts


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("49.00", 49.0),
        (" 1,234.56 or so", 1234.56),
        ("It is about $20", 20.0),
        ("12.", 12.0),
        ("I cannot say", None),
        ("", None),
        ("$", None),
        (".5", 0.5),
        ("1.299,00 or so", 1299.0),
        ("49.00\n\nHow much does this cost?\n\nPrice is $12", 49.0),
        ("GPT-4 cannot say", None),
        ("9" * 400, None),
    ],
)
def test_whatever_comes_back_is_parsed_without_a_crash(text: str, price: float | None) -> None:
    """The number it goes on with, or a price in its words, or None."""
    assert parse(text) == price


@pytest.mark.parametrize(
    ("price", "expected"), [(12.49, "12.00"), (12.5, "12.00"), (13.5, "14.00"), (0.2, "0.00"), (5e6, "999.00")]
)
def test_the_answer_to_learn_is_the_nearest_whole_price_in_range(price: float, expected: str) -> None:
    """Whole dollars, held within what the model can answer."""
    assert completion(price, Prompt()) == expected


def test_a_prompt_holds_question_title_and_text_and_ends_before_the_price() -> None:
    """The shape of the recipe; without a question it starts with the title."""
    item = Item("1", "Kettle", "Boils water.")
    tokenizer = load_tokenizer(TINY)
    (asked,) = render([item], Prompt(), tokenizer)
    assert asked == "How much does this cost to the nearest dollar?\n\nKettle\nBoils water.\n\nPrice is $"
    similar = Told(np.array([[12.4, 2000.0]]))
    (told,) = render([item], Prompt(question="", comparables=2), tokenizer, similar)
    assert told == "Kettle\nBoils water.\n\nSimilar products cost 12, 999\n\nPrice is $"
    (untold,) = render([item], Prompt(question=""), tokenizer, similar)
    assert untold == "Kettle\nBoils water.\n\nPrice is $"
    (bare,) = render([item], Prompt(question=""), tokenizer)
    assert bare == "Kettle\nBoils water.\n\nPrice is $"
    assert render([], Prompt(), tokenizer) == []


def test_a_prompt_holds_all_that_it_is_asked_to_tell() -> None:
    """Sizes from beyond the cut, titles in one line of so many tokens, the middle half of the prices, opinions."""
    item = Item("1", "Kettle", "Boils water. Weighs 32 ounces, 12 x 10.5 x 3 inches, box of 4.")
    prompt = Prompt(question="", text_tokens=6, comparables=3, titles=8, spread=True, sizes=True, opinions=["network"])
    titles = [["Steel\nkettle of 2020", "Pan", "Steel\nkettle of 2020"]]
    told = Told(np.array([[30.0, 12.0, 20.4]]), titles, np.array([[25.0]]))
    (asked,) = render([item], prompt, load_tokenizer(TINY), told)
    assert asked == (
        "Kettle\n\nWeight 2 pounds, 12 x 10.5 x 3, pack of 4\n\n"
        "Similar products cost\n30: Steel ke\n12: Pan\n20: Steel ke\nHalf of them 12 to 30\n\n"
        "Other models say 25\n\nPrice is $"
    )
    assert stated(Item("2", "Kettle", "Boils water.")) == ""
    assert "TITLE" in example(prompt) and example(prompt).endswith(
        "Half of them 9 to 30\n\nOther models say 11, 14\n\nPrice is $"
    )


def test_a_head_is_told_prices_as_numbers_and_titles_in_words() -> None:
    """What does not stand in its prompt takes no tokens there."""
    told = Prompt(comparables=3, titles=8, spread=True, nearest="both", opinions=["network"])
    assert in_words(told, Answer(by="text")) == told
    assert in_words(told, Answer(by="head")) == Prompt(comparables=3, titles=8, nearest="both")
    assert in_words(Prompt(comparables=3, spread=True), Answer(by="head")) == Prompt()


@pytest.mark.parametrize("changed", [{"titles": 8}, {"spread": True}, {"nearest": "both"}])
def test_what_is_about_comparables_needs_some(changed: dict) -> None:
    """Otherwise nobody would notice that nothing is told."""
    with pytest.raises(ValidationError, match="comparables=8"):
        Prompt(**changed)


def test_a_long_text_is_cut_to_its_tokens_and_the_price_is_still_asked_for() -> None:
    """Cutting never reaches the end of the prompt; the tiny tokenizer has one token a byte."""
    item = Item("1", "Kettle", "x" * 500)
    (cut,) = render([item], Prompt(question="", text_tokens=20), load_tokenizer(TINY))
    assert cut == "Kettle\n" + "x" * 13 + "\n\nPrice is $"


def test_prices_beyond_what_a_model_can_answer_are_remarked() -> None:
    """A model that ends at 999 beside cars says so; a stray price, or another unit, is no reason."""
    above = "67% of the prices lie outside this range, up to 49,851.00 (finetune.prompt.highest, .unit)"
    assert str(beyond_range([500, 20_000, 49_851], Prompt())).endswith(above)
    below = "75% of the prices lie outside this range, down to 1.00 (finetune.prompt.lowest, .unit)"
    assert str(beyond_range([1, 2, 2, 50], Prompt(lowest=10))).endswith(below)
    both = "down to 1.00 (finetune.prompt.lowest, .unit) and up to 3,000,000.00 (finetune.prompt.highest, .unit)"
    said = str(beyond_range([1, 20, 3e6], Prompt(lowest=10, highest=2_000_000)))
    assert said.startswith("can only answer prices from 10 to 2,000,000: 67%") and said.endswith(both)
    assert beyond_range([*[500.0] * 200, 1200.0], Prompt()) is None
    assert beyond_range([500, 20_000, 49_851], Prompt(unit=100)) is None


@given(
    st.lists(st.text(st.sampled_from("ab1 \n\u00a0.-"), max_size=1200), min_size=1, max_size=5),
    st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_a_long_text_is_cut_where_it_is_cut_as_a_whole(texts: list[str], most: int) -> None:
    """Looking at the head of a text first changes no prompt: with words, without, and with blanks of any kind."""
    tokenizer = merging()
    items = [Item(str(row), "", text) for row, text in enumerate(texts)]
    for item, shown in zip(items, render(items, Prompt(question="", text_tokens=most), tokenizer), strict=True):
        body = item.text.strip()
        offsets = tokenizer(body, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        whole = body[: offsets[most - 1][1]].rstrip() if len(offsets) > most else body
        assert shown == f"{whole}\n\nPrice is $"


@functools.cache
def merging() -> PreTrainedTokenizerBase:
    """A tokenizer that merges pairs within words, as those of real models do."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["abab aab 11 1.1 ab-ab bba aaaa bbbb  ab\n\nab"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_prompts_are_tokenized_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, none is lost and no more than a chunk is held at once; a long text costs its head."""
    monkeypatch.setattr(prompts, "CHUNK", 3)
    tokenizer, seen = load_tokenizer(TINY), []

    def spied(texts: list[str], **options: bool) -> object:
        seen.append(sum(map(len, texts)))
        return tokenizer(texts, **options)

    items = [Item(str(row), f"pot {row}", "steel " * 5000) for row in range(10)]
    shown = render(items, Prompt(question="", text_tokens=20), spied)
    assert [text.partition("\n")[0] for text in shown] == [item.title for item in items]
    assert len(seen) == 4 and max(seen) <= 3 * prompts.ENOUGH * 20
    assert list(token_counts(shown, tokenizer)) == [len(ids) for ids in tokenizer(shown)["input_ids"]]

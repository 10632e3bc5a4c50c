"""One place says what a model is asked and how its words become a price."""

from __future__ import annotations

import pytest

from tasks.config.experiment import Prompt
from tasks.data.items import Item
from tasks.models.language.base_model import TINY, load_tokenizer
from tasks.models.language.prompts import completion, parse, render


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
    (told,) = render([item], Prompt(question=""), tokenizer, [[12.4, 2000]])
    assert told == "Kettle\nBoils water.\n\nSimilar products cost 12, 999\n\nPrice is $"
    (bare,) = render([item], Prompt(question=""), tokenizer)
    assert bare == "Kettle\nBoils water.\n\nPrice is $"
    assert render([], Prompt(), tokenizer) == []


def test_a_long_text_is_cut_to_its_tokens_and_the_price_is_still_asked_for() -> None:
    """Cutting never reaches the end of the prompt; the tiny tokenizer has one token a byte."""
    item = Item("1", "Kettle", "x" * 500)
    (cut,) = render([item], Prompt(question="", text_tokens=20), load_tokenizer(TINY))
    assert cut == "Kettle\n" + "x" * 13 + "\n\nPrice is $"

"""What a language model is asked and how its words become a price: one place for training and prediction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.config import Prompt
from tasks.errors import UserError
from tasks.items import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def render(items: Sequence[Item], prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The prompts of the items, each ending right before the price; title and text cut to `prompt.text_tokens`."""
    bodies = [f"{item.title}\n{item.text}".strip() for item in items]
    if not bodies:
        return []
    encoded = tokenizer(bodies, add_special_tokens=False, return_offsets_mapping=True)
    prompts = []
    for body, offsets in zip(bodies, encoded["offset_mapping"], strict=True):
        if len(offsets) > prompt.text_tokens:
            body = body[: offsets[prompt.text_tokens - 1][1]].rstrip()
        question = f"{prompt.question}\n\n" if prompt.question else ""
        prompts.append(f"{question}{body}\n\n{prompt.prefix}")
    return prompts


def completion(price: float, prompt: Prompt) -> str:
    """The answer to learn: the price in whole units, to the nearest, held within the range the model can answer."""
    whole = round(min(max(price / prompt.unit, prompt.lowest), prompt.highest))
    return f"{whole}{prompt.suffix}"


def check_prices(items: Sequence[Item], prompt: Prompt) -> None:
    """Refuse to learn from prices that the model cannot answer: cut to the range, they would teach it wrong ones.

    Raises:
        UserError: there are such prices, rounded to whole units.
    """
    outside = [item for item in items if not prompt.lowest <= round(item.price / prompt.unit) <= prompt.highest]
    if not outside:
        return
    worst = sorted(outside, key=lambda item: item.price, reverse=True)[:3]
    examples = ", ".join(f"${item.price:,.2f} ({item.id})" for item in worst)
    raise UserError(
        f"{len(outside):,} of {len(items):,} training prices are outside {prompt.lowest}..{prompt.highest} of "
        f"finetune.prompt, in units of ${prompt.unit:g}: {examples}. Set data.price_min and data.price_max within it, "
        "or finetune.prompt.lowest and .highest around them."
    )


def parse(text: str) -> float | None:
    """The first number in whatever a model wrote, in the unit it was asked for; None where there is none."""
    found = NUMBER.search(text)
    return float(found.group().replace(",", "")) if found else None

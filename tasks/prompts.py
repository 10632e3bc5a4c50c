"""What a language model is asked and how its words become a price: one place for training and prediction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.config import Prompt
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
    whole = min(max(round(price / prompt.unit), prompt.lowest), prompt.highest)
    return f"{whole}{prompt.suffix}"


def parse(text: str) -> float | None:
    """The first number in whatever a model wrote, in the unit it was asked for; None where there is none."""
    found = NUMBER.search(text)
    return float(found.group().replace(",", "")) if found else None

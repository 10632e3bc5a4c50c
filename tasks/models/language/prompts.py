"""What a language model is asked and how its words become a price: one place for training and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.config.experiment import Prompt
from tasks.data.items import Item
from tasks.data.prices import shown
from tasks.errors import UserError
from tasks.models.price_words import leading_price

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase


def render(
    items: Sequence[Item],
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    comparables: Sequence[Sequence[float]] | np.ndarray | None = None,
) -> list[str]:
    """The prompts of the items, each ending right before the price; title and text cut to `prompt.text_tokens`, and
    after them what similar ones cost: `comparables` [n, count] in US dollars."""
    bodies = [f"{item.title}\n{item.text}".strip() for item in items]
    if not bodies:
        return []
    encoded = tokenizer(bodies, add_special_tokens=False, return_offsets_mapping=True)
    prompts = []
    for row, (body, offsets) in enumerate(zip(bodies, encoded["offset_mapping"], strict=True)):
        if len(offsets) > prompt.text_tokens:
            body = body[: offsets[prompt.text_tokens - 1][1]].rstrip()
        question = f"{prompt.question}\n\n" if prompt.question else ""
        similar = "" if comparables is None else f"{similar_line(comparables[row], prompt)}\n\n"
        prompts.append(f"{question}{body}\n\n{similar}{prompt.prefix}")
    return prompts


def similar_line(prices: Sequence[float] | np.ndarray, prompt: Prompt) -> str:
    """What similar products cost, in words, the most similar first."""
    return f"{prompt.similar} {', '.join(str(_whole(price, prompt)) for price in prices) or '?'}"


def completion(price: float, prompt: Prompt) -> str:
    """The answer to learn: the price in whole units, to the nearest, held within the range the model can answer."""
    return f"{_whole(price, prompt)}{prompt.suffix}"


def _whole(price: float, prompt: Prompt) -> int:
    return round(min(max(price / prompt.unit, prompt.lowest), prompt.highest))


def check_prices(items: Sequence[Item], prompt: Prompt) -> None:
    """Refuse to learn from prices that the model cannot answer: cut to the range, they would teach it wrong ones.

    Raises:
        UserError: there are such prices, rounded to whole units.
    """
    outside = [item for item in items if not prompt.lowest <= round(item.price / prompt.unit) <= prompt.highest]
    if not outside:
        return
    worst = sorted(outside, key=lambda item: item.price, reverse=True)[:3]
    examples = ", ".join(f"${shown(item.price)} ({item.id})" for item in worst)
    raise UserError(
        f"{len(outside):,} of {len(items):,} training prices are outside {prompt.lowest}..{prompt.highest} of "
        f"finetune.prompt, in units of ${prompt.unit:g}: {examples}. Set data.price_min and data.price_max within it, "
        "or finetune.prompt.lowest and .highest around them."
    )


def beyond_range(prices: Sequence[float] | np.ndarray, prompt: Prompt) -> str | None:
    """A remark where more than one in a hundred prices is beyond what the model can answer; None where it fits."""
    lowest, highest = prompt.lowest * prompt.unit, prompt.highest * prompt.unit
    beyond = [price for price in prices if not lowest - prompt.unit < price < highest + prompt.unit]
    if len(beyond) <= 0.01 * len(prices):
        return None
    return (
        f"can answer {lowest:,g} to {highest:,g} alone: {len(beyond) / len(prices):.0%} of the prices are beyond, "
        f"up to {shown(max(beyond))} (finetune.prompt.highest, .unit)"
    )


def parse(text: str) -> float | None:
    """The price in whatever a model wrote after the prompt, in the unit it was asked for; None where there is none."""
    return leading_price(text)

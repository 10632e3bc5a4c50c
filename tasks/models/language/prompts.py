"""What a language model is asked and how its words become a price: one place for training and prediction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from tasks.config.experiment import Answer, Prompt
from tasks.data.items import Item
from tasks.data.price_words import leading_price
from tasks.data.prices import shown
from tasks.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

CHUNK = 1000  # texts that are tokenized at once: what a tokenizer returns is forty times as large as its text
ENOUGH = 16  # characters for each token that is kept: of a text that is longer, its head says where to cut


def render(
    items: Sequence[Item],
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    comparables: Sequence[Sequence[float]] | np.ndarray | None = None,
    opinions: Sequence[Sequence[float]] | np.ndarray | None = None,
) -> list[str]:
    """The prompts of the items, each ending right before the price; title and text cut to `prompt.text_tokens`, and
    after them what similar ones cost, `comparables` [n, count], and what other models say, `opinions` [n, models], both
    in US dollars."""
    question = f"{prompt.question}\n\n" if prompt.question else ""
    bodies = (f"{item.title}\n{item.text}".strip() for item in items)
    prompts = []
    for row, body in enumerate(_cut(bodies, prompt.text_tokens, tokenizer)):
        told = "" if comparables is None else f"{_line(prompt.similar, comparables[row], prompt)}\n\n"
        told += "" if opinions is None else f"{_line(prompt.opinion, opinions[row], prompt)}\n\n"
        prompts.append(f"{question}{body}\n\n{told}{prompt.prefix}")
    return prompts


def _cut(bodies: Iterable[str], most: int, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Each text up to the end of its token number `most`.

    A long one is cut to a bounded number of characters first, before a space. That changes no token before the last
    word of what is left: an end in an earlier word is that of the whole text. Otherwise the whole text is tokenized.
    """

    def ends(texts: Sequence[str]) -> list[int | None]:
        """The characters that `most` tokens take; None for a text that has no more of them."""
        if not texts:
            return []
        found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [offsets[most - 1][1] if len(offsets) > most else None for offsets in found]

    for chunk in _chunks(bodies):
        heads = [body if len(body) <= ENOUGH * most else body[: ENOUGH * most].rpartition(" ")[0] for body in chunk]
        end_of = ends(heads)
        for row, (body, head, end) in enumerate(zip(chunk, heads, end_of, strict=True)):
            if len(head) < len(body) and (end is None or not any(map(str.isspace, head[end:].strip()))):
                (end_of[row],) = ends([body])
        yield from (body if end is None else body[:end].rstrip() for body, end in zip(chunk, end_of, strict=True))


def token_counts(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """How many tokens each text has, special ones included."""
    for chunk in _chunks(texts):
        yield from map(len, tokenizer(chunk)["input_ids"])


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    texts = iter(texts)
    while chunk := list(islice(texts, CHUNK)):
        yield chunk


def in_words(prompt: Prompt, answer: Answer) -> Prompt:
    """The prompt with only what stands in it in words: a head is told comparables and opinions in numbers."""
    return prompt if answer.by == "text" else prompt.model_copy(update={"comparables": 0, "opinions": []})


def dearest(prompt: Prompt, count: int) -> dict[str, list[list[float]] | None]:
    """What `render` is told of `count` items whose prompts are the longest: no price has more tokens."""
    told = {"comparables": prompt.comparables, "opinions": len(prompt.opinions)}
    return {name: [[math.inf] * prices] * count if prices else None for name, prices in told.items()}


def _line(before: str, prices: Sequence[float] | np.ndarray, prompt: Prompt) -> str:
    return f"{before} {', '.join(str(_whole(price, prompt)) for price in prices) or '?'}"


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
    outside = [item for item in items if not prompt.lowest <= round(item.known_price / prompt.unit) <= prompt.highest]
    if not outside:
        return
    worst = sorted(outside, key=lambda item: item.known_price, reverse=True)[:3]
    examples = ", ".join(f"${shown(item.known_price)} ({item.id})" for item in worst)
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

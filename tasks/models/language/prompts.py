"""What a language model is asked and how its words become a price: one place for training and prediction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from tasks.config.experiment import Answer, Prompt
from tasks.data.items import Item
from tasks.data.price_words import leading_price
from tasks.data.prices import shown
from tasks.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 1000  # texts that are tokenized at once: what a tokenizer returns is forty times as large as its text
TOLD_LIBRARIES = ("numpy", "scikit-learn", "scipy", "rensa", "gensim")  # which make what is told beside the own text
ENOUGH = 16  # characters for each token that is kept: of a text that is longer, its head says where to cut


@dataclass(frozen=True)
class Told:
    """What is told of n items beside their own texts, as far as it is: what similar ones cost, `prices` [n, count], the
    `titles` [n][count] of these, and what other models say, `opinions` [n, models]; prices in US dollars."""

    prices: np.ndarray | None = None
    titles: Sequence[Sequence[str]] | None = None
    opinions: np.ndarray | None = None

    @property
    def spread(self) -> np.ndarray | None:
        """The ends [n, 2] of the middle half of the prices; None where there are no prices."""
        return quartiles(self.prices) if self.prices is not None and self.prices.shape[1] else None


def quartiles(prices: np.ndarray) -> np.ndarray:
    """The first and the third quartile [n, 2] of prices [n, count]."""
    return np.quantile(prices, (0.25, 0.75), axis=1, method="inverted_cdf").T


def render(
    items: Sequence[Item], prompt: Prompt, tokenizer: PreTrainedTokenizerBase, told: Told | None = None
) -> list[str]:
    """The prompts of the items, each ending right before the price: title and text cut to `prompt.text_tokens`, then
    as much of what is `told` as the prompt asks for."""
    told = told or Told()
    bodies = _cut((f"{item.title}\n{item.text}".strip() for item in items), prompt.text_tokens, tokenizer)
    if told.titles is not None:
        told = replace(told, titles=_cut_titles(told.titles, prompt.titles, tokenizer))
    spread = told.spread if prompt.spread else None
    return [
        _laid_out(prompt, body, _stated(item) if prompt.sizes else "", told, spread, row)
        for row, (item, body) in enumerate(zip(items, bodies, strict=True))
    ]


def example(prompt: Prompt) -> str:
    """What a prompt looks like: placeholders for words, and numbers that are made up."""
    told = Told(np.array([[12.0, 30.0, 9.0]]), [["TITLE"] * 3] if prompt.titles else None, np.array([[11.0, 14.0]]))
    sizes = "Weight 2 pounds, pack of 3" if prompt.sizes else ""
    return _laid_out(prompt, "TITLE\nTEXT", sizes, told, told.spread if prompt.spread else None, 0)


def _laid_out(prompt: Prompt, body: str, sizes: str, told: Told, spread: np.ndarray | None, row: int) -> str:
    """The prompt of the item in this row, its parts with an empty line between them."""
    parts = [body, sizes] if sizes else [body]
    if prompt.comparables and told.prices is not None:
        prices = told.prices[row]
        if told.titles is None:
            similar = _line(prompt.similar, prices, prompt)
        else:
            each = (f"{_whole(price, prompt)}: {title}" for price, title in zip(prices, told.titles[row], strict=True))
            similar = "\n".join([prompt.similar, *each])
        ends = "" if spread is None else " to ".join(str(_whole(end, prompt)) for end in spread[row])
        parts.append(f"{similar}\nHalf of them {ends}" if ends else similar)
    if prompt.opinions and told.opinions is not None:
        parts.append(_line(prompt.opinion, told.opinions[row], prompt))
    question = f"{prompt.question}\n\n" if prompt.question else ""
    return question + "\n\n".join([*parts, prompt.prefix])


def _stated(item: Item) -> str:
    from tasks.models.features import stated

    return stated(item)


def _cut_titles(
    titles: Sequence[Sequence[str]], most: int, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, ...]]:
    """Each title in one line of at most `most` tokens; one that comes often is cut once."""
    different = list(dict.fromkeys(" ".join(title.split()) for row in titles for title in row))
    short = dict(zip(different, _cut(different, most, tokenizer), strict=True))
    return [tuple(short[" ".join(title.split())] for title in row) for row in titles]


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
    """The prompt with only what stands in it in words: a head is told prices as numbers, but the comparables' titles
    stand in the prompt, each with its price."""
    if answer.by == "text":
        return prompt
    comparables = {} if prompt.titles else {"comparables": 0, "nearest": "words"}
    return prompt.model_copy(update={"opinions": [], "spread": False, **comparables})


def longest_told(prompt: Prompt, count: int) -> Told:
    """What `render` is told of `count` items whose prompts are the longest: no price and no title has more tokens."""
    titles = [[" a" * prompt.titles] * prompt.comparables] * count
    return Told(
        np.full((count, prompt.comparables), math.inf) if prompt.comparables else None,
        titles if prompt.titles else None,
        np.full((count, len(prompt.opinions)), math.inf) if prompt.opinions else None,
    )


def _line(before: str, prices: np.ndarray, prompt: Prompt) -> str:
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
    examples = ", ".join(f"{shown(item.known_price)} ({item.id})" for item in worst)
    raise UserError(
        f"{len(outside):,} of {len(items):,} training prices are outside {prompt.lowest}..{prompt.highest} of "
        f"finetune.prompt, in steps of {prompt.unit:g}: {examples}. Set data.price_min and data.price_max within it, "
        "or finetune.prompt.lowest and .highest around them."
    )


def beyond_range(prices: Sequence[float] | np.ndarray, prompt: Prompt) -> str | None:
    """A remark where more than one in a hundred prices is beyond what the model can answer; None where it fits."""
    lowest, highest = prompt.lowest * prompt.unit, prompt.highest * prompt.unit
    below = [price for price in prices if price <= lowest - prompt.unit]
    above = [price for price in prices if price >= highest + prompt.unit]
    beyond = (len(below) + len(above)) / len(prices) if len(prices) else 0.0
    if beyond <= 0.01:
        return None
    ends = [f"down to {shown(min(below))} (finetune.prompt.lowest, .unit)"] if below else []
    ends += [f"up to {shown(max(above))} (finetune.prompt.highest, .unit)"] if above else []
    return (
        f"can only answer prices from {lowest:,.12g} to {highest:,.12g}: {beyond:.0%} of the prices lie outside this "
        f"range, {' and '.join(ends)}"
    )


def parse(text: str) -> float | None:
    """The price in whatever a model wrote after the prompt, in the unit it was asked for; None where there is none."""
    return leading_price(text)

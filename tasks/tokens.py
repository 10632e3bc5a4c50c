"""Counting tokens in batches, and only where the number of words does not decide already."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tasks.items import Item

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH = 512
NOT_COUNTED = -1
# A token that holds the end of one word and the start of the next; no tokenizer that splits at blanks has one.
BLANK = r"\s\u0120\u2581\u010a\u0109\u010d"  # as vocabularies write blanks, tabs and line ends
SPANS_WORDS = re.compile(rf"[^{BLANK}].*[{BLANK}].*[^{BLANK}]")


class Drops(Protocol):
    """Counts what is left out."""

    def drop(self, reason: str, example: str) -> None: ...


class TokenGate:
    """Lets items of at least `least` tokens pass; with no tokenizer, all."""

    def __init__(self, tokenizer: str | None, least: int) -> None:
        self.tokenizer = tokenizer
        self.least = least if tokenizer else 0

    def passing(self, items: Iterable[Item], drops: Drops) -> Iterator[tuple[Item, int]]:
        """The items that pass, each with its number of tokens, or NOT_COUNTED where nobody had to count."""
        items = iter(items)
        while batch := list(islice(items, BATCH)):
            if not self.least:
                yield from ((item, NOT_COUNTED) for item in batch)
                continue
            undecided = [item for item in batch if not self._surely(item)]
            counts = dict(zip(map(id, undecided), count_tokens(undecided, self.tokenizer or ""), strict=True))
            for item in batch:
                tokens = counts.get(id(item), NOT_COUNTED)
                if NOT_COUNTED < tokens < self.least:
                    drops.drop(f"fewer than {self.least} tokens", f"{item.title} ({item.price})")
                else:
                    yield item, tokens

    def _surely(self, item: Item) -> bool:
        """Every word is a token at least, so that this many words are tokens enough."""
        words = item.title.count(" ") + item.text.count(" ") + bool(item.title) + bool(item.text)
        return words >= self.least and not spans_words(self.tokenizer or "")


def count_tokens(items: Sequence[Item], tokenizer: str) -> list[int]:
    """Tokens of title and text of each item, by the tokenizer file of that name."""
    texts = [f"{item.title}\n{item.text}" for item in items]
    return [len(encoded.ids) for encoded in _load(tokenizer).encode_batch_fast(texts, add_special_tokens=False)]


@functools.cache
def spans_words(tokenizer: str) -> bool:
    """Whether any token of the vocabulary can hold parts of two words."""
    return any(SPANS_WORDS.search(token) for token in _load(tokenizer).get_vocab())


@functools.cache
def _load(tokenizer: str) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(tokenizer)


def find_tokenizer(name: str) -> Path:
    """The `tokenizer.json` of an embedded model, of a folder or of a model on the hub.

    Raises:
        UserError: there is none, or it is gated.
    """
    from tasks.basemodel import EMBEDDED, TINY, locate

    place = Path(locate(name) if name in (*EMBEDDED, TINY) else name)
    if place.is_dir():
        place /= "tokenizer.json"
    if place.is_file():
        return place
    from tasks.hub import fetch

    return fetch(name, "tokenizer.json", repo_type="model")

"""The product as every stage sees it, and how a raw row becomes one."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from tasks.data.prices import DOLLARS, NAMED_ABROAD, UnreadableError, read_cell

# Details that say nothing about the product itself; a rank or a date would also leak how well it sold.
BOILERPLATE = re.compile(
    r"asin$|upc$|best sellers rank|customer reviews|date first|number of reviews|is discontinued by"
    r"|(?:are )?batteries (?:included|required)",
    re.IGNORECASE,
)
# What "price" is often written as one word with.
KINDS = (
    *("list", "sale", "sales", "unit", "retail", "item", "our", "old", "new", "base", "net", "gross", "final", "full"),
    *("current", "original", "regular", "special", "selling", "discount"),
)
# In other languages the words behind count too: "pris en charge" is what something supports, and no price.
BEHIND = r"ttc|ht|brutto|netto|in|inkl|incl|con|sin|iva|за|d[ei] ven[dt]\w*"
ENDS = rf"(?=[ _-]*(?:$|[^\w\s-])|[ _-]+(?:{BEHIND})(?![^\W_]))"
PRICE_DETAIL = re.compile(
    rf"(?:[^\W_]+[ _-])*(?:(?:(?:{'|'.join(KINDS)})?prices?\d*|costs?|msrp|rrp|srp|mrp|discount|savings)(?![^\W_])"
    rf"|[^\W_]*?{NAMED_ABROAD}{ENDS})",
    re.IGNORECASE,
)
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")  # of a name such as salePrice
NESTED = "nested too deeply"
DEEPEST = 100  # lists and objects in each other that are read
PARSING = threading.Lock()  # Python 3.11 cannot parse in two threads at once (python/cpython#106905)


@dataclass(frozen=True, slots=True)
class Item:
    """One product.

    `text` is the cleaned description without the title, uncut; `details` are its structured attributes; `price` is in
    US dollars (the unit of the conf), or None where it is to be found out.
    """

    id: str
    title: str
    text: str
    category: str = ""
    details: dict[str, str] = field(default_factory=dict)
    price: float | None = None

    @property
    def known_price(self) -> float:
        """The price of an item that has one, as all items of a dataset do."""
        assert self.price is not None
        return self.price

    @property
    def has_words(self) -> bool:
        """Whether title or text holds a letter or a digit: from signs alone no price can be told."""
        return any(map(str.isalnum, itertools.chain(self.title, self.text)))

    @classmethod
    def from_text(cls, text: str) -> Item:
        """An item to be priced: the first line is the title, the rest the text."""
        title, _, rest = text.strip().partition("\n")
        return cls(id=content_id(title, rest), title=collapse(title), text=collapse(rest))


class RejectedError(ValueError):
    """A row that cannot become an item; its message is the reason, short enough to count by."""


def from_row(row: Mapping[str, Any], *, decimal: str = ".", currency: Sequence[str] = DOLLARS) -> Item:
    """The item of a raw row: `title` or text (`text`, `description`, `features`), `price`, and optionally `id`,
    `category`, `details`; the shape of Amazon Reviews 2023 metadata as it comes.

    Raises:
        RejectedError: there is no text or no usable price, or it is nested too deeply.
    """
    try:  # first: many rows of real catalogues have none
        price = read_cell(row.get("price"), decimal, tuple(currency))
    except UnreadableError as error:
        raise RejectedError(str(error)) from None
    return unpriced(row, price)


def unpriced(row: Mapping[str, Any], price: float | None = None) -> Item:
    """The item of a raw row whose price is known already, or not at all.

    Raises:
        RejectedError: there is no text, or it is nested too deeply.
    """
    title = collapse(_text(row.get("title")))
    details = _details(row.get("details"))
    kept = [f"{key}: {value}" for key, value in details.items() if not left_out(key)]
    parts = [_text(row.get("text")), _text(row.get("description")), _text(row.get("features")), "\n".join(kept)]
    text = collapse(" ".join(part for part in parts if part))
    if not title and not text:
        raise RejectedError("no title and no text")
    identity = row.get("id")
    return Item(
        id=str(identity) if not _missing(identity) else content_id(title, text),
        title=title,
        text=text,
        category=collapse(_text(row.get("category"))),
        details=details,
        price=price,
    )


@functools.lru_cache(maxsize=10_000)
def left_out(key: str) -> bool:
    """Whether a detail of this name stays out of the text."""
    return bool(BOILERPLATE.match(key)) or is_price_name(key)


@functools.lru_cache(maxsize=10_000)
def is_price_name(name: str) -> bool:
    """Whether a detail of this name is a price."""
    return bool(PRICE_DETAIL.match(HUMP.sub(" ", name[:80])))


def collapse(text: str) -> str:
    """The text with every run of white space, and of NUL bytes, as one blank."""
    return " ".join((text.replace("\0", " ") if "\0" in text else text).split())


collapse_name = functools.lru_cache(maxsize=10_000)(collapse)  # of details: the same few come again and again


def content_id(title: str, text: str) -> str:
    """A name made of the content, for items that bring none."""
    return hashlib.sha256(f"{title}\n{text}".encode(errors="replace")).hexdigest()[:16]


def _missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value
    return value is None or (isinstance(value, float) and value != value)


def _text(value: Any, deeper: int = DEEPEST) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if deeper == 0:
        raise RejectedError(NESTED)
    if isinstance(value, list | tuple) or hasattr(value, "tolist"):
        if isinstance(value, list) and value and all(isinstance(part, tuple) and len(part) == 2 for part in value):
            value = _mapping(value)  # a map of Parquet
        else:
            parts = [part for part in value if not _missing(part)]
            return " ".join([part if isinstance(part, str) else _text(part, deeper - 1) for part in parts])
    if isinstance(value, Mapping):
        named = ((str(key), _text(part, deeper - 1)) for key, part in value.items() if not _missing(part))
        return ", ".join(f"{key}: {part}" for key, part in named if not is_price_name(key))
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if _missing(value) else str(value)


def _mapping(pairs: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Pairs of a name and a value, the names as text: one may be a list."""
    return {_text(name): value for name, value in pairs}


def _details(value: Any) -> dict[str, str]:
    if not isinstance(value, str):
        return _named(value)
    held = _structure(value)
    if not isinstance(held, Mapping | list | tuple):
        return {"Details": collapse(value)} if value.strip() else {}
    found = _named(held)
    # What is escaped may be half of a letter.
    return {whole(name): whole(text) for name, text in found.items()} if "\\" in value else found


def whole(text: str) -> str:
    """The text with a sign for each half of a letter (a surrogate), which UTF-8 cannot write."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _named(value: Any) -> dict[str, str]:
    """The details that an object, a map of Parquet or a list of pairs holds; anything else is one detail."""
    if isinstance(value, list | tuple):
        if all(isinstance(part, list | tuple) and len(part) == 2 for part in value):
            value = _mapping(value)
        elif all(isinstance(part, Mapping) and {"name", "value"} <= part.keys() for part in value):
            value = _mapping((part["name"], part["value"]) for part in value)
    if not isinstance(value, Mapping):
        return {"Details": text} if (text := collapse(_text(value))) else {}
    return {
        collapse_name(str(key)): collapse(part if isinstance(part, str) else _text(part))
        for key, part in value.items()
        if not _missing(part)
    }


def _structure(text: str) -> Any:
    """What a text of JSON, or of a Python dict or list as `to_csv` writes it, holds; None if it is neither."""
    for loads in (orjson.loads, json.loads):  # the second one knows NaN
        with contextlib.suppress(ValueError, RecursionError):
            return loads(text)
    if text.lstrip()[:1] not in ("{", "[") or len(text) > 100_000:
        return None
    try:
        with PARSING:
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None

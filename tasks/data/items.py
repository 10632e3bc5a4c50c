"""The product as every stage sees it, and how a raw row becomes one."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DOLLARS = ("$", "US$", "USD")
NUMBERS = {
    ".": r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?",
    ",": r"\d{1,3}(?:[. ]\d{3})+(?:,\d+)?|\d+(?:,\d+)?",
}
NO_PRICE = {"", "none", "null", "nan", "n/a", "na", "-", "—"}
# Details that say nothing about the product itself; a rank or a date would also leak how well it sold.
BOILERPLATE = re.compile(
    r"asin$|upc$|best sellers rank|customer reviews|date first|number of reviews|is discontinued by"
    r"|(?:are )?batteries (?:included|required)",
    re.IGNORECASE,
)
PRICE_DETAIL = re.compile(
    r"(?:[^\W_]+[ _-])*(?:prices?|cost|msrp|rrp|srp|mrp|discount|savings)(?![^\W_])", re.IGNORECASE
)


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
        RejectedError: there is no text or no usable price.
    """
    price = parse_price(row.get("price"), decimal, tuple(currency))  # first: many rows of real catalogues have none
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
    return bool(BOILERPLATE.match(key) or PRICE_DETAIL.match(key[:80]))


def parse_price(value: Any, decimal: str = ".", currency: tuple[str, ...] = DOLLARS) -> float:
    """A price in the unit of the data: a number, or text such as "$1,299.00"; `decimal` is the mark before the cents,
    and one of the signs of `currency` may stand before or after the number.

    Raises:
        RejectedError: it is missing, not one positive number, or not finite.
    """
    if _missing(value) or (isinstance(value, str) and value.strip().lower() in NO_PRICE):
        raise RejectedError("no price")
    if isinstance(value, str):
        found = _money(decimal, currency).match(value)
        if not found:
            raise RejectedError("price is not one number")
        number = re.sub(r"[. ]" if decimal == "," else ",", "", found.group(1))
        value = number.replace(",", ".")
    if isinstance(value, bool):
        raise RejectedError("price is not one number")
    try:
        price = float(value)
    except (TypeError, ValueError, OverflowError):
        raise RejectedError("price is not one number") from None
    if not math.isfinite(price) or price <= 0:
        raise RejectedError("price is not a positive number")
    return price


@functools.cache
def _money(decimal: str, currency: tuple[str, ...]) -> re.Pattern[str]:
    signs = "|".join(re.escape(sign).replace(r"\$", r"\s?\$") for sign in sorted(currency, key=len, reverse=True))
    sign = rf"(?:{signs})?" if signs else ""
    return re.compile(rf"^\s*{sign}\s*({NUMBERS[decimal]})\s*{sign}\s*$", re.IGNORECASE)


def collapse(text: str) -> str:
    """The text with every run of white space, and of NUL bytes, as one blank."""
    return " ".join((text.replace("\0", " ") if "\0" in text else text).split())


collapse_name = functools.lru_cache(maxsize=10_000)(collapse)  # of details: the same few come again and again


def content_id(title: str, text: str) -> str:
    """A name made of the content, for items that bring none."""
    return hashlib.sha256(f"{title}\n{text}".encode(errors="replace")).hexdigest()[:16]


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or value == ""


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) or hasattr(value, "tolist"):
        return " ".join(str(part) for part in value if not _missing(part))
    return "" if _missing(value) else str(value)


def _details(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return {"Details": collapse(value)} if value.strip() else {}
    if not isinstance(value, Mapping):
        return {}
    return {collapse_name(str(key)): collapse(_text(part)) for key, part in value.items() if not _missing(part)}

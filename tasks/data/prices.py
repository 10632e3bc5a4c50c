"""How a price is read: from a cell, from a column of cells, and from the words of a model. The one place for its rules.

docs/prices.md is the page of them. What is not surely a price is none.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from typing import Any

DOLLARS = ("$", "US$", "USD")
# Signs of one currency, of which a file often uses more than one.
CURRENCIES = (
    (*DOLLARS,),
    ("€", "EUR"),
    ("£", "GBP"),
    ("₹", "INR", "Rs", "Rs."),
    ("¥", "JPY", "CNY", "円", "元"),
    ("₽", "RUB", "руб", "руб.", "рублей"),  # noqa: RUF001
    ("zł", "PLN", "złotych"),
    ("Kč", "CZK"),
    ("Ft", "HUF"),
    ("kr", "kr.", "SEK", "NOK", "DKK", "kronor", "kroner", ":-"),
    ("₩", "KRW", "원"),
    ("₺", "TRY", "TL"),
    ("R$", "BRL"),
    ("CHF", "Fr."),
)
# What a price is called where English is not spoken, in columns and in texts; the first ones are the likeliest.
ABROAD = (
    *("preis", "verkaufspreis", "bruttopreis", "prix", "prix ttc", "precio", "prezzo", "preço", "prijs", "pris"),
    *("cena", "hinta", "ár", "fiyat", "цена", "ціна", "価格", "价格", "가격", "uvp"),
)
# They may run into the word before (Verkaufspreis, 販売価格), and are not those of Grand Prix. A look at the first
# letter is enough for most words.
NAMED_ABROAD = (
    rf"(?=[{''.join(sorted({name[0] for name in ABROAD}))}])"
    rf"(?:(?<![^\W_])(?<!grand[ _-])(?:{'|'.join(ABROAD)})|preis|prijs|価格|价格|가격)(?![^\W_])"
)
NO_PRICE = {"", "none", "null", "nan", "n/a", "na", "-", "—", "–"}  # noqa: RUF001
BLANKS = " \u00a0\u2007\u2009\u202f"
APOSTROPHES = "'\u2019\u02bc\u00b4`"
# Digits with whatever may part them; which of the marks is the decimal one is another question.
FIGURE = rf"(?:\d{{1,3}}(?:[{BLANKS}{APOSTROPHES}]\d{{3}})+(?!\d)(?:[.,]\d+)?|\d[\d.,]*\d|\d|(?<![\d.,])[.,]\d+)(?!\d)"
FOUND = re.compile(FIGURE)
PARTED = re.compile(rf"\d{{1,3}}(?:[{BLANKS}{APOSTROPHES}]\d{{3}})+(?:[.,]\d+)?")
GROUPED = {mark: rf"\d{{1,3}}(?:{re.escape(mark)}\d{{3}})+" for mark in ".,"}
INDIAN = r"\d{1,2}(?:,\d{2})+,\d{3}"  # 1,39,900
WHOLE = {".": rf"{GROUPED[',']}|{INDIAN}|\d+", ",": rf"{GROUPED['.']}|\d+"}
NUMBER = {mark: re.compile(rf"({WHOLE[mark]})?(?:{re.escape(mark)}(\d+))?") for mark in ".,"}
PLAIN = re.compile(r"\d+(?:\.\d{1,2})?|\d+(?:\.\d+)?[eE][+-]?\d+")  # the latter as programs write it
CODES = "USD|EUR|GBP|INR|CAD|AUD|NZD|CHF|JPY|CNY|SEK|NOK|DKK|PLN|CZK|HUF|BRL|MXN|ZAR|KRW|TRY|RUB"
STRANGE_SIGN = re.compile(rf"[^\d\W]?\s?[$€£¥₹₽₩₺]|\b(?:{CODES}|Rs\.?|kr\.?|zł|Kč|Ft|руб\.?)", re.IGNORECASE)  # noqa: RUF001
# After the number: no cents (12,- or 12.-- or 12:-), a footnote, a full stop.
NO_CENTS = r"(?:[.,:]\s?[-\u2013\u2014]{1,2})?"
TAIL = rf"{NO_CENTS}\s*[*\u2020\u2021\u00b9\u00b2]*"


class UnreadableError(ValueError):
    """Text that is not one price; the message is the reason, short enough to count by."""


def alike(currency: tuple[str, ...]) -> set[str]:
    """The signs of a currency, with all others that stand for the same one: of krona also NOK."""
    groups = (group for group in CURRENCIES if set(group) & set(currency))
    return {sign for group in (currency, *groups) for sign in group if sign}


def bound(letter: str) -> str:
    """What is no part of a word beside this letter of a sign; nothing in scripts that put no blanks between words."""
    return r"\b" if letter.lower() != letter.upper() else ""


def same_currency(one: str, other: str) -> bool:
    """Whether two signs may be of one currency, as € and EUR are; kr may be that of three."""
    return one == other or any(one in signs and other in signs for signs in CURRENCIES)


def number(figure: str, decimal: str) -> float | None:
    """The number that a FIGURE writes with this decimal mark; None where it does not keep to it.

    Thousands may be parted by the other mark, by blanks or by apostrophes, and by the hundreds of India.
    """
    if PARTED.fullmatch(figure):
        figure = re.sub(rf"[{BLANKS}{APOSTROPHES}]", "", figure)
        if re.search(r"[.,]", figure) and decimal not in figure:
            return None
    found = NUMBER[decimal].fullmatch(figure)
    if not found:
        return None
    value = float(f"{re.sub('[.,]', '', found.group(1) or '0')}.{found.group(2) or '0'}")
    return value if math.isfinite(value) else None


def decimal_of(figure: str) -> str:
    """The decimal mark that a FIGURE proves: "." or ","; "?." or "?," where its one mark may part thousands as well
    ("1.299"); empty where it proves nothing."""
    parted = PARTED.fullmatch(figure) is not None
    marks = [mark for mark in figure if mark in ".,"]
    if not marks:
        return ""
    last, other = marks[-1], "," if marks[-1] == "." else "."
    if parted or len(set(marks)) == 2:
        return last if number(figure, last) is not None else ""
    if len(marks) > 1:  # only thousands are parted more than once
        return other if number(figure, other) is not None else ""
    before, after = figure.split(last)
    return f"?{last}" if len(after) == 3 and 1 <= len(before) <= 3 and not before.startswith("0") else last


class Evidence:
    """What the text prices of a column say about its decimal mark; every value counts."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def look(self, value: Any) -> None:
        """Take a value into account."""
        if not isinstance(value, str):
            return
        found = PLAIN.fullmatch(value) or re.search(FIGURE, value)
        mark = decimal_of(found.group()) if found else None
        if mark:
            self._count(mark, 1, [value.strip()[:40]])

    def add(self, other: Evidence) -> None:
        """Count in what another part of the column says."""
        for mark, count in other.counts.items():
            self._count(mark, count, other.examples[mark])

    def _count(self, mark: str, count: int, examples: list[str]) -> None:
        self.counts[mark] = self.counts.get(mark, 0) + count
        known = self.examples.get(mark, [])
        if any(example not in known for example in examples) and (len(known) < 2 or min(examples) < known[-1]):
            self.examples[mark] = sorted({*known, *examples})[:2]  # the same whatever their order

    def decide(self) -> tuple[str, list[str]]:
        """The decimal mark of the column, and examples where that was worth a thought.

        Raises:
            UnreadableError: the values contradict each other, or could be read either way.
        """
        point, comma, open_point, open_comma = (self.counts.get(mark, 0) for mark in (".", ",", "?.", "?,"))
        shown = [example for mark in (",", ".", "?,", "?.") for example in self.examples.get(mark, [])[:1]]
        if min(point, comma) > 0.02 * max(point, comma):
            raise UnreadableError(f"Some prices have a point before the cents and some a comma: {_both(shown)}")
        mark = "," if comma > point else "."
        # A mark that is nearly always followed by three digits parts thousands, whatever one stray value says.
        proof, doubt = (comma, open_comma) if mark == "," else (point, open_point)
        if doubt > 20 * proof:
            examples = self.examples[f"?{mark}"]
            raise UnreadableError(f"Prices such as {_both(examples)} can be thousands, or cents with three digits")
        return mark, shown[:2] if mark == "," or open_point or open_comma else []


def _both(examples: list[str]) -> str:
    return " and ".join(repr(example) for example in examples[:2])


def read_cell(value: Any, decimal: str = ".", currency: tuple[str, ...] = DOLLARS) -> float:
    """A price in the unit of the data: a number, or text such as "$1,299.00"; one of the signs of `currency` may stand
    before or after the number.

    Raises:
        UnreadableError: it is missing, not one positive number, not finite, or in another currency.
    """
    if isinstance(value, bool):
        raise UnreadableError("price is not one number")
    if isinstance(value, str):
        if PLAIN.fullmatch(value) and decimal == ".":
            value = float(value)
        elif value.strip().lower() in NO_PRICE:
            raise UnreadableError("no price")
        else:
            value = _text_price(value, decimal, currency)
    elif value is None or value != value:
        raise UnreadableError("no price")
    try:
        price = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UnreadableError("price is not one number") from None
    if not math.isfinite(price) or price <= 0:
        raise UnreadableError("price is not a positive number")
    return price


def _text_price(text: str, decimal: str, currency: tuple[str, ...]) -> float:
    found = _cell(currency).fullmatch(text)
    price = number(found.group(1), decimal) if found else None
    if price is not None:
        return price
    if found is None and (sign := STRANGE_SIGN.search(text)) and _cell((*currency, sign.group())).fullmatch(text):
        raise UnreadableError(f"price in {sign.group().strip()}, which data.currency does not name")
    raise UnreadableError("price is not one number")


@functools.lru_cache(maxsize=1000)
def _cell(currency: tuple[str, ...]) -> re.Pattern[str]:
    signs = "|".join(re.escape(sign).replace(r"\$", r"\s?\$") for sign in sorted(currency, key=len, reverse=True))
    sign = rf"(?:{signs})?" if signs else ""
    return re.compile(rf"\s*{sign}\s*({FIGURE}){TAIL}\s*{sign}\s*[*\u2020\u2021]*\s*", re.IGNORECASE)


def read_guess(cell: str, decimal: str, currency: tuple[str, ...] = DOLLARS) -> float | None:
    """What a person or another program put down as a price, in the unit of the data; None if it is none."""
    signs = (*currency, "dollar", "dollars") if "$" in currency else currency
    found = _cell(signs).fullmatch(unicodedata.normalize("NFKC", cell))
    return number(found.group(1), decimal) if found else None


def shown(price: float) -> str:
    """A price for people: cents, or more digits where it `is_small`."""
    return three_digits(price) if is_small(price) else f"{price:,.2f}"


def is_small(price: float) -> bool:
    """Whether cents are too coarse for a price that is not zero: it is below ten of them."""
    return 0 < abs(price) < 0.095


def three_digits(price: float, sign: str = "") -> str:
    """A price that `is_small` with three significant digits: 0.0042 and not 0.00; `sign` is that of a format."""
    return format(price, f"{sign}.{2 - math.floor(math.log10(abs(price)))}f").rstrip("0")


def rounded(price: float) -> float:
    """A price with as many digits as `shown` shows."""
    return float(shown(price).replace(",", "")) if math.isfinite(price) else price

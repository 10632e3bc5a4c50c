"""Text that states its own price, found by rule.

What is scrubbed: an amount that is called a price ("Price: $49.99", "MSRP 1,299"), an amount that is offered ("only
Rs. 499", "$30 value"), and any amount of money that is the item's own price. What is not money stays (19.99 inches, a
brand with a $ in it), and so does money that is something else ("insured for $500", a wallet for $5 bills).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tasks.data.items import is_price_name
from tasks.data.prices import FIGURE as WRITTEN
from tasks.data.prices import number

NUMBER = (
    r"(?:\d{1,3}(?:[,.\u00a0\u2009\u202f'\u2019]\d{3})+(?:[.,]\d{1,2})?|\d{1,3}(?: \d{3})+[.,]\d{2}"
    r"|\d{1,2}(?:,\d{2})+,\d{3}|\d+(?:[.,]\d{1,2})?|(?<![\d\w.])\.\d{2})(?![\d\w]|[.,]\d)"
)
# Rs. is told from RS (RS-232, RS 485) by its case.
SIGN = r"(?:(?:\b(?:US\s?|CA|AU|NZ|HK|[ACS]))?\$|€|£|¥|₹|\b(?:USD|EUR|GBP|INR|CAD|AUD)\b|\b(?-i:Rs\b\.?|rs\.))"
WORD = r"(?:USD|EUR|GBP|INR|dollars?|euros?|rupees|bucks)\b|€|£|₹"
# A price that runs into the next word ("$44.25Multi-Unit") is one only with its cents.
AMOUNT = rf"(?:{SIGN}\s?(?:{NUMBER}|\d[\d,]*\.\d{{2}}(?=[a-z]))|{NUMBER}\s?(?:{WORD}|\$(?![\w$])))"
SOMETHING_ELSE = (
    r"(?!\s*(?:\+|(?:bills?|coins?|notes?|banknotes?|chips?|million|billion|[kmb]|plugs?|sockets?|pallets?"
    r"|v|volts?|w|watts?|hz|[cm]m)\b))"
)
# After a bare number, what makes it a measure, a count or a share, and not a price.
MEASURES = (
    r"%|percent|[x\u00d7*/\u2019-]|[\"'\u201d](?!\s*(?:[,}\]]|$))|\u00b0|per\b|to\b"
    r"|pack|pk\b|pcs?\b|pieces?\b|count\b|ct\b|sets?\b|pairs?\b|years?\b|days?\b|stars?\b|points?\b"
    r"|inch|in\b|ft\b|feet\b|foot\b|yards?\b|[cmk]?m\b|oz\b|ounces?\b|lbs?\b|pounds?\b|[mk]?g\b|grams?\b"
    r"|[mc]?l\b|lit(?:er|re)s?\b|gal|watts?\b|w\b|v\b|volts?\b|amps?\b|gb\b|tb\b|mb\b|hz\b|mah\b"
)
NOT_MEASURED = rf"(?!\s*(?:{MEASURES}|for\b))"
KIND = (
    r"(?:list|our|your|sales?|retail|regular|reg\.?|special|suggested|unit|street|original|current|online|store|market"
    r"|best|low|lowest|full|today[\u2019']?s|discount(?:ed)?|introductory|promo(?:tional)?|final|net|selling|asking"
    r"|base|average|normal|usual|recommended|manufacturer[\u2019']?s)"
)
UNIT = (
    r"(?:\s*[(\[]\s*(?:in\s+)?(?:[A-Z]{3}|[$€£¥₹]|dollars|euros)\s*[)\]]|\s+(?:in\s+)?(?:USD|EUR|GBP|INR|CAD|AUD)\b)?"
)
LABEL = rf"(?:\b|(?<=_))(?:(?:price|cost)s?(?:\s+(?:tag|point))?|msrp|m\.s\.r\.p\.?|rrp|srp|mrp){UNIT}"
LINK = r"\s*(?:(?:is|was|of|only|just|now|at|from)\b\s*|[:=\u2013\u2014-]\s*){0,3}"
FIRM = r"[\"']?\s*(?:(?:is|was)\b\s*(?:only|just|now)?\s*|[:=]\s*)[\"']?"
SELLING = r"yours|get it|buy it(?: now)?|buy now|on sale|sells|sold|selling|retails?|retailing|priced|available|offered"
OFFER = (
    rf"\b(?:(?:{SELLING}|now|save)\s+)?(?:for\s+|at\s+|from\s+)?(?:only|just)"
    rf"|\b(?:{SELLING}|compare)\s+(?:for|at|from)"
    r"|\b(?:starting (?:at|from)|as low as|now|was|originally|sale|special|deal|regular(?:ly)?|reg\.?|asking)\s*:?"
)
CALLED = re.compile(
    rf"{LABEL}{LINK}{AMOUNT}{SOMETHING_ELSE}|{LABEL}{FIRM}(?P<bare>{NUMBER}){NOT_MEASURED}[\"']?"
    rf"|{LABEL}\s*[:=]\s*([\"']){NUMBER}\2|\b(?:msrp|rrp|srp|mrp)\b\s*{NUMBER}(?!\s*(?:{MEASURES}))",
    re.IGNORECASE,
)
COUNT = re.compile(r"\s+[a-z]")  # after "costs: 3": screws, and not a price
# JSON, or a Python dict, among the words.
KEYED = re.compile(
    r"\\?([\"'])(?P<key>[^\"'\\{}:,\n]{1,60})\\?\1\s*:\s*(?:\\?\"[^\"\n]{0,40}\"|'[^'\n]{0,40}'|-?[\d.,]*\d|null|None)\s*,?"
)
KIND_BEFORE = re.compile(rf"(?:\b{KIND}[\s_]+){{1,4}}$", re.IGNORECASE)
MONEY = re.compile(rf"{AMOUNT}{SOMETHING_ELSE}", re.IGNORECASE)
OFFER_BEFORE = re.compile(rf"(?:{OFFER})\s*$", re.IGNORECASE)
OFFER_AFTER = re.compile(
    r"\s*(?:each\b|apiece\b|/?\s?ea\b\.?|msrp\b|rrp\b|retail\b|list price\b|value\b|or best offer\b|obo\b|shipped\b"
    r"|only\b)",
    re.IGNORECASE,
)
FIGURE = re.compile(WRITTEN)
SWAPPED = str.maketrans(".,", ",.")
CENTS = re.compile(r"[.,]\d{1,2}$")
NEARBY = 48  # characters before an amount that say what it is
# Without one of these no rule can match. Arrow looks for them all in one pass, six times sooner than Python can.
SIGNS = r"[$€£¥₹]|INR|CAD|AUD|Rs|\brs\."
WORDS = r"price|cost|[msr]rp|m\.s\.r\.p|usd|eur|gbp|dollar|rupee|bucks|discount|savings"
POSSIBLE = rf"{SIGNS}|(?i:{WORDS})"


class Leak(NamedTuple):
    """A statement of a price: the rule that found it, and its words."""

    rule: str
    words: str


def scrub(text: str, price: float | None) -> tuple[str, list[Leak]]:
    """The text without statements of its price, and these."""
    leaks, end, kept = [], 0, []
    for start, stop, rule in sorted([*_keyed(text), *_called(text, price), *_offered(text, price)]):
        if start >= end:
            kept.append(text[end:start])
            leaks.append(Leak(rule, text[start:stop].strip()))
        end = max(end, stop)
    return (" ".join(" ".join([*kept, text[end:]]).split()), leaks) if leaks else (text, [])


def possible(texts: Sequence[str]) -> list[bool]:
    """Whether any rule could match each text, or the name of a detail in it; False for most."""
    return pc.match_substring_regex(pa.array(texts, pa.string()), POSSIBLE).to_pylist()


def _keyed(text: str) -> Iterator[tuple[int, int, str]]:
    for match in KEYED.finditer(text) if "'" in text or '"' in text else ():
        if is_price_name(match["key"].strip()):
            yield match.start(), match.end(), "JSON key of a price"


def _called(text: str, price: float | None) -> Iterator[tuple[int, int, str]]:
    for match in CALLED.finditer(text):
        start, bare = match.start(), match["bare"]
        counts = bare and bare.isdigit() and match.group()[:4].lower() == "cost" and COUNT.match(text, match.end())
        if counts and (price is None or not is_own(bare, price)):
            continue
        before = KIND_BEFORE.search(text[max(0, start - NEARBY) : start])
        yield start - len(before.group() if before else ""), match.end(), "called a price"


def _offered(text: str, price: float | None) -> Iterator[tuple[int, int, str]]:
    for match in MONEY.finditer(text):
        start, end = match.span()
        before = OFFER_BEFORE.search(text[max(0, start - NEARBY) : start])
        after = OFFER_AFTER.match(text, end)
        if before or after:
            yield start - len(before.group() if before else ""), after.end() if after else end, "offered"
        elif price is not None and is_own(match.group(), price):
            yield start, end, "its own price"


def scrub_details(details: dict[str, str], price: float | None) -> tuple[dict[str, str], list[Leak]]:
    """The details without those that are prices by their name, and without statements of the price in the others."""
    leaks = [
        Leak("price among the details", f"{name}: {value}") for name, value in details.items() if is_price_name(name)
    ]
    kept = {name: value for name, value in details.items() if not is_price_name(name)} if leaks else details
    suspects = [name for name, maybe in zip(kept, possible(list(kept.values())), strict=True) if maybe]
    scrubbed = {name: scrub(kept[name], price) for name in suspects}
    leaks += [leak for _, found in scrubbed.values() for leak in found]
    return kept | {name: value for name, (value, _) in scrubbed.items()}, leaks


def is_own(words: str, price: float) -> bool:
    """Whether an amount of money is the price itself, or the price to the nearest whole."""
    found = FIGURE.search(words)
    assert found is not None
    values = {value for mark in ".," if (value := number(found.group(), mark)) is not None}
    return any(math.isclose(value, price, abs_tol=0.005) for value in values) or (
        not CENTS.search(found.group()) and any(abs(value - price) < 1 for value in values)
    )


def states(text: str, price: float) -> bool:
    """Whether a text holds the exact price, whatever it means there; of whole prices only those that no count or
    measure is likely to be."""
    whole = price == int(price)
    if (whole and price < 1000) or str(int(price))[-3:] not in text:  # quick, and true of most
        return False
    written = {f"{price:.2f}", f"{price:,.2f}", f"{price:g}", *([f"{price:.0f}", f"{price:,.0f}"] if whole else [])}
    written |= {form.translate(SWAPPED) for form in written}
    return any(form in text and re.search(rf"(?<![\d.,]){re.escape(form)}(?!\d|[.,]\d)", text) for form in written)

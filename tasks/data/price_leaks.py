"""Text that states its own price, found by rule.

What is scrubbed: an amount that is called a price ("Price: $49.99", "MSRP 1,299"), an amount that is offered ("only
Rs. 499", "$30 value"), and any amount of money that is the item's own price. What is not money stays (19.99 inches, a
brand with a $ in it), and so does money that is something else ("insured for $500", a wallet for $5 bills).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tasks.data.items import PRICE_DETAIL

NUMBER = r"(?:\d{1,3}(?:[,.\u00a0]\d{3})+(?:[.,]\d{1,2})?|\d+(?:[.,]\d{1,2})?)(?![\d\w]|[.,]\d)"
# Rs. is told from RS (RS-232, RS 485) by its case.
SIGN = r"(?:(?:\b(?:US\s?|CA|AU|NZ|HK|[ACS]))?\$|€|£|¥|₹|\b(?:USD|EUR|GBP|INR|CAD|AUD)\b|\b(?-i:Rs\b\.?|rs\.))"
WORD = r"(?:USD|EUR|GBP|INR|dollars?|euros?|rupees|bucks)\b|€|£|₹"
AMOUNT = rf"(?:{SIGN}\s?{NUMBER}|{NUMBER}\s?(?:{WORD}))"
SOMETHING_ELSE = r"(?!\s*(?:\+|bills?\b|coins?\b|notes?\b|banknotes?\b|chips?\b|million\b|billion\b|[kmb]\b))"
# After a bare number, what makes it a measure, a count or a share, and not a price.
NOT_MEASURED = (
    r"(?!\s*(?:%|percent|[x\u00d7*/\"'\u201d\u2019-]|\u00b0|for\b|per\b|to\b"
    r"|pack|pk\b|pcs?\b|pieces?\b|count\b|ct\b|sets?\b|pairs?\b|years?\b|days?\b|stars?\b|points?\b"
    r"|inch|in\b|ft\b|feet\b|foot\b|yards?\b|[cmk]?m\b|oz\b|ounces?\b|lbs?\b|pounds?\b|[mk]?g\b|grams?\b"
    r"|[mc]?l\b|lit(?:er|re)s?\b|gal|watts?\b|w\b|v\b|volts?\b|amps?\b|gb\b|tb\b|mb\b|hz\b|mah\b))"
)
KIND = (
    r"(?:list|our|your|sales?|retail|regular|reg\.?|special|suggested|unit|street|original|current|online|store|market"
    r"|best|low|lowest|full|today[\u2019']?s|discount(?:ed)?|introductory|promo(?:tional)?|final|net|selling|asking"
    r"|base|average|normal|usual|recommended|manufacturer[\u2019']?s)"
)
LABEL = r"\b(?:(?:price|cost)s?(?:\s+(?:tag|point))?|msrp|m\.s\.r\.p\.?|rrp|srp|mrp)"
LINK = r"\s*(?:(?:is|was|of|only|just|now|at|from)\b\s*|[:=\u2013\u2014-]\s*){0,3}"
FIRM = r"\s*(?:(?:is|was)\b\s*(?:only|just|now)?\s*|[:=]\s*)"
SELLING = r"yours|get it|buy it(?: now)?|buy now|on sale|sells|sold|selling|retails?|retailing|priced|available|offered"
OFFER = (
    rf"\b(?:(?:{SELLING}|now|save)\s+)?(?:for\s+|at\s+|from\s+)?(?:only|just)"
    rf"|\b(?:{SELLING}|compare)\s+(?:for|at|from)"
    r"|\b(?:starting (?:at|from)|as low as|now|was|originally|sale|special|deal|regular(?:ly)?|reg\.?|asking)\s*:?"
)
CALLED = re.compile(
    rf"{LABEL}{LINK}{AMOUNT}{SOMETHING_ELSE}|{LABEL}{FIRM}{NUMBER}{NOT_MEASURED}"
    rf"|\b(?:msrp|rrp|srp|mrp)\b\s*{NUMBER}{NOT_MEASURED}",
    re.IGNORECASE,
)
KIND_BEFORE = re.compile(rf"(?:\b{KIND}\s+){{1,4}}$", re.IGNORECASE)
MONEY = re.compile(rf"{AMOUNT}{SOMETHING_ELSE}", re.IGNORECASE)
OFFER_BEFORE = re.compile(rf"(?:{OFFER})\s*$", re.IGNORECASE)
OFFER_AFTER = re.compile(
    r"\s*(?:each\b|apiece\b|/?\s?ea\b\.?|msrp\b|rrp\b|retail\b|list price\b|value\b|or best offer\b|obo\b|shipped\b"
    r"|only\b)",
    re.IGNORECASE,
)
FIGURE = re.compile(r"\d[\d.,\u00a0 ]*")
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
    for start, stop, rule in sorted([*_called(text), *_offered(text, price)]):
        if start >= end:
            kept.append(text[end:start])
            leaks.append(Leak(rule, text[start:stop].strip()))
        end = max(end, stop)
    return (" ".join(" ".join([*kept, text[end:]]).split()), leaks) if leaks else (text, [])


def possible(texts: Sequence[str]) -> list[bool]:
    """Whether any rule could match each text, or the name of a detail in it; False for most."""
    return pc.match_substring_regex(pa.array(texts, pa.string()), POSSIBLE).to_pylist()


def _called(text: str) -> Iterator[tuple[int, int, str]]:
    for match in CALLED.finditer(text):
        start = match.start()
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
    leaks = [Leak("price among the details", f"{name}: {value}") for name, value in details.items() if is_price(name)]
    kept = {name: value for name, value in details.items() if not is_price(name)} if leaks else details
    suspects = [name for name, maybe in zip(kept, possible(list(kept.values())), strict=True) if maybe]
    scrubbed = {name: scrub(kept[name], price) for name in suspects}
    leaks += [leak for _, found in scrubbed.values() for leak in found]
    return kept | {name: value for name, (value, _) in scrubbed.items()}, leaks


@functools.lru_cache(maxsize=10_000)
def is_price(name: str) -> bool:
    """Whether a detail of this name is a price."""
    return bool(PRICE_DETAIL.match(name[:80]))


def is_own(words: str, price: float) -> bool:
    """Whether an amount of money is the price itself, or the price to the nearest whole."""
    found = FIGURE.search(words)
    assert found is not None
    figure = re.sub(r"[\u00a0 ]", "", found.group().rstrip(".,\u00a0 "))
    whole, cents = re.fullmatch(r"(.*?)(?:[.,](\d{1,2}))?", figure).groups()
    amount = float(re.sub(r"[.,]", "", whole) or 0) + float(f"0.{cents or 0}")
    return math.isclose(amount, price, abs_tol=0.005) or (not cents and abs(amount - price) < 1)

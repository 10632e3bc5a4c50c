"""Text that states its own price, found by rule.

What is scrubbed: an amount that is called a price ("Price: $49.99", "MSRP 1,299", "Preis 49 €"), an amount that is
offered ("only Rs. 499", "$30 value"), and any amount of money that is the item's own price. Money stands beside a sign
of the data's currency or of a well-known one. What is not money stays (19.99 inches, a brand with a $ in it), and so
does money that is something else ("insured for $500", a wallet for $5 bills).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tasks.data.items import KINDS, is_price_name
from tasks.data.prices import ABROAD, DOLLARS, NAMED_ABROAD, NO_CENTS, alike, bound, number
from tasks.data.prices import FIGURE as WRITTEN

BODY = (
    r"(?:\d{1,3}(?:[,.\u00a0\u2009\u202f'\u2019]\d{3}){1,5}(?:[.,]\d{1,2})?|\d{1,3}(?: \d{3}){1,5}[.,]\d{2}"
    r"|\d{1,2}(?:,\d{2}){1,5},\d{3}|\d+(?:[.,]\d{1,2})?|(?<![\d\w.])\.\d{2})"
)
NUMBER = rf"{BODY}(?![\d\w]|[.,]\d)"
PARTED = r"(?<!\d)(?<!\d[.,])\d{1,3}(?: \d{3}){1,3}(?:[.,]\d{1,2})?"  # in "iPhone 15 990 kr" maybe 15 and 990
# Rs. is told from RS (RS-232, RS 485) by its case.
SIGN = r"(?:(?:\b(?:US\s?|CA|AU|NZ|HK|[ACS]))?\$|€|£|¥|₹|\b(?:USD|EUR|GBP|INR|CAD|AUD)(?![^\W\d])|\b(?-i:Rs\b\.?|rs\.))"
WORD = r"(?:USD|EUR|GBP|INR|dollars?|euros?|rupees|bucks)\b|€|£|₹"
# A price that runs into the next word ("$44.25Multi-Unit") is one only with its cents.
GLUED = rf"{BODY}(?:USD|EUR|GBP|INR)\b"
AMOUNT = (
    rf"(?:{SIGN}\s?(?:{NUMBER}|{GLUED}|\d[\d,]*\.\d{{2}}(?=[a-z]))"
    rf"|{NUMBER}\s?(?:{WORD}|\$(?![\w$]))|(?<!\w)(?<!\d[.,]){GLUED})"
)
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
# Listprice; what comes next is asked first, since it is almost nowhere so.
WITHIN = rf"(?=price)(?:{'|'.join(rf'(?<={kind})' for kind in KINDS)})"
LABEL = rf"(?:\b|(?<=_)|{WITHIN})(?:(?:price|cost)s?(?:\s+(?:tag|point))?|msrp|m\.s\.r\.p\.?|rrp|srp|mrp)"
LINK = r"\s*(?:(?:is|was|of|only|just|now|at|from)\b\s*|[:=\u2013\u2014-]\s*){0,3}"
FIRM = r"[\"']?\s*(?:(?:is|was)\b\s*(?:only|just|now)?\s*|[:=]\s*)[\"']?"
SELLING = r"yours|get it|buy it(?: now)?|buy now|on sale|sells|sold|selling|retails?|retailing|priced|available|offered"
OFFER = (
    rf"\b(?:(?:{SELLING}|now|save)\s+)?(?:for\s+|at\s+|from\s+)?(?:only|just)"
    rf"|\b(?:{SELLING}|compare)\s+(?:for|at|from)"
    r"|\b(?:starting (?:at|from)|as low as|now|was|originally|sale|special|deal|regular(?:ly)?|reg\.?|asking)\s*:?"
)
COUNT = re.compile(r"\s+[a-z]")  # after "costs: 3": screws, and not a price
# JSON, or a Python dict, among the words.
KEYED = re.compile(
    r"\\?([\"'])(?P<key>[^\"'\\{}:,\n]{1,60})\\?\1\s*:\s*(?:\\?\"[^\"\n]{0,40}\"|'[^'\n]{0,40}'|-?[\d.,]*\d|null|None)\s*,?"
)
# "list " of a list price, and what is written as one word with it in other languages ("Verkaufs").
KIND_BEFORE = re.compile(rf"(?:(?:\b{KIND}[\s_]+){{1,4}}|[a-z\u00df-\u00ff]+)$", re.IGNORECASE)
OFFER_BEFORE = re.compile(rf"(?:{OFFER})\s*$", re.IGNORECASE)
OFFER_AFTER = re.compile(
    r"\s*(?:each\b|apiece\b|/?\s?ea\b\.?|msrp\b|rrp\b|retail\b|list price\b|value\b|or best offer\b|obo\b|shipped\b"
    r"|only\b)",
    re.IGNORECASE,
)
FIGURE = re.compile(rf"(?:(?<!\w)|(?=\d)){WRITTEN}")  # the point of "Rs.499" is none before cents
SWAPPED = str.maketrans(".,", ",.")
CENTS = re.compile(r"[.,]\d{1,2}$")
NEARBY = 48  # characters before an amount that say what it is
# Without one of these no rule can match. Arrow looks for them all in one pass, six times sooner than Python can.
SIGNS = r"[$€£¥₹]|INR|CAD|AUD|Rs|\brs\."
WORDS = r"price|cost|[msr]rp|m\.s\.r\.p|usd|eur|gbp|dollar|rupee|bucks|discount|savings"
# To Python, the Turkish letters i are an i too. A capital behind a name is the next word, as in prixTTC.
LATIN = "|".join(filter(str.isascii, ABROAD)).replace("i", "[i\u0130\u0131]")
ELSEWHERE = "|".join([rf"(?:{LATIN})(?:\b|_|(?-i:[A-Z]))", *(name for name in ABROAD if not name.isascii())])
DIGIT = r"[0-9\x{660}-\x{10ffff}]"  # of any script; classes such as \p{Nd} make Arrow slow
POSSIBLE = rf"{SIGNS}|(?i:{WORDS}|{ELSEWHERE})"


class Rules(NamedTuple):
    """What finds statements of prices in one currency; `possible` is for Arrow."""

    called: re.Pattern[str]
    money: tuple[re.Pattern[str], ...]
    possible: str


class Leak(NamedTuple):
    """A statement of a price: the rule that found it, and its words."""

    rule: str
    words: str


@functools.lru_cache(maxsize=100)
def _rules(currency: tuple[str, ...]) -> Rules:
    """The rules for texts in which amounts may stand beside a sign of this currency, too: of krona also "NOK"."""
    signs = sorted(alike(currency), key=lambda sign: (-len(sign), sign))
    if set(signs) <= set(DOLLARS):
        return Rules(_called_rule([AMOUNT], ""), (_money_rule(AMOUNT),), POSSIBLE)
    new = [sign for sign in signs if not re.fullmatch(SIGN, sign, re.IGNORECASE)]
    before = "|".join([*(bound(sign[0]) + re.escape(sign) for sign in new), SIGN])
    after = "|".join([*(re.escape(sign) + bound(sign[-1]) for sign in signs), WORD])
    plain, parted = (
        [rf"(?:{before})\s?{figure}{NO_CENTS}(?![\da-z]|[.,]\d)", rf"(?=[\d.]){figure}{NO_CENTS}\s?(?:{after})"]
        for figure in (BODY, PARTED)
    )
    unseen = "|".join(re.escape(sign) for sign in signs if not re.search(POSSIBLE, sign))
    beside = rf"|(?i:{DIGIT}[^a-z0-9]{{0,5}}(?:{unseen})|(?:{unseen})[^a-z0-9]{{0,2}}{DIGIT})"
    return Rules(
        _called_rule([*parted, AMOUNT, *plain], "|".join(map(re.escape, ["", *signs]))),
        tuple(map(_money_rule, [AMOUNT, *plain, *parted])),
        POSSIBLE + (beside if unseen else ""),
    )


def _money_rule(amount: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{amount}){SOMETHING_ELSE}", re.IGNORECASE)


def _called_rule(amounts: Sequence[str], signs: str) -> re.Pattern[str]:
    money = rf"{LINK}(?:{'|'.join(amounts)}){SOMETHING_ELSE}"
    unit = (
        rf"(?:\s*[(\[]\s*(?:in\s+)?(?:[A-Z]{{3}}|[$€£¥₹]|dollars|euros{signs})\s*[)\]]"
        r"|\s+(?:in\s+)?(?:USD|EUR|GBP|INR|CAD|AUD)\b)?"
    )
    return re.compile(
        rf"(?=[cmprs])(?:{LABEL}{unit}{money}|{LABEL}{unit}{FIRM}(?P<bare>{NUMBER}){NOT_MEASURED}[\"']?"
        rf"|{LABEL}{unit}\s*[:=]\s*([\"']){NUMBER}\2|\b(?:msrp|rrp|srp|mrp)\b\s*{NUMBER}(?!\s*(?:{MEASURES})))"
        rf"|{NAMED_ABROAD}{unit}(?:{money}"
        rf"|[\"']?\s*[:=\uff1a]\s*[\"']?(?P<own>{PARTED}(?!\w|[.,]\d)|{NUMBER}){NO_CENTS}{NOT_MEASURED}[\"']?)",
        re.IGNORECASE,
    )


def scrub(text: str, price: float | None, currency: tuple[str, ...] = DOLLARS) -> tuple[str, list[Leak]]:
    """The text without statements of its price, and these."""
    leaks, end, kept = [], 0, []
    rules = _rules(currency)
    found = [*_keyed(text), *_called(text, price, rules.called)]
    for money in rules.money:
        found += _offered(text, price, money)
    for start, stop, rule in sorted(found):
        if start >= end:
            kept.append(text[end:start])
            leaks.append(Leak(rule, text[start:stop].strip()))
        end = max(end, stop)
    return (" ".join(" ".join([*kept, text[end:]]).split()), leaks) if leaks else (text, [])


def possible(texts: Sequence[str], currency: tuple[str, ...] = DOLLARS) -> list[bool]:
    """Whether any rule could match each text, or the name of a detail in it; False for most."""
    return pc.match_substring_regex(pa.array(texts, pa.string()), _rules(currency).possible).to_pylist()


def _keyed(text: str) -> Iterator[tuple[int, int, str]]:
    for match in KEYED.finditer(text) if "'" in text or '"' in text else ():
        if is_price_name(match["key"].strip()):
            yield match.start(), match.end(), "JSON key of a price"


def _called(text: str, price: float | None, called: re.Pattern[str]) -> Iterator[tuple[int, int, str]]:
    for match in called.finditer(text):
        start, bare = match.start(), match["bare"]
        counts = bare and bare.isdigit() and match.group()[:4].lower() == "cost" and COUNT.match(text, match.end())
        doubtful = bare if counts else match["own"]
        if doubtful and (price is None or not is_own(doubtful, price)):
            continue
        before = KIND_BEFORE.search(text[max(0, start - NEARBY) : start])
        yield start - len(before.group() if before else ""), match.end(), "called a price"


def _offered(text: str, price: float | None, money: re.Pattern[str]) -> Iterator[tuple[int, int, str]]:
    for match in money.finditer(text):
        start, end = match.span()
        before = OFFER_BEFORE.search(text[max(0, start - NEARBY) : start])
        after = OFFER_AFTER.match(text, end)
        if before or after:
            yield start - len(before.group() if before else ""), after.end() if after else end, "offered"
        elif price is not None and is_own(match.group(), price):
            yield start, end, "its own price"


def scrub_details(
    details: dict[str, str], price: float | None, currency: tuple[str, ...] = DOLLARS
) -> tuple[dict[str, str], list[Leak]]:
    """The details without those that are prices by their name, and without statements of the price in the others."""
    leaks = [
        Leak("price among the details", f"{name}: {value}") for name, value in details.items() if is_price_name(name)
    ]
    kept = {name: value for name, value in details.items() if not is_price_name(name)} if leaks else details
    suspects = [name for name, maybe in zip(kept, possible(list(kept.values()), currency), strict=True) if maybe]
    scrubbed = {name: scrub(kept[name], price, currency) for name in suspects}
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

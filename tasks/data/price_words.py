"""The price in the words of a model: docs/prices.md says by which rules. What is not surely a price is none."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

from tasks.data.prices import BLANKS, CODES, DOLLARS, FIGURE, alike, bound, decimal_of, number

REASONING = re.compile(r"<(think|thinking|thought|reasoning|reflection|scratchpad)>.*?(?:</\1>|\Z)", re.I | re.S)
REASONED = re.compile(r".*</(?:think|thinking|thought|reasoning|reflection|scratchpad)>", re.I | re.S)
MARKUP = re.compile(r"[*_`#]+|\\(?=[$()\[\]])")
SIGN = rf"(?:(?:(?:US|CA|AU|NZ|HK|[ACS])\s?)?\$|[€£¥₹]|\b(?:{CODES})\b\s?\$?|\bRs\b\.?)"
WORD = rf"(?:(?:US\s)?dollars?|euros?|rupees|bucks|cents?|(?:{CODES}))\b|[$€£¥₹¢](?!\s?\d)"
SCALES = {"k": 1e3, "thousand": 1e3, "m": 1e6, "mn": 1e6, "million": 1e6}
RANGE = re.compile(r"\s*(?:[-\u2010-\u2015\u2212~]|to|or|\.{2,3})\s*", re.IGNORECASE)
BETWEEN = re.compile(r"\bbetween\s*$", re.IGNORECASE)
AND = re.compile(r"\s*(?:and|&|-|\u2013)\s*", re.IGNORECASE)
HEDGE = r"(?:(?:is|be|of|at|to be|would be|about|around|approximately|approx\.?|roughly|maybe|perhaps|probably|likely|circa|ca\.|between|from|in the range of)\b\.?|[~\u2248])"  # noqa: E501
LABEL = (
    r"\b(?:price(?:d)?(?:\s+tag)?|costs?|estimate[ds]?|answer|guess|value[ds]?|worth|say|pay|sells? for|total)\b"
    r"(?:\s*\((?:in\s+)?[a-z$€£ ]{1,12}\))?(?:\s+in\s+[a-z]+)?"
)
LABELLED = re.compile(rf"{LABEL}[\s:=\"'\u2248~>-]*(?:{HEDGE}[\s:]*)*$", re.IGNORECASE)
STARTS = re.compile(rf"[\W_]*(?:{HEDGE}\s*)*", re.IGNORECASE)
ENDS = re.compile(
    r"\s*(?:$|[^\w\s%\"'\u2032\u2033\u00b0/x\u00d7-]|[\"'](?=\W|$)|\n|or so\b|or thereabouts|each\b|total\b)", re.I
)
# What the words before an amount make of it, the nearest one counting.
OTHER = (
    r"retail\w*|msrp|rrp|list(?:ed|s)?\b|original(?:ly)?|was|were|normally|usually|regular(?:ly)?|sells?|sold|competitors?"
    r"|shipping|delivery|tax|save[sd]?|discount|off|used to|compared?|versus|instead of|brand new|launch(?:ed)?"
)
BOUND = (
    r"under|over|less than|more than|below|above|up to|at least|at most|no more than|max(?:imum)?|min(?:imum)?"
    r"|starting (?:at|from)|cheaper than|exceeds?|not"
)
OWN = (
    r"estimates?|estimated|i(?:'d|\u2019d| would)|my|answer|final(?:ly)?|therefore|thus|hence|so|most likely|fair|now"
    r"|guess|current(?:ly)?|today|worth|pay"
)
MARKS = re.compile(rf"\b(?:(?P<other>{OTHER})|(?P<bound>{BOUND})|(?P<own>{OWN}))\b", re.IGNORECASE)
DIGITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()  # noqa: E501, SIM905
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905
SPELT = {word: n for n, word in enumerate(DIGITS)} | {word: 10 * n for n, word in enumerate(TENS, 2)}
NUMERALS = re.compile(
    rf"\b(?:(?:a|{'|'.join([*SPELT, 'hundred', 'thousand'])})(?:[\s-]+(?:and\s+)?|\b))+(?=dollars?|euros?|bucks|cents)",
    re.IGNORECASE,
)


class Amount(NamedTuple):
    """A number in a text, or the middle of a range: whether it is money, and what the words before make of it."""

    start: int
    end: int
    value: float | None  # None: it cannot be read for certain
    money: bool
    scaled: bool
    cents: bool = False
    before: str | None = None


def price_in(text: str, currency: tuple[str, ...] = DOLLARS) -> float | None:
    """The price in a model's words, in the unit it was asked for; None where it is not certain. A sign of `currency`
    makes a number a price, as the well-known ones do."""
    text = unicodedata.normalize("NFKC", REASONED.sub("", REASONING.sub(" ", text)))
    found, document = _document(text)
    if found:
        return _in_json(document, currency)
    text = NUMERALS.sub(lambda spelt: f"{_spelt(spelt.group())} ", MARKUP.sub("", text))
    amounts = list(_amounts(text, currency))
    money = [amount for amount in amounts if amount.money]
    if money:
        return _chosen(money)
    bare = [
        amount
        for amount in amounts
        if LABELLED.search(text[: amount.start])
        or (STARTS.fullmatch(text[: amount.start]) and ENDS.match(text, amount.end))
    ]
    return _only(bare)


def leading_price(text: str) -> float | None:
    """The price in a text that goes on after a currency sign: the number it starts with, or else that in its words."""
    found = re.match(rf"\s*\$?\s*({FIGURE})", text)
    return _certain(found.group(1), "$") if found else price_in(text)


def _certain(figure: str, sign: str) -> float | None:
    """The number of a figure on its own: one that may be thousands or decimals is none, but for 1,299 (thousands
    everywhere) and 1.299 beside a euro."""
    mark = decimal_of(figure)
    if mark == "?.":
        return number(figure, ",") if re.search("€|eur", sign, re.IGNORECASE) else None
    return number(figure, "," if mark == "," else ".")


@functools.lru_cache(maxsize=100)
def _amount_rule(currency: tuple[str, ...]) -> re.Pattern[str]:
    """What finds an amount, beside which a sign of this currency may stand, too."""
    signs = sorted(unicodedata.normalize("NFKC", sign) for sign in alike(currency) - set(DOLLARS))
    signs.sort(key=len, reverse=True)
    before = [bound(sign[0]) + re.escape(sign) for sign in signs if sign[0] != ":"]  # :- stands behind alone
    after = [re.escape(sign) + (bound(sign[-1]) if sign[-1].isalpha() else r"(?!\s?\d)") for sign in signs]
    return re.compile(
        rf"(?:(?P<sign>{'|'.join([SIGN, *before])})\s?)?(?P<minus>[-\u2212]\s?)?(?P<figure>{FIGURE})"
        rf"(?:\s?(?P<scale>k|thousand|million|mn?)\b)?(?:[-\s]?(?P<word>{'|'.join([WORD, *after])}))?",
        re.IGNORECASE,
    )


def _amounts(text: str, currency: tuple[str, ...]) -> Iterator[Amount]:
    """The numbers of a text; two that are a range, or dollars and cents, are one."""
    held: Amount | None = None
    for found in _amount_rule(currency).finditer(text):
        amount = _amount(text, found, held)
        if amount is None:
            continue
        joined = _join(text, held, amount) if held else None
        if held and joined is None:
            yield held
        held = joined or amount
    if held:
        yield held


def _amount(text: str, found: re.Match[str], held: Amount | None) -> Amount | None:
    start, end = found.start("sign" if found["sign"] else "figure"), found.end()
    sign, word, scale = (found[name] or "" for name in ("sign", "word", "scale"))
    before = text[:start].rstrip(BLANKS)
    # Part of a word, a measure or a share: GPT-4, 65-inch, 20%.
    in_word = not sign and re.search(r"[^\W\d]-?$|\d[/:x]$", text[:start])
    of_word = not word and not scale and re.match(r"[-/:]?[^\W\d_]|\s?%|[/:]\d", text[end:])
    if in_word or (of_word and not sign and not re.match(r"-?ish\b", text[end:])):
        return None
    # A minus belongs to the number unless it joins it to one before.
    joins = held is not None and RANGE.fullmatch(text[held.end : found.start("figure")].replace(sign, ""))
    negative = not joins and (found["minus"] or re.search(r"(?:^|[\s(:])[-\u2212]$", before))
    value = None if negative else _certain(found["figure"], sign + word)
    if value is not None:
        value = value * SCALES.get(scale.lower(), 1.0)
    cents = word.lower() in ("cent", "cents", "¢")
    if cents and value is not None:
        value /= 100
    marks = list(MARKS.finditer(text, held.end if held else 0, start))
    sentence = max(text.rfind(stop, 0, start) for stop in (". ", "\n", "; "))
    marks = [mark for mark in marks if mark.start() > sentence]
    return Amount(start, end, value, bool(sign or word), bool(scale), cents, marks[-1].lastgroup if marks else None)


def _join(text: str, one: Amount, other: Amount) -> Amount | None:
    """Two amounts as one: the middle of a range, or dollars with their cents; None if they are two."""
    between = text[one.end : other.start]
    if other.cents and one.money and not one.cents and AND.fullmatch(between):
        total = None if one.value is None or other.value is None else one.value + other.value
        return one._replace(end=other.end, value=total)
    bound = BETWEEN.search(text[: one.start]) and AND.fullmatch(between)
    if not bound and not RANGE.fullmatch(between):
        return None
    low, high = one.value, other.value
    if low is not None and high is not None:
        if other.scaled and not one.scaled and low < high:
            low *= 1000 if high < 1e6 else 1e6  # $1-2k
        if other.cents and not one.money:
            low /= 100
        middle = (low + high) / 2 if low <= high else None
    else:
        middle = None
    return one._replace(end=other.end, value=middle, money=one.money or other.money, cents=other.cents)


def _only(amounts: list[Amount]) -> float | None:
    """The one value of the amounts; None if there are several, or one that cannot be read."""
    values = {amount.value for amount in amounts}
    value = values.pop() if len(values) == 1 else None
    return value if value else None  # nothing costs nothing


def _chosen(money: list[Amount]) -> float | None:
    """The amount that is the answer: the model's own estimate, else the one beside which there are only others'."""
    own = [amount for amount in money if amount.before == "own"]
    if own:
        return _only(own)
    plain = [amount for amount in money if amount.before is None]
    if plain:
        return _only(plain)
    return _only(money) if all(amount.before == "other" for amount in money) else None


def _spelt(words: str) -> int:
    total = part = 0
    for word in re.findall("[a-z]+", words.lower()):
        if word == "hundred":
            part = (part or 1) * 100
        elif word == "thousand":
            total, part = total + (part or 1) * 1000, 0
        else:
            part += SPELT.get(word, 0)
    return total + part


PRICE_KEY = re.compile(r"price|estimate|answer|guess|amount|value|cost|usd|dollars|result", re.IGNORECASE)
OTHER_KEY = re.compile(
    r"list|retail|msrp|rrp|original|ship|range|currency|reason|confid|explan|unit|note", re.IGNORECASE
)
LOW, HIGH = (re.compile(words, re.IGNORECASE) for words in ("low|min|from", "high|max|upper|to$"))


def _document(text: str) -> tuple[bool, Any]:
    """The JSON that an answer is or holds, in a fence or among words."""
    bare = re.sub(r"^\s*```\w*|```\s*$", "", text.strip()).strip()
    for start in [0, *(found.start() for found in re.finditer(r"[{\[]", bare))]:
        try:
            document, _ = json.JSONDecoder().raw_decode(bare[start:])
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict) or (isinstance(document, list) and document and start == 0):
            return True, document
    return False, None


def _in_json(value: Any, currency: tuple[str, ...], deep: int = 0) -> float | None:
    """The price in a JSON value: a number, words, or what stands under the key of a price."""
    if isinstance(value, bool) or value is None or deep > 4:
        return None
    if isinstance(value, int | float):
        return float(value) if 0 < value < 1e300 else None
    if isinstance(value, str):
        return price_in(value, currency)
    if isinstance(value, list):
        return _in_json(value[0], currency, deep + 1) if len(value) == 1 else None
    fields = {str(key).strip().lower(): part for key, part in value.items()}
    if "price" in fields:
        return _in_json(fields["price"], currency, deep + 1)
    priced = {key: part for key, part in fields.items() if PRICE_KEY.search(key) and not OTHER_KEY.search(key)}
    ends = [[part for key, part in fields.items() if end.search(key)] for end in (LOW, HIGH)]
    single = [part for key, part in priced.items() if not LOW.search(key) and not HIGH.search(key)]
    prices = {_in_json(part, currency, deep + 1) for part in single}
    if prices:
        return prices.pop() if len(prices) == 1 else None
    if [len(end) for end in ends] == [1, 1]:
        low, high = (_in_json(end[0], currency, deep + 1) for end in ends)
        return (low + high) / 2 if low is not None and high is not None and low <= high else None
    return None

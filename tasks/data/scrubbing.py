"""The rules that clean an item's text: markup, boilerplate punctuation, part numbers, statements of its price."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.config.experiment import Data
from tasks.data import price_leaks
from tasks.data.items import Item, collapse

MARKUP = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|$)|<!--.*?(?:-->|$)|</?[a-z][^<>]*>", re.IGNORECASE | re.DOTALL)
# Tags that were escaped, by their names and by what stands in them: "<your name>" and "a <b and c> d" are words.
ELEMENTS = (
    "a|abbr|b|big|blockquote|br|center|code|dd|div|dl|dt|em|font|h[1-6]|hr|i|img|li|ol|p|pre|section|small|span|strong|sub"
    "|sup|table|tbody|td|th|thead|tr|u|ul"
)
ATTRIBUTE = r"\s+[a-z][\w:-]*\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>]+)"
SPELT_MARKUP = re.compile(
    rf"<(script|style)\b[^<>]*>.{{0,9999}}?</\1\s*>|<!--.{{0,9999}}?-->|</?(?:{ELEMENTS})(?:{ATTRIBUTE})*\s*/?>",
    re.IGNORECASE | re.DOTALL,
)
REFERENCE = re.compile(r"&(?:#\d+|#x[\da-f]+|[a-z][a-z\d]*);", re.IGNORECASE)  # not the "&not" of "pen&notebook"
RUNS = re.compile(r"([^\w\s])\1{2,}")
MAYBE_RUN = r"[^0-9A-Za-z_\s]{3}"  # what Arrow's expressions, which know no back references, can tell of RUNS
DIGIT = re.compile(r"\d")
FRACTION = re.compile(r"\W*\d+(?:[.,]\d+)+\W*|\W*\d+(?:\.\d+)?e[+-]?\d+\W*", re.IGNORECASE)
PART_NUMBER = 7  # characters and more, of which one is a digit: the recipe's rule


def scrub(items: Sequence[Item], rules: Data) -> list[tuple[Item, list[price_leaks.Leak]]]:
    """Each item with its text and details cleaned by the rules, and the statements of its price that were found.

    Column by column, since most texts need nothing done and Arrow tells which do.
    """
    titles = [without_markup(item.title) for item in items]
    texts = [without_markup(item.text) for item in items]
    details = [item.details for item in items]
    found: list[list[price_leaks.Leak]] = [[] for _ in items]
    if rules.leaks != "keep":
        columns = zip(titles, texts, details, strict=True)
        whole = ["\n".join([title, text, *named, *named.values()]) for title, text, named in columns]
        for n in np.flatnonzero(price_leaks.possible(whole, rules.currency)):
            price = items[n].price
            titles[n], in_title = price_leaks.scrub(titles[n], price, rules.currency)
            texts[n], in_text = price_leaks.scrub(texts[n], price, rules.currency)
            details[n], in_details = price_leaks.scrub_details(details[n], price, rules.currency)
            in_text_too = {leak.words for leak in in_text}  # a detail stands in the text as well: one leak, not two
            found[n] = [*in_title, *in_text, *(leak for leak in in_details if leak.words not in in_text_too)]
    if rules.part_numbers == "scrub":
        titles, texts = [[without_part_numbers(text) for text in column] for column in (titles, texts)]
    titles, texts = shorten_runs(titles), [cut(text, rules.text_max) for text in shorten_runs(texts)]
    return [
        (dataclasses.replace(item, title=title, text=text, details=named, category=without_markup(item.category)), told)
        for item, title, text, named, told in zip(items, titles, texts, details, found, strict=True)
    ]


def without_markup(text: str) -> str:
    """The text without tags, scripts and comments, its character references spelt out; product feeds often escape what
    is escaped already."""
    if "<" in text:
        text = collapse(MARKUP.sub(" ", text))
    if "&" not in text:
        return text
    text = html.unescape(text)
    if "&" in text:
        text = REFERENCE.sub(lambda reference: html.unescape(reference.group()), text)
    return collapse(SPELT_MARKUP.sub(" ", text) if "<" in text else text)


def without_part_numbers(text: str) -> str:
    """The text without words of seven characters or more that hold a digit, but for numbers with a fraction."""
    # Most words are short or of letters alone, which is quick to see.
    words = text.split(" ")
    return " ".join([word for word in words if len(word) < PART_NUMBER or word.isalpha() or not _is_part_number(word)])


def _is_part_number(word: str) -> bool:
    return DIGIT.search(word) is not None and FRACTION.fullmatch(word) is None


def shorten_runs(texts: Sequence[str]) -> list[str]:
    """The texts with every run of three or more of one punctuation mark as a single one."""
    candidates = pc.match_substring_regex(pa.array(texts, pa.string()), MAYBE_RUN).to_pylist()
    return [RUNS.sub(r"\1", text) if maybe else text for text, maybe in zip(texts, candidates, strict=True)]


def cut(text: str, most: int) -> str:
    """The text, cut between words where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most + 1].rpartition(" ")[0] or text[:most]

"""The rules that clean an item's text: markup, boilerplate punctuation, part numbers, statements of its price."""

from __future__ import annotations

import dataclasses
import html
import re

from tasks import leaks
from tasks.config import Data
from tasks.items import Item, collapse

MARKUP = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|$)|<!--.*?(?:-->|$)|</?[a-z][^<>]*>", re.IGNORECASE | re.DOTALL)
RUNS = re.compile(r"([^\w\s])\1{2,}")
DIGIT = re.compile(r"\d")
FRACTION = re.compile(r"\W*\d+(?:[.,]\d+)+\W*|\W*\d+(?:\.\d+)?e[+-]?\d+\W*", re.IGNORECASE)
PART_NUMBER = 7  # characters and more, of which one is a digit: the recipe's rule


def scrub(item: Item, rules: Data) -> tuple[Item, list[leaks.Leak]]:
    """The item with its text and details cleaned by the rules, and the statements of its price that were found."""
    title, text, details = without_markup(item.title), without_markup(item.text), item.details
    found: list[leaks.Leak] = []
    if rules.leaks != "keep":
        title, in_title = leaks.scrub(title, item.price)
        text, in_text = leaks.scrub(text, item.price)
        details, in_details = leaks.scrub_details(details, item.price)
        in_text_too = {leak.words for leak in in_text}  # a detail stands in the text as well: one leak, not two
        found = [*in_title, *in_text, *(leak for leak in in_details if leak.words not in in_text_too)]
    if rules.part_numbers == "scrub":
        title, text = without_part_numbers(title), without_part_numbers(text)
    title, text = shorten_runs(title), cut(shorten_runs(text), rules.text_max)
    category = without_markup(item.category)
    return dataclasses.replace(item, title=title, text=text, details=details, category=category), found


def without_markup(text: str) -> str:
    """The text without tags, scripts and comments, its character references spelt out."""
    if "<" in text:
        text = collapse(MARKUP.sub(" ", text))
    return collapse(html.unescape(text)) if "&" in text else text


def without_part_numbers(text: str) -> str:
    """The text without words of seven characters or more that hold a digit, but for numbers with a fraction."""
    # Most words are short or of letters alone, which is quick to see.
    words = text.split(" ")
    return " ".join([word for word in words if len(word) < PART_NUMBER or word.isalpha() or not _is_part_number(word)])


def _is_part_number(word: str) -> bool:
    return DIGIT.search(word) is not None and FRACTION.fullmatch(word) is None


def shorten_runs(text: str) -> str:
    """The text with every run of three or more of one punctuation mark as a single one."""
    return RUNS.sub(r"\1", text)


def cut(text: str, most: int) -> str:
    """The text, cut between words where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most + 1].rpartition(" ")[0] or text[:most]

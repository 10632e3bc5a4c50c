"""What a look at somebody's file finds out: columns, encoding, separator, currency, decimal mark, a window of prices.

All of it is a guess that a person is asked about. The readers and the rules are those of curation, so that what is
shown is what will be read.
"""

from __future__ import annotations

import contextlib
import math
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tasks.config.experiment import Data
from tasks.data.cleaning import Tally, clean_rows, plan_of
from tasks.data.files.columns import WORDS, plan
from tasks.data.files.delimited import REJECTED, Row
from tasks.data.files.encodings import encoding_of
from tasks.data.files.kinds import kind_of
from tasks.data.files.shards import separator_of
from tasks.data.inspection.roles import NESTED, columns_of, guess, plain, price_within
from tasks.data.items import Item, RejectedError
from tasks.data.prices import BLANKS, CODES, CURRENCIES, DOLLARS, FOUND, NO_PRICE, Evidence, UnreadableError, read_cell
from tasks.data.sources import check_columns, list_files, read_files
from tasks.errors import UserError

MOST = 50_000  # rows that are looked at
SHOWN = 5  # items
ISO = frozenset(CODES.split("|"))
NEARLY_ALL = 0.9  # of the prices have a sign that is not known, so that it counts
# What makes a bound of a price, or that of a unit, in the languages of many shops.
NO_SIGNS = {"from", "ab", "dès", "desde", "da", "od", "fra", "från", "от", "min", "max", "bis", "ca", "ca."}
NO_SIGNS |= {"each", "ea", "ea.", "per", "je", "pcs"}
HIGHEST = 999.49  # the highest price that a language model answers with three digits


@dataclass(frozen=True)
class Findings:
    """What was found. `rules` are those of the conf with all of it put in; `told` says of each rule why, `given` are
    those that stood, `items` are the first ones as they would be read, `tally` what would be dropped of the `rows` that
    were looked at.

    `unit` is what a step of the language model's answer is worth, in what the prices are in.
    """

    rules: Data
    told: dict[str, str]
    given: Mapping[str, Any]
    file: Path
    form: str
    columns: list[str]
    rows: int
    whole: bool
    items: list[Item]
    tally: Tally
    unit: float


def inspect(path: str, conf: Data, given: Mapping[str, Any]) -> Findings:
    """Look at a file, or at all files below a folder or of a glob, under the rules of a conf; what is `given` of these
    stands.

    Raises:
        UserError: nothing is there, it cannot be read, or no column of it can be the price or the text.
    """
    files = list_files(path)
    rules = conf.model_copy(update={"source": "files", "path": path, **given})
    rows = list(islice(read_files(path, rules), MOST + 1))
    whole, rows = len(rows) <= MOST, rows[:MOST]
    sound = [row for row in rows if REJECTED not in row]
    if not sound:
        raise UserError(f"{path} holds no rows that can be read. Expected a title or text, and a price, in each.")
    told: dict[str, str] = {}
    rules = rules.model_copy(update={"columns": guess(sound, rules.columns)})
    _check(path, sound, rules)
    for file in files:
        check_columns(file, rules)
    kind = kind_of(files[0], rules.encoding)
    if rules.encoding is None:
        written = {encoding_of(file, None) for file in files if kind_of(file) != "parquet"}
        # Unicode says so by itself; of files in several encodings, each is found out again when it is read.
        if len(written) == 1 and not written & {"utf-8", "utf-8-sig", "utf-16", "utf-32"}:
            rules = rules.model_copy(update={"encoding": written.pop()})
            told["encoding"] = "found out from the bytes"
    cells = list(_prices(sound, rules))
    if "currency" not in given:
        rules = _currency(cells, sound, rules, told)
    if "decimal" not in given:
        rules = _decimal(cells, rules, told)
    rules, unit = _window(cells, rules, given, told)
    cleaned = clean_rows(rows, rules)
    return Findings(
        rules=rules,
        told=told,
        given=given,
        file=files[0],
        form=_form(files[0], kind, rules),
        columns=[column.name for column in columns_of(sound)],
        rows=len(rows),
        whole=whole,
        items=cleaned.items[:SHOWN],
        tally=cleaned.tally,
        unit=unit,
    )


def _form(file: Path, kind: str, rules: Data) -> str:
    """How a file is read, in words."""
    if kind == "parquet":
        return "Parquet"
    encoding = rules.encoding or encoding_of(file, None)
    if kind == "table":
        marks = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
        mark = separator_of(file, encoding)
        return f"a table parted by {marks.get(mark, repr(mark))}, {encoding}"
    return f"{'one JSON object a line' if kind == 'lines' else 'a JSON document'}, {encoding}"


def _check(path: str, rows: Sequence[Row], rules: Data) -> None:
    """Refuse rows of which none has a price and words; columns that are there twice are another matter.

    Raises:
        UserError: no row has both a price and words.
    """
    fields: set[str] = set()
    absent: set[str] | None = None
    for row in rows[:1000]:
        found = plan(tuple(row), rules.columns)
        if found.twice:
            return
        absent = set(found.missing) & (set(found.missing) if absent is None else absent)
        there = {ours: value for ours, value in found.of(row).items() if value not in (None, "")}
        fields |= {ours for ours, value in there.items() if ours != "price" or not isinstance(value, NESTED)}
    if absent:
        names = ", ".join(column.name for column in columns_of(rows)[:20])
        raise UserError(f"{path} has no column {' and '.join(sorted(absent))}. It has the columns {names}.")
    if "price" not in fields and (where := price_within(rows)):
        raise UserError(
            f"{path} has its prices within other values, in {where}. Expected a column of prices. Write them as one, "
            f"such as by jq {shlex.quote(f'.price = {where}')} for each object, or name one that is there: "
            f"pricewright init {shlex.quote(path)} data.columns.price=NAME"
        )
    missing = [] if "price" in fields else ["the price"]
    missing += [] if WORDS & fields else ["the title or text"]
    if missing:
        names = ", ".join(column.name for column in columns_of(rows)[:20])
        ours = "price" if "price" not in fields else "title"
        raise UserError(
            f"{path} has the columns {names}. None of them looks like {' or '.join(missing)}. Say which it is: "
            f"pricewright init {shlex.quote(path)} data.columns.{ours}=NAME"
        )


def _prices(rows: Sequence[Row], rules: Data) -> Iterator[Any]:
    for row in rows:
        with contextlib.suppress(RejectedError):
            yield plan_of(tuple(row), rules).of(row).get("price")


def _currency(cells: Sequence[Any], rows: Sequence[Row], rules: Data, told: dict[str, str]) -> Data:
    """The rules with the currency that most prices are in: by the signs beside them, by a column of codes, or by the
    name of the price's own column."""
    signs, (column, codes) = _signs(cells), _codes(rows)
    name = str(rules.columns.get("price", ""))
    in_name = {code for code in plain(name).upper().split() if code in ISO} | set(filter(_is_mark, name))
    if signs:
        sign, count = signs.most_common(1)[0]
        why = f"{sign} stands beside {count:,} of {len(cells):,} prices"
    elif codes:
        sign, count = codes.most_common(1)[0]
        why = f"{column} says {sign} in {count:,} of {len(rows):,} rows"
    elif len(in_name) == 1:
        sign = in_name.pop()
        why = f"the name {name} says {sign}"
    else:
        return rules
    known = _group(sign)
    if len(codes) > 1:
        several = " and ".join(sorted(code for code, _ in codes.most_common(3)))
        why = f"NOT CERTAIN: {column} holds {several}, and nothing is converted. Leave the rows of one in the file"
    elif not known:
        why = f"NOT CERTAIN: {why}, and may be no currency. Then give data.currency='[$]'"
    if known != DOLLARS or len(codes) > 1:
        told["currency"] = why
    if known == DOLLARS:
        return rules
    beside = [other for other in signs if _group(other) == known] or [sign]
    return rules.model_copy(update={"currency": tuple(dict.fromkeys((*beside, *known[:2])))})


def _signs(cells: Sequence[Any]) -> Counter[str]:
    """How many prices have which sign. One that is not known counts beside nearly all of them only: it may be a word
    such as "used", which makes another thing of a price."""
    signs = Counter(sign for cell in cells if isinstance(cell, str) and (sign := _sign(cell)))
    enough = NEARLY_ALL * sum(bool(re.search(r"\d", str(cell))) for cell in cells)
    return Counter({sign: count for sign, count in signs.items() if _group(sign) or count >= enough})


def _codes(rows: Sequence[Row]) -> tuple[str, Counter[str]]:
    """The column that names the currency of each row, and how many rows name which: it holds codes alone, or is called
    so and holds what may be some."""
    for name in (column.name for column in columns_of(rows)):
        called = "currency" in plain(name).split()
        codes: Counter[str] = Counter()
        for row in rows:
            value = row.get(name)
            code = value.strip() if isinstance(value, str) else "" if value is None else "?"
            if code.upper() in ISO or (called and (_group(code) or re.fullmatch("[A-Za-z]{3}", code))):
                codes[code.upper() if code.isascii() else code] += 1
            elif code.lower() not in NO_PRICE:
                break
        else:
            if codes:
                return name, codes
    return "", Counter()


def _decimal(cells: Sequence[Any], rules: Data, told: dict[str, str]) -> Data:
    """The rules with the decimal mark that the prices show, where it was worth a thought."""
    evidence = Evidence()
    for cell in cells:
        evidence.look(cell)
    try:
        mark, examples = evidence.decide()
        if evidence.counts:
            shown = examples or next(
                (evidence.examples[m] for m in (".", ",", "?.", "?,") if m in evidence.examples), []
            )
            told["decimal"] = f"as {' and '.join(map(repr, shown[:2]))} show"
    except UnreadableError as error:
        mark = _likelier(evidence)
        meaning = "a comma" if mark == "," else "a point"
        told["decimal"] = f"NOT CERTAIN: {error}. Taken: {meaning} before the cents"
    return rules.model_copy(update={"decimal": mark}) if "decimal" in told else rules


def _likelier(evidence: Evidence) -> str:
    """The decimal mark of a column that could be read either way: marks before three digits part thousands, as hardly
    any price has three digits of cents; else what more of its values show."""
    point = evidence.counts.get(".", 0) + evidence.counts.get("?,", 0)
    comma = evidence.counts.get(",", 0) + evidence.counts.get("?.", 0)
    return "," if comma > point else "."


def _sign(cell: str) -> str:
    """What stands before or after the figure of a price, if it may be a sign or a code of a currency."""
    found = FOUND.search(cell)
    sides = (cell[: found.start()], cell[found.end() :]) if found else ()
    signs = [sign for side in sides if (sign := side.strip(f"{BLANKS}\t\r\n-\u2013\u2014,*\u2020\u2021"))]
    if len(signs) != 1 or len(signs[0]) > 4 or any(map(str.isdigit, signs[0])):
        return ""
    starts = signs[0][0].isalpha() or _is_mark(signs[0][0])  # unlike < and /kg
    return signs[0] if starts and not NO_SIGNS & set(signs[0].casefold().split()) else ""


def _group(sign: str) -> tuple[str, ...]:
    """The signs of the currency that a sign is surely one of; none where it may be no currency."""
    for group in CURRENCIES:
        if sign.casefold() in map(str.casefold, group):
            return group
    marks = re.sub(r"[\w.\s]", "", sign)
    return (sign,) if sign.upper() in ISO or (marks and all(map(_is_mark, marks))) else ()


def _is_mark(character: str) -> bool:
    """Whether it is a sign of a currency, such as ₪."""
    return unicodedata.category(character) == "Sc"


def _window(cells: Sequence[Any], rules: Data, given: Mapping[str, Any], told: dict[str, str]) -> tuple[Data, float]:
    """The rules with a window that 99% of the prices are in, and what a step of the language model's answer is worth:
    it answers with three digits, so that of prices in the thousands it gives the tens."""
    prices = []
    for cell in cells:
        with contextlib.suppress(UnreadableError):
            prices.append(read_cell(cell, rules.decimal or ".", rules.currency))
    if not prices:
        return rules, 1.0
    low, middle, high = np.quantile(prices, (0.005, 0.5, 0.99))
    power = math.ceil(math.log10(high / HIGHEST))
    unit = 10.0 ** (power if power > 0 or middle < 1 else 0)
    changes = {}
    if unit != 1 and "price_max" not in given:
        changes["price_max"] = float(f"{HIGHEST * unit:.6g}")
        told["price_max"] = f"99% of the prices are {high:,.2f} or less"
    if low < rules.price_min and "price_min" not in given:
        changes["price_min"] = float(f"{10.0 ** math.floor(math.log10(min(prices))):.6g}")
        told["price_min"] = f"the lowest price is {min(prices):g}"
    return rules.model_copy(update=changes), unit

"""One shard of raw rows becomes a Parquet file of clean items, and a tally of what happened to the rows."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import heapq
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.config.experiment import Data
from tasks.data import minhash, price_leaks, splits
from tasks.data.files import shards
from tasks.data.files.columns import Plan, plan
from tasks.data.files.delimited import LINE, REJECTED, Row
from tasks.data.files.documents import NOTED
from tasks.data.files.shards import Shard
from tasks.data.items import NESTED, Item, RejectedError, from_row
from tasks.data.price_leaks import Leak
from tasks.data.prices import Evidence, shown
from tasks.data.scrubbing import scrub
from tasks.data.tokens import have_tokens
from tasks.digests import fraction

EXAMPLES = 10
BATCH = 1024  # rows cleaned at once
# Prices that stand for "none": 0.01, runs of nines or ones, round millions. Reported wherever they are.
PLACEHOLDER = re.compile(r"0\.01|9{3,}(\.9+)?|1{3,}(\.1+)?|[1-9]0{6,}|1234(56?7?8?9?)?(\.\d+)?")
NO_PRICE = "no price"
EMPTIED = "no words in title and text after cleaning"
STILL_STATED = "exact price still in the text or details"
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # of this run: the number of the shard and of the item in it
        ("digest", pa.string()),  # of all the item's content: the tie-breaker that depends on nothing else
        ("same", pa.string()),  # of title and text, whatever their case: equal for exact duplicates
        *splits.SCHEMA,
        ("split_draw", pa.float64()),  # which split
        ("draw", pa.float64()),  # which are kept under the cap of a split
        ("slot_draw", pa.float64()),  # which are kept under the cap of a dollar, by weight
        ("signature", pa.binary()),
    ]
)


@dataclass
class Tally:
    """What happened to rows: how many were read, dropped and noted, by reason, with ten examples of each.

    Examples are chosen by hash, so that they are the same in whatever order rows come.
    """

    read: int = 0
    rejected: int = 0  # while cleaning; duplicates and what is beyond a cap were sound rows
    kept: int = 0
    dropped: Counter = field(default_factory=Counter)
    noted: Counter = field(default_factory=Counter)
    placeholders: Counter = field(default_factory=Counter)
    highest: float = 0.0
    lowest: float = math.inf
    examples: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    decimal: Evidence = field(default_factory=Evidence)
    unpriced: list[dict[str, str]] = field(default_factory=list)  # rows without a price, as they came

    def drop(self, reason: str, example: str) -> None:
        """Count a row that is left out."""
        self.rejected += 1
        self.dropped[reason] += 1
        self.show(reason, example)

    def note(self, what: str, example: str, count: int = 1) -> None:
        """Count something that was done to a row that stays."""
        self.noted[what] += count
        self.show(what, example)

    def show(self, reason: str, example: str) -> None:
        """Keep an example if it is among the first ten by hash."""
        known = self.examples.setdefault(reason, [])
        new = (zlib.crc32(example[:500].encode(errors="replace")), example[:160])
        if new not in known and (len(known) < EXAMPLES or new < known[-1]):
            known[:] = heapq.nsmallest(EXAMPLES, [*known, new])

    def priced(self, price: float) -> None:
        """Look at a price before any rule does."""
        self.highest, self.lowest = max(self.highest, price), min(self.lowest, price)
        if PLACEHOLDER.fullmatch(name := f"{price:.15g}"):
            self.placeholders[name] += 1

    def add(self, other: Tally) -> None:
        """Count in what happened elsewhere."""
        self.read, self.kept, self.rejected = (
            self.read + other.read, self.kept + other.kept, self.rejected + other.rejected,
        )  # fmt: skip
        self.dropped, self.noted = self.dropped + other.dropped, self.noted + other.noted
        self.placeholders += other.placeholders
        self.highest, self.lowest = max(self.highest, other.highest), min(self.lowest, other.lowest)
        self.decimal.add(other.decimal)
        self.unpriced = sorted([*self.unpriced, *other.unpriced], key=str)[:EXAMPLES]
        for reason, examples in other.examples.items():
            merged = {*self.examples.get(reason, []), *((rank, example) for rank, example in examples)}
            self.examples[reason] = heapq.nsmallest(EXAMPLES, merged)

    def summary(self) -> str:
        """One sentence."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.most_common()) or "none dropped"
        return f"{self.read:,} rows read; {reasons}."


class Cleaned(NamedTuple):
    """What became of rows: the items that keep to the rules, and the tally of all rows."""

    items: list[Item]
    tally: Tally


def clean_shard(shard: Shard, number: int, rules: Data, seed: int, tokenizer: str | None, folder: str) -> Tally:
    """Clean a shard's rows, write the items that keep to the rules to `<folder>/<number>.parquet`, and say what
    happened.

    Raises:
        UserError: the shard cannot be read.
    """
    items: list[Item] = []
    tally = Tally()
    with _uncollected():
        rows = shards.read(shard)
        while batch := list(islice(rows, BATCH)):
            cleaned = clean_rows(batch, rules, tokenizer)
            items += cleaned.items
            tally.add(cleaned.tally)
        write_items(Path(folder) / f"{number}.parquet", number, items, rules, seed)
    if shard.temporary:
        Path(shard.path).unlink(missing_ok=True)
    return tally


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for cyclic garbage: rows and items hold none, and it takes a fifth of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def clean_rows(rows: Sequence[Row], rules: Data, tokenizer: str | None = None) -> Cleaned:
    """The items of raw rows that keep to the rules, their texts cleaned."""
    read, tally = read_rows(rows, rules)
    cleaned, scrubbed = clean_items(read, rules)
    tally.add(scrubbed)
    items = []
    for item, leaks in cleaned:
        try:
            check(item, leaks, rules)
        except RejectedError as rejection:
            tally.drop(str(rejection), _named(item))
        else:
            items.append(item)
    if tokenizer is not None:
        enough = have_tokens(items, rules.tokens_min, tokenizer)
        for item in (item for item, passes in zip(items, enough, strict=True) if not passes):
            tally.drop(f"fewer than {rules.tokens_min} tokens", _named(item))
        items = [item for item, passes in zip(items, enough, strict=True) if passes]
    tally.kept = len(items)
    return Cleaned(items, tally)


def read_rows(rows: Sequence[Row], rules: Data) -> Cleaned:
    """The items of raw rows as they are written there; rows without words or a price are dropped."""
    items, tally = [], Tally(read=len(rows))
    decimal, keys, found = rules.decimal or ".", None, None
    for row in rows:
        if REJECTED in row:
            tally.drop(row[REJECTED], row[LINE])
            continue
        if NOTED in row:
            tally.note(row[NOTED], _words(row.get("title") or row.get("text") or row, 160))
        try:
            if (names := tuple(row)) != keys:  # most rows have the keys of the one before
                keys, found = names, None
            found = found or plan_of(names, rules)
            fields = found.of(row)
            if rules.decimal is None:
                tally.decimal.look(fields.get("price"))
            item = from_row(fields, decimal=decimal, currency=rules.currency)
        except RejectedError as rejection:
            tally.drop(str(rejection), _example(row, rules))
            if str(rejection) == NO_PRICE and len(tally.unpriced) < EXAMPLES:
                tally.unpriced.append({str(key): _words(value, 40) for key, value in row.items()})
        else:
            tally.priced(item.known_price)
            items.append(item)
    return Cleaned(items, tally)


def plan_of(keys: tuple[str, ...], rules: Data, *, strict: bool = True) -> Plan:
    """Which of the keys of a row are which of our fields, by the conf or by their own names; `strict` as in `plan`.

    Raises:
        RejectedError: two of them are the same but for case, so that nobody knows which one counts.
    """
    found = plan(keys, rules.columns, strict=strict)
    if found.twice:
        ours, names = found.twice[0]
        raise RejectedError(f"two keys for {ours}: {' and '.join(names)}")
    return found


def fields_of(row: Row, rules: Data, *, strict: bool = True) -> Row:
    """The row under our names; `strict` as in `plan`.

    Raises:
        RejectedError: as `plan_of`.
    """
    return plan_of(tuple(row), rules, strict=strict).of(row)


def _example(row: Row, rules: Data) -> str:
    fields = plan(tuple(row), rules.columns).of(row)
    name = fields.get("title") or fields.get("text") or fields.get("id") or row
    return f"{_words(name, 120)} ({_words(fields.get('price'), 40)})"


def _words(value: Any, most: int) -> str:
    try:
        return str(value)[:most]
    except RecursionError:
        return f"({NESTED})"


def _named(item: Item) -> str:
    return f"{(item.title or item.text or item.id)[:120]} ({shown(item.price or 0)})"


def clean_items(items: Sequence[Item], rules: Data) -> tuple[list[tuple[Item, list[Leak]]], Tally]:
    """Each item with its text cleaned by the rules, and the statements of its price; the tally notes what was done."""
    cleaned, tally = scrub(items, rules), Tally()
    for before, (item, leaks) in zip(items, cleaned, strict=True):
        for leak in leaks:
            tally.note(f"price in the text: {leak.rule}", f"{leak.words} | {item.title} ({item.price})")
        if len(before.text) > rules.text_max:
            tally.note(f"text cut at {rules.text_max:,} characters", item.title)
        if item.price is not None and price_leaks.states(_everything(item), item.price):
            tally.note(STILL_STATED, f"{item.title[:80]} ({shown(item.price)}): {_around(item)}")
    return cleaned, tally


def as_trained(items: Sequence[Item], rules: Data | None) -> list[Item]:
    """Items to be priced, their texts cleaned as those were that a model was trained on; without rules, as they are."""
    return list(items) if rules is None else [item for item, _ in scrub(items, rules)]


def _everything(item: Item) -> str:
    return "\n".join([item.title, item.text, *item.details.values()])


def _around(item: Item) -> str:
    text = _everything(item)
    at = max(text.find(f"{item.price:.2f}"), text.find(f"{item.price:g}"), 0)
    return f"...{text[max(0, at - 30) : at + 30]}...".replace("\n", " ")


def check(item: Item, leaks: list[Leak], rules: Data) -> None:
    """The gates of the conf, but the one for tokens.

    Raises:
        RejectedError: the item does not pass.
    """
    assert item.price is not None
    if not rules.price_min <= item.price <= rules.price_max:
        raise RejectedError(f"price outside {rules.price_min:g} to {rules.price_max:g}")
    if leaks and rules.leaks == "drop":
        raise RejectedError("states its own price")
    if not item.has_words:
        raise RejectedError(EMPTIED)
    if len(item.title) + len(item.text) < rules.text_min:
        raise RejectedError(f"text shorter than {rules.text_min} characters")
    if len(item.text) < rules.body_min:
        raise RejectedError(f"text without the title shorter than {rules.body_min} characters")


def sameness(item: Item) -> str:
    """What two exact duplicates have in common; an item's split is a hash of it."""
    return f"{item.title}\n{item.text}".casefold()


def write_items(file: Path, number: int, items: Sequence[Item], rules: Data, seed: int) -> None:
    """Write items, with all that splitting will want to know."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(_table(number, items, rules, seed), file)


def _table(number: int, items: Sequence[Item], rules: Data, seed: int) -> pa.Table:
    same = [sameness(item) for item in items]
    columns: dict[str, Any] = {
        "row": range(number << 32, (number << 32) + len(items)),
        "digest": [splits.item_digest(item) for item in items],
        "same": [hashlib.sha256(text.encode()).hexdigest()[:16] for text in same],
        "id": [item.id for item in items],
        "title": [item.title for item in items],
        "text": [item.text for item in items],
        "category": [item.category for item in items],
        "details": [orjson.dumps(item.details).decode() for item in items],
        "price": [item.price for item in items],
        "split_draw": [fraction(seed, text) for text in same],
        "draw": [fraction(seed, item.id) for item in items],
        "slot_draw": [_slot_draw(item, text, rules, seed) for item, text in zip(items, same, strict=True)],
        "signature": [None] * len(items),
    }
    if rules.near is not None and items:
        columns["signature"] = [row.tobytes() for row in minhash.signatures(same).astype("<u4")]
    return pa.table(columns, schema=SCHEMA)


def _slot_draw(item: Item, text: str, rules: Data, seed: int) -> float:
    """The smallest of these win: weighted sampling without replacement (Efraimidis and Spirakis 2006)."""
    if rules.slot_items is None:
        return 0.0
    weight = rules.category_weights.get(item.category, 1.0)
    return -math.log(1 - fraction(seed, f"slot:{text}")) / weight if weight else math.inf

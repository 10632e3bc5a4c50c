"""One shard of raw rows becomes a Parquet file of clean items, and a tally of what happened to the rows."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import heapq
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.config.experiment import Data
from tasks.data import minhash, shards, splits
from tasks.data.items import Item, RejectedError, from_row
from tasks.data.price_leaks import Leak
from tasks.data.scrubbing import scrub
from tasks.data.shards import Row, Shard
from tasks.data.tokens import TokenGate
from tasks.digests import fraction

EXAMPLES = 10
BATCH = 512  # rows cleaned at once
# Prices that stand for "none": 0.01, runs of nines or ones, round millions. Reported wherever they are.
PLACEHOLDER = re.compile(r"0\.01|9{3,}(\.9+)?|1{3,}(\.1+)?|[1-9]0{6,}|1234(56?7?8?9?)?(\.\d+)?")
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # of this run: the number of the shard and of the item in it
        ("digest", pa.string()),  # of all the item's content: the tie-breaker that depends on nothing else
        ("same", pa.string()),  # of title and text, whatever their case: equal for exact duplicates
        *splits.SCHEMA,
        ("place", pa.float64()),  # which split
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
        shown = self.examples.setdefault(reason, [])
        new = (zlib.crc32(example[:500].encode(errors="replace")), example[:160])
        if new not in shown and (len(shown) < EXAMPLES or new < shown[-1]):
            shown[:] = heapq.nsmallest(EXAMPLES, [*shown, new])

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
        for reason, shown in other.examples.items():
            merged = {*self.examples.get(reason, []), *map(tuple, shown)}
            self.examples[reason] = heapq.nsmallest(EXAMPLES, merged)

    def summary(self) -> str:
        """One sentence."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.most_common()) or "none dropped"
        return f"{self.read:,} rows read; {reasons}."


def clean_shard(shard: Shard, number: int, rules: Data, seed: int, tokenizer: str | None, folder: str) -> Tally:
    """Clean a shard's rows, write the items that keep to the rules to `<folder>/<number>.parquet`, and say what
    happened.

    Raises:
        UserError: the shard cannot be read.
    """
    tally = Tally()
    gate = TokenGate(tokenizer, rules.tokens_min)
    with _uncollected():
        items = list(gate.passing(_passing(shards.read(shard), rules, tally), tally))
        tally.kept = len(items)
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


def _passing(rows: Iterator[Row], rules: Data, tally: Tally) -> Iterator[Item]:
    while batch := list(islice(rows, BATCH)):
        tally.read += len(batch)
        kept: list[tuple[Row, Item]] = []
        for row in batch:
            row = mapped(row, rules)
            try:
                item = from_row(row, decimal=rules.decimal, currency=rules.currency)
            except RejectedError as rejection:
                tally.drop(str(rejection), _named(row))
            else:
                tally.priced(item.price)
                kept.append((row, item))
        cleaned = clean_items([item for _, item in kept], rules, tally)
        for (row, _), (item, leaks) in zip(kept, cleaned, strict=True):
            try:
                check(item, leaks, rules)
            except RejectedError as rejection:
                tally.drop(str(rejection), _named(row))
            else:
                yield item


def _named(row: Row) -> str:
    name = row.get("title") or row.get("text") or row.get("id") or json.dumps(row, default=str)
    return f"{str(name)[:120]} ({row.get('price')})"


def mapped(row: Row, rules: Data) -> Row:
    """The row under our names, where the conf says which column is which."""
    if not rules.columns:
        return row
    taken = {theirs for names in rules.columns.values() for theirs in ([names] if isinstance(names, str) else names)}
    ours = {name: value for name, value in row.items() if name not in taken}
    for name, theirs in rules.columns.items():
        ours[name] = row.get(theirs) if isinstance(theirs, str) else [row.get(part) for part in theirs]
    return ours


def clean_items(items: Sequence[Item], rules: Data, tally: Tally) -> list[tuple[Item, list[Leak]]]:
    """Each item with its text cleaned by the rules, and the statements of its price; what was scrubbed is noted."""
    cleaned = scrub(items, rules)
    for before, (item, leaks) in zip(items, cleaned, strict=True):
        for leak in leaks:
            tally.note(f"price in the text: {leak.rule}", f"{leak.words} | {item.title} ({item.price})")
        if len(before.text) > rules.text_max:
            tally.note(f"text cut at {rules.text_max:,} characters", item.title)
    return cleaned


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
    if len(item.title) + len(item.text) < rules.text_min:
        raise RejectedError(f"text shorter than {rules.text_min} characters")
    if len(item.text) < rules.body_min:
        raise RejectedError(f"text without the title shorter than {rules.body_min} characters")


def sameness(item: Item) -> str:
    """What two exact duplicates have in common; an item's split is a hash of it."""
    return f"{item.title}\n{item.text}".casefold()


def write_items(file: Path, number: int, items: Sequence[Item], rules: Data, seed: int) -> None:
    """Write items, with all that sifting will want to know."""
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
        "place": [fraction(seed, text) for text in same],
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

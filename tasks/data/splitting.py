"""Which of the clean items stay, and in which split: merging, caps and near duplicates, in a database on disk.

Only narrow columns are held here; the texts stay in the shards' Parquet files until the splits are written. DuckDB
keeps to MEMORY and puts the rest on disk. No step depends on the order of rows.
"""

from __future__ import annotations

import contextlib
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tasks.config.experiment import Data
from tasks.data import minhash
from tasks.data.cleaning import EXAMPLES, Tally
from tasks.data.items import Item
from tasks.data.splits import SCHEMA, Split

MEMORY = "384MB"
BATCH = 20_000  # rows held at once
BUCKET = 50_000  # rows sorted at once; more where there would be too many buckets,
MOST_BUCKETS = 250  # each of which is an open file
SAMPLE_PER_BUCKET = 100  # ids by which buckets are cut
SHARED_ID = "id shared with another text, made an id of its own"
OTHER_PRICE = "duplicate with another price"
VARIANT = "item of the fixed test set nearly the same as one before it"
MANY_NEAR = 0.05  # of the items
FEW = 4  # held-out items of a bucket that are tried first


class Splitter:
    """The items of `<folder>/items/*.parquet`; those that stay have a split in the end."""

    def __init__(self, folder: Path) -> None:
        import duckdb

        self.database = duckdb.connect(str(folder / "splits.duckdb"))
        self.files = f"read_parquet('{folder}/*/*.parquet')"
        self.run(f"SET memory_limit = '{MEMORY}'; SET temp_directory = '{folder / 'spill'}'")
        self.run("SET preserve_insertion_order = false; SET enable_progress_bar = false")
        self.narrow = "row, digest, same, id, category, price, split_draw, draw, slot_draw"
        self.run(
            f"CREATE TABLE items AS SELECT {self.narrow}, NULL::VARCHAR AS split, row AS family "
            f"FROM read_parquet('{folder}/items/*.parquet')"
        )
        self.folder, self.fixed = folder, f"read_parquet('{folder}/fixed/*.parquet')"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def run(self, query: str) -> Any:
        """The result of a query."""
        return self.database.execute(query)

    def count(self, condition: str = "true") -> int:
        """How many items meet a condition."""
        return self.run(f"SELECT count(*) FROM items WHERE {condition}").fetchone()[0]

    def drop(self, condition: str, reason: str, tally: Tally) -> None:
        """Leave out the items of a condition, counted, with ten examples by hash."""
        count = self.count(condition)
        if not count:
            return
        first = f"SELECT row FROM items WHERE {condition} ORDER BY digest, row LIMIT {EXAMPLES}"
        rows = ", ".join(str(row) for (row,) in self.run(first).fetchall())
        for title, text, price in self.run(
            f"SELECT title, left(text, 120), price FROM {self.files} WHERE row IN ({rows})"
        ).fetchall():
            tally.show(reason, f"{title or text} ({price})")
        tally.dropped[reason] += count
        tally.kept -= count
        self.run(f"DELETE FROM items WHERE {condition}")

    def drop_after(
        self, first: int, order: str, reason: str, tally: Tally, by: str = "true", among: str = "true"
    ) -> None:
        """Leave out, within each group, what comes after the first ones by an order."""
        ranked = f"SELECT row, row_number() OVER (PARTITION BY {by} ORDER BY {order}) AS nth FROM items WHERE {among}"
        self.drop(f"row IN (SELECT row FROM ({ranked}) WHERE nth > {first})", reason, tally)

    def drop_fixed_test(self, tally: Tally) -> None:
        """Leave out what stands in `<folder>/fixed/`, by its text or its id: before items get ids of their own."""
        same = f"same IN (SELECT same FROM {self.fixed}) OR id IN (SELECT id FROM {self.fixed})"
        self.drop(same, "stands in the fixed test set", tally)

    def merge_duplicates(self, tally: Tally) -> None:
        """One item for each text; other texts under one id are other items, which get ids of their own."""
        self._note_contradictions(tally)
        self.drop_after(1, "id, digest, row", "duplicate of another row", tally, by="same")
        shared = "id IN (SELECT id FROM items GROUP BY id HAVING count(*) > 1)"
        rows = self.run(f"SELECT id, count(*) FROM items WHERE {shared} GROUP BY id ORDER BY id").fetchall()
        if rows:
            for identity, count in rows[:EXAMPLES]:
                tally.show(SHARED_ID, f"{identity}: {count} texts")
            tally.noted[SHARED_ID] += sum(count for _, count in rows)
            # The digest, too: it names the item as it leaves, id and all.
            self.run(
                f"UPDATE items SET id = id || '#' || left(same, 8), digest = left(sha256(digest || '#'), 16) "
                f"WHERE {shared}"
            )

    def _note_contradictions(self, tally: Tally) -> None:
        """Count the items of one text with one of another price: all but one of them will be left out."""
        unlike = (
            "SELECT same, arg_min(row, digest) AS row, count(*) AS count, min(price) AS low, max(price) AS high "
            "FROM items GROUP BY same HAVING low <> high"
        )
        if count := self.run(f"SELECT sum(count - 1) FROM ({unlike})").fetchone()[0]:
            tally.noted[OTHER_PRICE] += int(count)
            first = f"SELECT * FROM ({unlike}) ORDER BY same LIMIT {EXAMPLES}"
            for title, text, low, high in self.run(
                f"SELECT title, left(text, 120), low, high FROM {self.files} JOIN ({first}) first USING (row)"
            ).fetchall():
                tally.show(OTHER_PRICE, f"{title or text} ({low:g} to {high:g})")

    def cap_slots(self, rules: Data, tally: Tally) -> None:
        """At most `slot_items` for each whole dollar below `slot_below`, drawn by the weights of the categories."""
        if rules.slot_items is not None:
            reason = f"more than {rules.slot_items:,} items for one dollar"
            below = f"price < {rules.slot_below}"
            self.drop_after(rules.slot_items, "slot_draw, digest", reason, tally, by="round(price)", among=below)

    def find_families(self, least: float, fixed: bool) -> None:
        """Items whose likeness is `least` or more are of one family, which is drawn as one: dealt out by themselves,
        ten variants of each product would leave one family in ten without a held-out item, and so to train on."""
        self._write_bands(fixed)
        # Each item is compared with one of those that share a band, always the same one, and not with all of them.
        own = "SELECT band, row, same FROM bands JOIN items USING (row)"
        first = f"SELECT band, arg_min(row, same) AS row FROM ({own}) GROUP BY band"
        self._compare(
            f"SELECT DISTINCT own.row AS one, first.row AS other FROM ({own}) own JOIN ({first}) first USING (band) "
            f"WHERE own.row <> first.row",
            least,
        )
        near = self.run("SELECT one, other FROM near").fetchnumpy()
        rows, places = np.unique(np.concatenate([near["one"], near["other"]]), return_inverse=True)
        one, other = places.reshape(2, -1)
        edges = coo_matrix((np.ones(len(one)), (one, other)), shape=(len(rows), len(rows)))
        _, members, families = np.unique(
            connected_components(edges, directed=False)[1], return_index=True, return_inverse=True
        )
        self.run("CREATE TABLE families (row BIGINT, family BIGINT)")
        self._insert("families", {"row": rows, "family": rows[members][families]})
        self.run("UPDATE items SET family = families.family FROM families WHERE items.row = families.row")
        first = "SELECT family, arg_min(split_draw, same) AS draw FROM items GROUP BY family HAVING count(*) > 1"
        self.run(f"UPDATE items SET split_draw = first.draw FROM ({first}) first WHERE items.family = first.family")

    def assign(self, test_share: float, validation_share: float, tally: Tally) -> None:
        """Each item's split is a hash of its own content, or of its family's first one: adding data moves an item only
        together with a near duplicate of it. Of a held-out family that one alone stays: errors on many variants of a
        product say hardly more than the error on one, and would be counted as if they did."""
        self.run(
            f"UPDATE items SET split = CASE WHEN split_draw < {test_share} THEN 'test' "
            f"WHEN split_draw < {test_share + validation_share} THEN 'validation' ELSE 'train' END"
        )
        for split in ("validation", "test"):
            reason = f"{split} item nearly the same as another {split} item"
            self.drop_after(1, "same", reason, tally, by="family", among=f"split = '{split}'")

    def add_fixed_test(self) -> None:
        """Put the items of `<folder>/fixed/` into the test split as they are."""
        self.run(f"INSERT INTO items SELECT {self.narrow}, 'test', row FROM {self.fixed}")

    def cap(self, split: Split, most: int | None, tally: Tally) -> None:
        """At most so many items in a split, the first by hash, so that a larger cap keeps what a smaller one kept."""
        if most is not None:
            self.drop_after(most, "draw, id", f"beyond data.{split}_items", tally, among=f"split = '{split}'")

    def drop_near(self, split: Split, held: Split, least: float, tally: Tally) -> None:
        """Leave out items of a split whose likeness to an item of another, held-out split is `least` or more."""
        for part in (split, held):
            of_split = f"SELECT band, row FROM bands JOIN items USING (row) WHERE split = '{part}'"
            self.run(f"CREATE OR REPLACE TABLE bands_{part} AS {of_split}")
        # Most near duplicates come in flocks that share a bucket: the first few of a bucket find nearly all of them,
        # and only what is left has to be compared with everything in it.
        few = f"SELECT *, row_number() OVER (PARTITION BY band ORDER BY row) AS nth FROM bands_{held}"
        for held_rows in (f"SELECT band, row FROM ({few}) WHERE nth <= {FEW}", f"SELECT band, row FROM bands_{held}"):
            self._compare(
                f"SELECT DISTINCT one.row AS one, other.row AS other FROM bands_{split} one "
                f"JOIN ({held_rows}) other USING (band) JOIN items ON items.row = one.row",
                least,
            )
            self.drop("row IN (SELECT one FROM near)", f"{split} item nearly the same as a {held} item", tally)

    def _write_bands(self, fixed: bool) -> None:
        """The bands of all items, those of the fixed test set too, that two of them share."""
        self.run("CREATE TABLE every_band (row BIGINT, band UBIGINT)")
        signed = f"SELECT row, signature FROM {self.files} JOIN items USING (row)"
        # Cursors of their own: other queries run while these are read.
        for query in (signed, f"SELECT row, signature FROM {self.fixed}")[: 1 + fixed]:
            for batch in self.database.cursor().execute(query).fetch_record_batch(BATCH):
                rows, signatures = np.asarray(batch["row"]), _signatures(batch["signature"])
                bands = minhash.bands(signatures)
                self._insert("every_band", {"row": np.repeat(rows, bands.shape[1]), "band": bands.ravel()})
        shared = "SELECT band FROM every_band GROUP BY band HAVING count(*) > 1"
        self.run(f"CREATE TABLE bands AS SELECT row, band FROM every_band WHERE band IN ({shared})")
        self.run("DROP TABLE every_band")

    def _compare(self, pairs: str, least: float) -> None:
        """Put those of the pairs that are alike into `near`: signatures say which may be, and the texts which are."""
        self.run(f"CREATE OR REPLACE TABLE pairs AS {pairs}")
        for table in ("likely", "near"):
            self.run(f"CREATE OR REPLACE TABLE {table} (one BIGINT, other BIGINT)")
        signed = f"SELECT one, other, a.signature, b.signature AS held FROM pairs {self._both('pairs')}"
        for batch in self.database.cursor().execute(signed).fetch_record_batch(BATCH):
            estimate = minhash.likeness(_signatures(batch["signature"]), _signatures(batch["held"]))
            self._insert_pairs("likely", batch, estimate >= least - minhash.ERROR)
        words = f"one, other, {_words_sql('a')} AS text, {_words_sql('b')} AS held"
        for batch in (
            self.database.cursor()
            .execute(f"SELECT {words} FROM likely {self._both('likely')}")
            .fetch_record_batch(BATCH)
        ):
            both = zip(batch["text"].to_pylist(), batch["held"].to_pylist(), strict=True)
            alike = np.array([minhash.jaccard(text, held) >= least for text, held in both], dtype=bool)
            self._insert_pairs("near", batch, alike)

    def _both(self, pairs: str) -> str:
        """The two items of each pair, as `a` and `b`."""
        return f"JOIN {self.files} a ON a.row = {pairs}.one JOIN {self.files} b ON b.row = {pairs}.other"

    def _insert_pairs(self, table: str, batch: pa.RecordBatch, chosen: np.ndarray) -> None:
        self._insert(table, {name: np.asarray(batch[name])[chosen] for name in ("one", "other")})

    def _insert(self, table: str, columns: dict[str, np.ndarray]) -> None:
        self.database.register("inserted", pa.table(columns))
        self.run(f"INSERT INTO {table} SELECT * FROM inserted")
        self.database.unregister("inserted")

    def batches(self, split: Split) -> Iterator[pa.RecordBatch]:
        """The items of a split, sorted by id, as batches of the splits' columns.

        Sorted in buckets of neighbouring ids, each of which fits into memory: DuckDB's own sort of rows as wide as
        texts gives up where they do not all fit.
        """
        names = ", ".join(f"{'items' if name == 'id' else 'files'}.{name}" for name in SCHEMA.names)
        query = f"SELECT {names} FROM {self.files} files JOIN items USING (row) WHERE split = '{split}'"
        bounds = self._bounds(split)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            files = [Path(folder) / f"{number}.arrow" for number in range(len(bounds) + 1)]
            with contextlib.ExitStack() as stack:
                writers = [stack.enter_context(pa.ipc.new_stream(str(file), SCHEMA)) for file in files]
                for batch in self.run(query).fetch_record_batch(BATCH):
                    batch = batch.cast(SCHEMA).sort_by("id")
                    cuts = [bisect_left(batch["id"], bound, key=str) for bound in bounds]
                    for writer, (start, end) in zip(writers, pairwise([0, *cuts, len(batch)]), strict=True):
                        writer.write_batch(batch[start:end])
            for file in files:
                with pa.memory_map(str(file)) as source:
                    yield from pa.ipc.open_stream(source).read_all().sort_by("id").to_batches(BATCH)

    def _bounds(self, split: Split) -> list[str]:
        """Ids that cut a split into buckets of about BUCKET items; in strings' own order, that of their characters."""
        pieces = min(-(-self.count(f"split = '{split}'") // BUCKET), MOST_BUCKETS)
        sample = self.run(
            f"SELECT id FROM items WHERE split = '{split}' ORDER BY hash(id), id LIMIT {SAMPLE_PER_BUCKET * pieces}"
        ).fetchall()
        ids = sorted(identity for (identity,) in sample)
        return ids[SAMPLE_PER_BUCKET::SAMPLE_PER_BUCKET]

    def digests(self, split: Split) -> Iterator[str]:
        """The digests of the items of a split, sorted."""
        query = f"SELECT digest FROM items WHERE split = '{split}' ORDER BY digest"
        for batch in self.run(query).fetch_record_batch(BATCH):
            yield from batch["digest"].to_pylist()


def note_variants(items: Sequence[Item], near: float | None, tally: Tally) -> None:
    """Count the items of a fixed test set that are near duplicates of one before them: they all stay, but their errors
    go together."""
    families: set[int] = set()
    for item, family in zip(items, minhash.groups([f"{i.title}\n{i.text}" for i in items], near).tolist(), strict=True):
        if family in families:
            tally.note(VARIANT, item.title or item.text)
        families.add(family)


def products_of(items: int, variants: int) -> int | None:
    """Of how many products test items are, so many of which are variants of another one; None where these are few."""
    return items - variants if variants and variants >= MANY_NEAR * items else None


def _words_sql(table: str) -> str:
    """SQL for the words of an item of a table, as its signature was made of them."""
    return f"({table}.title || chr(10) || {table}.text)"


def _signatures(column: pa.Array) -> np.ndarray:
    return np.frombuffer(b"".join(column.to_pylist()), dtype="<u4").reshape(len(column), minhash.SLOTS)

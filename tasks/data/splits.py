"""The three frozen splits: how a stage gets at its items."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.data.items import Item
from tasks.digests import fraction
from tasks.errors import UserError
from tasks.tracking.store import fetch

Split = Literal["train", "validation", "test"]
# What is answered at once, see tasks.scoring.roles: of validation those items that are first there, or all of them.
Part = Literal["validation", "all", "blend", "selection", "sampled", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """The handle of curated data: `digest` names its content, `path` is the folder of its three parquet files, or its
    address in an artifact store that lies elsewhere. `test_products` says of how many products the test items are, if
    many are variants of one another: only a fixed test set holds such."""

    name: str
    digest: str
    path: str
    rows: dict[str, int]
    generated: bool = False
    test_products: int | None = None


SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "title": pa.string(),
        "text": pa.string(),
        "category": pa.string(),
        "details": pa.string(),
        "price": pa.float64(),
    }
)


def item_digest(item: Item) -> str:
    """The digest of all that an item holds."""
    content = [item.id, item.title, item.text, item.category, item.details, item.price]
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def items_digest(items: Sequence[Item]) -> str:
    """The digest of items, whatever their order."""
    return joint_digest(sorted(item_digest(item) for item in items))


def joint_digest(digests: Iterable[str]) -> str:
    """The digest of sorted digests, which need not fit into memory: `digest` of their list."""
    joint = hashlib.sha256(b"[")
    for number, part in enumerate(digests):
        joint.update(f'{"," if number else ""}"{part}"'.encode())
    joint.update(b"]")
    return joint.hexdigest()[:16]


def write_split(folder: Path, split: Split, batches: Iterable[pa.RecordBatch]) -> None:
    """Write `<split>.parquet` from batches of SCHEMA, sorted by id."""
    with pq.ParquetWriter(folder / f"{split}.parquet", SCHEMA, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def read_split(dataset: Dataset, split: Split) -> list[Item]:
    """The items of a split, sorted by id.

    Raises:
        UserError: the file is gone or damaged.
    """
    return list(_read(f"{dataset.path}/{split}.parquet"))


@functools.lru_cache(maxsize=len(SPLITS))
def _read(address: str) -> tuple[Item, ...]:
    try:
        rows = pq.read_table(fetch(address)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{address} cannot be read ({error}). Make it again with `pricewright curate`.") from error
    return tuple(Item(**{**row, "details": json.loads(row["details"])}) for row in rows)


def sample(items: Sequence[Item], count: int | None, seed: int) -> list[Item]:
    """At most `count` items, the first by the hash of their id, so that a larger sample holds a smaller one."""
    ordered = sorted(items, key=lambda item: (fraction(seed, item.id), item.id))
    return ordered if count is None else ordered[:count]

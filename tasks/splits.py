"""The three frozen splits: how a stage gets at its items."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.digests import digest, fraction
from tasks.errors import UserError
from tasks.items import Item

Split = Literal["train", "validation", "test"]
Part = Literal["validation", "apart", "test"]  # what rungs answer; apart: on which the blend is fitted
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """The handle of curated data: `digest` names its content, `path` is the folder of its three parquet files."""

    name: str
    digest: str
    path: str
    rows: dict[str, int]
    generated: bool = False


def items_digest(items: Sequence[Item]) -> str:
    """The digest of items, whatever their order."""
    rows = ([i.id, i.title, i.text, i.category, i.details, i.price] for i in items)
    return digest(sorted(digest(row) for row in rows))


def write_split(folder: Path, split: Split, items: Sequence[Item]) -> None:
    """Write `<split>.parquet`, sorted by id."""
    rows = sorted(items, key=lambda item: item.id)
    table = pa.table(
        {
            "id": pa.array([item.id for item in rows], pa.string()),
            "title": pa.array([item.title for item in rows], pa.string()),
            "text": pa.array([item.text for item in rows], pa.string()),
            "category": pa.array([item.category for item in rows], pa.string()),
            "details": pa.array([json.dumps(item.details, ensure_ascii=False) for item in rows], pa.string()),
            "price": pa.array([item.price for item in rows], pa.float64()),
        }
    )
    pq.write_table(table, folder / f"{split}.parquet", compression="zstd")


def read_split(dataset: Dataset, split: Split) -> list[Item]:
    """The items of a split, sorted by id.

    Raises:
        UserError: the file is gone or damaged.
    """
    return list(_read(Path(dataset.path) / f"{split}.parquet"))


@functools.lru_cache(maxsize=len(SPLITS))
def _read(path: Path) -> tuple[Item, ...]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({error}). Make it again with `pricewright curate`.") from error
    return tuple(Item(**{**row, "details": json.loads(row["details"])}) for row in rows)


def sample(items: Sequence[Item], count: int | None, seed: int) -> list[Item]:
    """At most `count` items, the first by the hash of their id, so that a larger sample holds a smaller one."""
    ordered = sorted(items, key=lambda item: (fraction(seed, item.id), item.id))
    return ordered if count is None else ordered[:count]


def set_apart(items: Sequence[Item], count: int, seed: int, most: int = 64) -> list[Item]:
    """At most `most` items after the `count` that `sample` takes: to fit on, where the sample is to choose on."""
    return sample(items, count + most, seed)[count:]

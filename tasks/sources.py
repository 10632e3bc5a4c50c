"""Where raw rows come from: one entry in SOURCES each."""

from __future__ import annotations

import csv
import glob
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tasks import catalogue
from tasks.config import Data
from tasks.digests import file_digest
from tasks.errors import UserError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")


class Source(NamedTuple):
    """`rows` reads the raw rows of a conf, and `identity` says cheaply what they depend on, for the ledger.

    `floor`, where the prices were generated, gives the best possible guess for each id with its 10% and 90% quantiles.
    """

    rows: Callable[[Data, int], Iterator[Row]]
    identity: Callable[[Data, int], Any]
    generated: bool = False
    floor: Callable[[Data, int], dict[str, tuple[float, float, float]]] | None = None


def read_files(path: str) -> Iterator[Row]:
    """The rows of a JSONL, JSONL.gz, CSV or Parquet file, of all such files below a folder, or of a glob.

    Raises:
        UserError: nothing is there, or a file is not what its name says.
    """
    for file in list_files(path):
        try:
            yield from _reader(file)(file)
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error


def list_files(path: str) -> list[Path]:
    """The data files that a path, folder or glob stands for, sorted.

    Raises:
        UserError: there are none.
    """
    place = Path(path)
    if place.is_dir():
        found = list(place.rglob("*"))
    else:
        found = [place] if place.is_file() else [Path(file) for file in glob.glob(path)]  # noqa: PTH207 (any root)
    files = sorted(file for file in found if file.is_file() and file.name.lower().endswith(SUFFIXES))
    if not files:
        raise UserError(f"No data at {path}. Expected a file, folder or glob of {', '.join(SUFFIXES)}.")
    return files


def _reader(file: Path) -> Callable[[Path], Iterator[Row]]:
    name = file.name.lower()
    return _read_csv if name.endswith(".csv") else _read_parquet if name.endswith(".parquet") else _read_jsonl


def _read_jsonl(file: Path) -> Iterator[Row]:
    opened = gzip.open if file.name.lower().endswith(".gz") else open
    with opened(file, "rt", encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{file}, line {number}, is not JSON: {error}") from error
                yield row if isinstance(row, dict) else {"text": row}


def _read_csv(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        yield from csv.DictReader(line.replace("\0", "") for line in lines)


def _read_parquet(file: Path) -> Iterator[Row]:
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
        yield from batch.to_pylist()


def _conf_files(data: Data, _seed: int) -> Iterator[Row]:
    return read_files(_path(data))


def _conf_files_identity(data: Data, _seed: int) -> list[str]:
    return sorted(file_digest(file) for file in list_files(_path(data)))


def _path(data: Data) -> str:
    if not data.path:
        raise UserError("data.path is not set. Give data.path=FILE, a JSONL, CSV or Parquet with a title and a price.")
    return data.path


SOURCES: dict[str, Source] = {
    "sample": Source(
        rows=lambda data, seed: catalogue.generate(data.rows, seed),
        identity=lambda data, seed: {"rows": data.rows, "seed": seed},
        generated=True,
        floor=lambda data, seed: catalogue.floor(data.rows, seed),
    ),
    "files": Source(rows=_conf_files, identity=_conf_files_identity),
}


def source_of(data: Data) -> Source:
    """The source that a conf names.

    Raises:
        UserError: there is no such source.
    """
    if data.source not in SOURCES:
        raise UserError(f"data.source: there is no source {data.source!r}. Expected one of {', '.join(SOURCES)}.")
    return SOURCES[data.source]

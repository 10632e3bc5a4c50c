"""Files of any size as shards: parts that are read, one row at a time, by whichever process gets them.

A shard is about 8 MB: a range of bytes of a JSONL file, row groups of a Parquet file, or, for what can only be read
from its start (gzip, CSV, generated rows), a temporary file that goes when it has been read.
"""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from tasks.digests import digest
from tasks.errors import UserError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet")
SHARD_BYTES = 8 * 2**20
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Shard:
    """Bytes `start` to `end` of a JSONL file, or row groups `start` to `end` of a Parquet file.

    `origin` is the file the rows come from, `line` the number of the first one in it, both for messages; `fields` are
    added to every row that lacks them; a `temporary` file is of this shard alone.
    """

    path: str
    origin: str
    start: int = 0
    end: int = 0
    line: int = 1
    fields: tuple[tuple[str, str], ...] = ()
    temporary: bool = False

    @property
    def bytes(self) -> int:
        """How much there is to read, about."""
        path = Path(self.path)
        return path.stat().st_size if kind(path) == ".parquet" else self.end - self.start


def kind(file: Path) -> str:
    """The suffix that says how a data file is read; empty if it is none."""
    return next(
        (suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if file.name.lower().endswith(suffix)), ""
    )


def cut(file: Path, folder: Path, fields: tuple[tuple[str, str], ...] = ()) -> Iterator[Shard]:
    """The shards of a file, in order; temporary ones are written to `folder`, each when it is asked for.

    Raises:
        UserError: the file is not what its name says.
    """
    with readable(file):
        match kind(file):
            case ".parquet":
                yield from _cut_parquet(file, fields)
            case ".jsonl":
                with file.open("rb") as stream:
                    for start, chunk, line in _chunks(stream):
                        yield Shard(str(file), str(file), start, start + len(chunk), line, fields)
            case ".jsonl.gz":
                with gzip.open(file, "rb") as stream:
                    for start, chunk, line in _chunks(stream):
                        place = _temporary(folder, file, start)
                        place.write_bytes(chunk)
                        yield Shard(str(place), str(file), 0, len(chunk), line, fields, temporary=True)
            case _:
                yield from spill(rows_of(file), folder, str(file), fields)


def spill(rows: Iterable[Row], folder: Path, origin: str, fields: tuple[tuple[str, str], ...] = ()) -> Iterator[Shard]:
    """Rows from anywhere as temporary shards."""
    buffer, size, first = [], 0, 1
    for number, row in enumerate(rows, 1):
        buffer.append(orjson.dumps(row, option=orjson.OPT_NON_STR_KEYS))
        size += len(buffer[-1]) + 1
        if size >= SHARD_BYTES:
            yield _spilled(buffer, folder, origin, first, fields)
            buffer, size, first = [], 0, number + 1
    if buffer:
        yield _spilled(buffer, folder, origin, first, fields)


def _spilled(lines: list[bytes], folder: Path, origin: str, first: int, fields: tuple) -> Shard:
    place = _temporary(folder, Path(origin), first)
    content = b"\n".join(lines)
    place.write_bytes(content)
    return Shard(str(place), origin, 0, len(content), first, fields, temporary=True)


def _temporary(folder: Path, origin: Path, start: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{digest(str(origin))}-{start}.jsonl"


def _chunks(stream: IO[bytes]) -> Iterator[tuple[int, bytes, int]]:
    start, line = 0, 1
    while chunk := stream.read(SHARD_BYTES):
        if not chunk.endswith(b"\n"):
            chunk += stream.readline()
        yield start, chunk, line
        start, line = start + len(chunk), line + chunk.count(b"\n")


def _cut_parquet(file: Path, fields: tuple) -> Iterator[Shard]:
    import pyarrow.parquet as pq

    metadata = pq.ParquetFile(file).metadata
    first, size = 0, 0
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).total_byte_size
        if size >= SHARD_BYTES or group == metadata.num_row_groups - 1:
            yield Shard(str(file), str(file), first, group + 1, fields=fields)
            first, size = group + 1, 0


def read(shard: Shard) -> Iterator[Row]:
    """The rows of a shard.

    Raises:
        UserError: a line is not JSON.
    """
    with readable(Path(shard.origin)):
        if kind(Path(shard.path)) == ".parquet":
            rows = _parquet_rows(Path(shard.path), range(shard.start, shard.end))
        else:
            with Path(shard.path).open("rb") as file:
                file.seek(shard.start)
                rows = json_lines(io.BytesIO(file.read(shard.end - shard.start)), shard.origin, shard.line)
        for row in rows:
            yield {**dict(shard.fields), **row} if shard.fields else row


def rows_of(file: Path) -> Iterator[Row]:
    """All rows of a data file, one at a time.

    Raises:
        UserError: the file is not what its name says.
    """
    with readable(file):
        match kind(file):
            case ".parquet":
                yield from _parquet_rows(file)
            case ".jsonl" | ".jsonl.gz":
                opened = gzip.open if kind(file) == ".jsonl.gz" else open
                with opened(file, "rb") as stream:
                    yield from json_lines(stream, str(file))
            case suffix:
                with file.open("rb") as stream:
                    reader = csv.DictReader(
                        _text_lines(stream), restkey="(more)", delimiter="\t" if suffix == ".tsv" else ","
                    )
                    csv.field_size_limit(2**31 - 1)
                    yield from reader


def json_lines(lines: Iterable[bytes], origin: str, first: int = 1) -> Iterator[Row]:
    """The rows of JSONL, blank lines left out; what is no object is the text of a row.

    Raises:
        UserError: a line is not JSON.
    """
    for number, line in enumerate(lines, first):
        if number == 1 and line.startswith(BOM):
            line = line[len(BOM) :]
        if line.isspace():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = _lenient(line, origin, number)
        yield row if isinstance(row, dict) else {"text": row}


def _lenient(line: bytes, origin: str, number: int) -> Any:
    """What strict JSON refuses and a catalogue may hold: NaN, control characters, other encodings, half surrogates."""
    text = decode(line).replace("\0", " ")
    try:
        row = json.loads(text, strict=False)
        return json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin}, line {number}, is not JSON: {error}") from error


def decode(line: bytes) -> str:
    """Text that is UTF-8, or else what Windows and older files write (Latin-1)."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace")


def _text_lines(stream: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(stream):
        yield decode(line.removeprefix(BOM) if number == 0 else line).replace("\0", "")


def _parquet_rows(file: Path, groups: Iterable[int] | None = None) -> Iterator[Row]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(file).iter_batches(1000, row_groups=None if groups is None else list(groups)):
        yield from batch.to_pylist()


def columns_of(file: Path) -> list[str] | None:
    """The columns of a file that has a header; None for JSONL, whose rows need not be alike."""
    with readable(file):
        match kind(file):
            case ".parquet":
                import pyarrow.parquet as pq

                return pq.ParquetFile(file).schema_arrow.names
            case ".csv" | ".tsv":
                return list(next(iter(rows_of(file)), {}))
    return None


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Within it, what cannot be read is the user's to mend."""
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # not the file's fault
        raise UserError(f"{file} cannot be read: {error}") from error

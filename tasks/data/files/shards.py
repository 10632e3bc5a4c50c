"""Files of any size as shards: parts that are read, one row at a time, by whichever process gets them.

A shard is about 8 MB: a range of bytes of a JSONL file, row groups of a Parquet file, or, for what can only be read
from its start (gzip, tables, generated rows), a temporary file that goes when it has been read. A JSONL or Parquet file
may lie at an address: whoever gets a shard reads it from there.
"""

from __future__ import annotations

import csv
import errno
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import orjson

from tasks.data.files import remote
from tasks.data.files.delimited import LINE, REJECTED, Row, Table
from tasks.data.files.documents import document_of, document_rows, json_lines
from tasks.data.files.encodings import UTF8, encoding_of, is_gzip, open_bytes, text_lines
from tasks.data.files.kinds import delimiter_of, kind_of
from tasks.data.files.remote import is_address
from tasks.data.items import NESTED
from tasks.digests import digest
from tasks.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

SHARD_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Shard:
    """Bytes `start` to `end` of a JSONL file, or row groups `start` to `end` of a Parquet file.

    `origin` is the file the rows come from, `line` the number of the first one in it, both for messages; `fields` are
    added to every row that lacks them; a `temporary` file is of this shard alone; `size` is how many bytes row groups
    have. Of a file at an address, the shard has the lines that begin between `start` and `end`.
    """

    path: str
    origin: str
    start: int = 0
    end: int = 0
    line: int = 1
    fields: tuple[tuple[str, str], ...] = ()
    temporary: bool = False
    groups: bool = False
    size: int = 0

    @property
    def bytes(self) -> int:
        """How much there is to read, about."""
        return self.size or self.end - self.start


def cut(
    file: Path, folder: Path, fields: tuple[tuple[str, str], ...] = (), encoding: str | None = None
) -> Iterator[Shard]:
    """The shards of a file, in order; temporary ones are written to `folder`, each when it is asked for.

    Raises:
        UserError: the file is not what its name says.
    """
    with readable(file):
        kind = kind_of(file, encoding)
        if kind == "parquet":
            yield from _cut_parquet(str(file), fields)
        elif kind == "lines" and encoding_of(file, encoding) in (UTF8, "utf-8-sig"):
            temporary = is_gzip(file)
            with open_bytes(file) as stream:
                for start, chunk, line in _chunks(stream):
                    if temporary:
                        part = _temporary(folder, file, start)
                        part.write_bytes(chunk)
                        yield Shard(str(part), str(file), 0, len(chunk), line, fields, temporary=True)
                    else:
                        yield Shard(str(file), str(file), start, start + len(chunk), line, fields)
        else:
            yield from spill(rows_of(file, encoding), folder, str(file), fields)


def cut_at(address: str, folder: Path, encoding: str | None = None) -> Iterator[Shard]:
    """The shards of a file at an address: of JSONL and Parquet there, of any other kind from a copy.

    Raises:
        UserError: it cannot be reached, or is not what its name says.
    """
    if _is_parquet(address):
        yield from _cut_parquet(address, ())
    elif encoding is None and (size := remote.in_lines(address)) is not None:
        for start in range(0, size, SHARD_BYTES):
            origin = address if start == 0 else f"{address} (from byte {start:,})"
            yield Shard(address, origin, start, min(start + SHARD_BYTES, size))
    else:
        yield from cut(remote.fetch(address), folder, encoding=encoding)


def pack(shard: Shard) -> tuple[Shard, bytes | None]:
    """A shard to be read on another machine, with the content of its file where that is a temporary one of this."""
    if not shard.temporary:
        return shard, None
    file = Path(shard.path)
    content = file.read_bytes()
    file.unlink()
    return shard, content


def unpack(shard: Shard, content: bytes | None, folder: Path) -> Shard:
    """What `pack` sent, its file in a folder of this machine."""
    if content is None:
        return shard
    part = folder / Path(shard.path).name
    part.write_bytes(content)
    return replace(shard, path=str(part))


def spill(rows: Iterable[Row], folder: Path, origin: str, fields: tuple[tuple[str, str], ...] = ()) -> Iterator[Shard]:
    """Rows from anywhere as temporary shards."""
    buffer, size, first = [], 0, 1
    for number, row in enumerate(rows, 1):
        buffer.append(_written(row))
        size += len(buffer[-1]) + 1
        if size >= SHARD_BYTES:
            yield _spilled(buffer, folder, origin, first, fields)
            buffer, size, first = [], 0, number + 1
    if buffer:
        yield _spilled(buffer, folder, origin, first, fields)


def _written(row: Row) -> bytes:
    try:
        return orjson.dumps(row, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:  # it writes no lists within 254 others
        return orjson.dumps({REJECTED: NESTED, LINE: f"a row with the keys {', '.join(map(str, row))}"[:500]})


def _spilled(lines: list[bytes], folder: Path, origin: str, first: int, fields: tuple) -> Shard:
    part = _temporary(folder, Path(origin), first)
    content = b"\n".join(lines)
    part.write_bytes(content)
    return Shard(str(part), origin, 0, len(content), first, fields, temporary=True)


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


def _cut_parquet(place: str, fields: tuple) -> Iterator[Shard]:
    with _parquet(place) as file:
        groups = [file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups)]
    first, size = 0, 0
    for group, more in enumerate(groups):
        size += more
        if size >= SHARD_BYTES or group == len(groups) - 1:
            yield Shard(place, place, first, group + 1, fields=fields, groups=True, size=size)
            first, size = group + 1, 0


@contextmanager
def _parquet(place: str) -> Iterator[pq.ParquetFile]:
    import pyarrow.parquet as pq

    with remote.opened(place) if is_address(place) else nullcontext(place) as source:
        yield pq.ParquetFile(source)


def read(shard: Shard) -> Iterator[Row]:
    """The rows of a shard.

    Raises:
        UserError: a line is not JSON.
    """
    with readable(shard.origin):
        if shard.groups:
            rows = _parquet_rows(shard.path, range(shard.start, shard.end))
        elif is_address(shard.path):
            rows = json_lines(io.BytesIO(remote.lines(shard.path, shard.start, shard.end)), shard.origin)
        else:
            with Path(shard.path).open("rb") as file:
                file.seek(shard.start)
                rows = json_lines(io.BytesIO(file.read(shard.end - shard.start)), shard.origin, shard.line)
        for row in rows:
            yield {**dict(shard.fields), **row} if shard.fields else row


def rows_of(file: Path, encoding: str | None = None) -> Iterator[Row]:
    """All rows of a data file, one at a time.

    Raises:
        UserError: the file is not what its name says.
    """
    with readable(file):
        kind = kind_of(file, encoding)
        if kind == "parquet":
            yield from _parquet_rows(str(file))
            return
        found = encoding_of(file, encoding)
        if kind == "table":
            yield from _table(file, found).rows()
        elif kind == "lines":
            if found in (UTF8, "utf-8-sig"):
                with open_bytes(file) as stream:
                    yield from json_lines(stream, str(file))
            else:
                yield from json_lines((line.encode() for line in text_lines(file, found)), str(file))
        else:
            with open_bytes(file) as stream:
                content = document_of(stream, str(file))
            yield from document_rows(
                content if found in (UTF8, "utf-8-sig") else content.decode(found).encode(), str(file)
            )


def _table(file: Path, encoding: str) -> Table:
    return Table(text_lines(file, encoding), str(file), delimiter_of(file))


def _parquet_rows(place: str, groups: Iterable[int] | None = None) -> Iterator[Row]:
    with _parquet(place) as file:
        for batch in file.iter_batches(1000, row_groups=None if groups is None else list(groups)):
            yield from batch.to_pylist()


def columns_of(file: Path, encoding: str | None = None) -> list[str] | None:
    """The columns of a file that has a header, as they stand there; None for JSON, whose rows need not be alike."""
    with readable(file):
        match kind_of(file, encoding):
            case "parquet":
                return parquet_columns(str(file))
            case "table":
                return _table(file, encoding_of(file, encoding)).header
    return None


def separator_of(file: Path, encoding: str) -> str:
    """The mark between the cells of a table."""
    with readable(file):
        return _table(file, encoding).delimiter


def columns_at(address: str, encoding: str | None = None) -> list[str] | None:
    """The same of a file at an address."""
    if _is_parquet(address):
        with readable(address):
            return parquet_columns(address)
    return None if remote.in_lines(address) is not None else columns_of(remote.fetch(address), encoding)


def _is_parquet(address: str) -> bool:
    return address.lower().endswith(".parquet") and remote.in_parts(address) is not None


def parquet_columns(place: str) -> list[str]:
    """The columns of a Parquet file, here or at an address."""
    with _parquet(place) as file:
        return file.schema_arrow.names


@contextmanager
def readable(file: Path | str) -> Iterator[None]:
    """Within it, what cannot be read is the user's to mend."""
    try:
        yield
    except (OSError, EOFError, ValueError, LookupError, zlib.error, csv.Error) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # not the file's fault
        raise UserError(f"{file} cannot be read: {error}") from error

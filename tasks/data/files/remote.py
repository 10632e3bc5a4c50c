"""Data files at an address (s3://, gs://, https://, ...): listed, named and read by fsspec.

JSONL and Parquet are read where they lie, in shards, by whichever machine gets a shard. What can only be read from its
start is fetched first, once, into the user's cache. Credentials come from the environment, as each kind of address has
it.
"""

from __future__ import annotations

import codecs
import errno
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.cache import used
from tasks.data.files.encodings import HEAD, MARKS
from tasks.data.files.kinds import SUFFIXES, suffix
from tasks.digests import digest, file_digest
from tasks.errors import UserError
from tasks.paths import cache_folder

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
ETAGS = ("ETag", "etag", "md5Hash", "content_md5")  # what stores call the name of a file's content
TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
LINES = (".jsonl", ".ndjson", ".jl")


def is_address(path: str) -> bool:
    """Whether a path of a conf names a place elsewhere."""
    return ADDRESS.match(path) is not None and not path.lower().startswith("file:")


def list_addresses(address: str) -> list[str]:
    """The addresses of the data files that an address, a folder or a glob stands for, sorted.

    Raises:
        UserError: there are none, or the place cannot be reached.
    """
    with reached(address) as (files, path):
        if "*" in path:
            found = files.glob(path)
        elif _is_web(address) or files.isfile(path):
            return [address]
        else:
            found = files.find(path)
        names = sorted(files.unstrip_protocol(name) for name in found if suffix(name) in SUFFIXES)
    if not names:
        raise UserError(f"No data at {address}. Expected a file, folder or glob of {', '.join(SUFFIXES)}.")
    return names


def named(address: str) -> Any:
    """What the content of a file is known by without reading it: its size and the store's own name for it; where a
    store has none, its sha256."""
    with reached(address) as (files, path):
        info = files.info(path)
    tag = next((str(info[key]).strip('"') for key in ETAGS if info.get(key)), None)
    return [info.get("size"), tag] if tag else file_digest(fetch(address))


def fetch(address: str) -> Path:
    """A copy of a file on this disk, fetched once as long as it stays as it is.

    Raises:
        UserError: it is not there, or cannot be reached.
    """
    with reached(address) as (files, path):
        info = files.info(path)
        tag = next((str(info[key]) for key in (*ETAGS, *TIMES) if info.get(key)), None)
        # In a folder of its own: the name tells what it is.
        copy = cache_folder() / "data" / digest([address, info.get("size"), tag]) / _name(address)
        if tag is None or not copy.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".part-") as temporary:
                part = Path(temporary) / "part"
                files.get_file(path, str(part))
                part.replace(copy)
        used(copy.parent)
    return copy


def _name(address: str) -> str:
    """What a copy is called: of an address of the web without the query, which may be a long signature."""
    return PurePosixPath(urlsplit(address).path if _is_web(address) else address).name or "data"


def in_parts(address: str) -> int | None:
    """The size in bytes of a file that is read from any place; None where a web server hands out whole files only."""
    with reached(address) as (files, path):
        info = files.info(path)
    return None if _is_web(address) and not info.get("partial") else int(info["size"])


def in_lines(address: str) -> int | None:
    """The size in bytes of a file of JSON lines in UTF-8, which can be read from any place; None if it is another, as
    far as its beginning shows."""
    if not address.lower().endswith(LINES) or (size := in_parts(address)) is None:
        return None
    with reached(address) as (files, path):
        head = files.cat_file(path, start=0, end=min(HEAD, size))  # by name: the orders of stores differ
    first = head.partition(b"\n")[0].strip()
    plain = first.startswith(b"{") and first != b"{" and b"\0" not in head and not head.startswith(tuple(MARKS))
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # which may end within a letter
    except UnicodeDecodeError:
        return None
    return size if plain else None


def lines(address: str, start: int, end: int) -> bytes:
    """The lines of a file that begin at the bytes `start` to `end`, the last one to its own end."""
    with opened(address) as file:
        if start:
            file.seek(start - 1)
            start += len(file.readline()) - 1  # that of a line that began before
        content = file.read(max(0, end - start))
        return content if content.endswith(b"\n") or not content else content + file.readline()


@contextmanager
def opened(address: str) -> Generator[Any]:
    """A file to read from at any place."""
    with reached(address) as (files, path), files.open(path, "rb") as file:
        yield file


def _is_web(address: str) -> bool:
    return address.lower().startswith(("http://", "https://"))


@contextmanager
def reached(address: str) -> Generator[tuple[AbstractFileSystem, str]]:
    """The file system of an address, and the path in it.

    Raises:
        UserError: the place cannot be reached, or refuses; its package is not installed.
    """
    import fsspec

    try:
        yield fsspec.url_to_fs(address)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{address} cannot be read: {error}") from error
    except FileNotFoundError as error:
        why = f" ({error.__cause__})" if error.__cause__ else ""  # of a server that is not reached, say
        raise UserError(f"No data at {address}{why}.") from error
    except Exception as error:  # each kind of store has errors of its own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the disk of this machine is full
        said = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{address} cannot be read: {said}. Credentials come from the environment, such as AWS_ACCESS_KEY_ID."
        ) from error

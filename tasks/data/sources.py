"""Where raw rows come from: one entry in SOURCES each."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tasks.config.experiment import Data
from tasks.data import catalogue, hub
from tasks.data.files import kinds, remote, shards
from tasks.data.files.columns import WORDS, plan
from tasks.data.files.delimited import Row
from tasks.data.files.kinds import SUFFIXES
from tasks.data.files.shards import Shard
from tasks.digests import data_digest
from tasks.errors import UserError

AMAZON = "McAuley-Lab/Amazon-Reviews-2023"
AMAZON_COMMIT = "2b6d039ed471f2ba5fd2acb718bf33b0a7e5598e"


class Source(NamedTuple):
    """`shards` cuts the raw rows of a conf into parts, with a folder for temporary ones, and `identity` says cheaply
    what they depend on, for the ledger.

    `pin` puts what may move, such as a branch, into the conf as it stands now. `columns` says which of our fields
    another column stands for. `floor`, where the prices were generated, gives the best possible guess for each id with
    its 10% and 90% quantiles.
    """

    shards: Callable[[Data, int, Path], Iterator[Shard]]
    identity: Callable[[Data, int], Any]
    pin: Callable[[Data], Data] = lambda data: data
    columns: Mapping[str, str] = MappingProxyType({})
    generated: bool = False
    floor: Callable[[Data, int], dict[str, tuple[float, float, float]]] | None = None


def read_files(path: str, data: Data) -> Iterator[Row]:
    """The rows of a data file, of all data files below a folder, or of a glob, as they stand there.

    Raises:
        UserError: nothing is there, or a file is not what its name says.
    """
    for file in list_files(path):
        yield from shards.rows_of(file, data.encoding)


def list_files(path: str) -> list[Path]:
    """The data files that a path, folder or glob stands for, sorted; of those at an address, copies. A single file may
    be called anything.

    Raises:
        UserError: there are none.
    """
    if remote.is_address(path):
        return [remote.fetch(address) for address in remote.list_addresses(path)]
    path = str(Path(path).expanduser())
    root = Path(path)
    if root.is_file():
        return [root]
    if root.is_dir():
        found = [file for file in root.rglob("*") if file.is_file()]
        files = [file for file in found if kinds.suffix(file.name) in kinds.SUFFIXES]
    else:
        found = [Path(file) for file in glob.glob(path) if Path(file).is_file()]  # noqa: PTH207 (any root)
        files = [file for file in found if kinds.suffix(file.name)]
    if not files:
        there = f"{path} holds no data" if found or root.is_dir() else f"No data at {path}"
        names = f" Found: {', '.join(sorted(file.name for file in found)[:5])}." if found else ""
        raise UserError(f"{there}.{names} Expected a file, folder or glob of {', '.join(SUFFIXES)}.")
    return sorted(files)


def _cut_files(data: Data, _seed: int, folder: Path) -> Iterator[Shard]:
    if remote.is_address(path := _path(data)):
        addresses = remote.list_addresses(path)
        for address in addresses:
            _check(address, shards.columns_at(address, data.encoding), data)
        for address in addresses:
            yield from shards.cut_at(address, folder, data.encoding)
        return
    files = list_files(path)
    for file in files:
        check_columns(file, data)
    for file in files:
        yield from shards.cut(file, folder, encoding=data.encoding)


def _name_files(data: Data, _seed: int) -> list[Any]:
    """What the content of the files is known by, whatever they are called."""
    if remote.is_address(path := _path(data)):
        return sorted(map(remote.named, remote.list_addresses(path)), key=str)
    return sorted(data_digest(file) for file in list_files(path))


def check_columns(file: Path, data: Data, *, priced: bool = True) -> None:
    """A file with a header must have what the conf takes from it, each of it once; one to be priced, any words.

    Raises:
        UserError: a column is missing or ambiguous.
    """
    _check(file, shards.columns_of(file, data.encoding), data, priced=priced)


def _check(file: Path | str, there: list[str] | None, data: Data, *, priced: bool = True) -> None:
    if not there:
        return
    found = plan(tuple(there), data.columns, strict=priced)
    if found.twice:
        ours, names = found.twice[0]
        both = " and ".join(repr(name) for name in names)
        raise UserError(
            f"{file} has {len(names)} columns that could be the {ours}: {both}. Rename or remove all but one"
            f"{'' if len(set(names)) < len(names) else f', or name the right one: data.columns.{ours}=NAME'}."
        )
    fields = {ours for ours, theirs in found.columns}
    missing = found.missing if priced else ()
    if missing or (priced and "price" not in fields) or not WORDS & fields:
        wanted = (
            f"data.columns names {', '.join(missing)}."
            if missing
            else f"Expected {'a price, and ' * priced}a title or text."
        )
        raise UserError(
            f"{file} has the columns {', '.join(there[:20])}. {wanted} `pricewright init {shlex.quote(str(file))}` "
            "finds out which is which, and writes a conf. Or say it, such as data.columns.title=NAME "
            "data.columns.price=COST. If these are no names, the file lacks a header: add one."
        )


def _path(data: Data) -> str:
    if not data.path:
        raise UserError(
            "data.path is not set. Give data.path=FILE, a JSONL, JSON, CSV or Parquet with a title and a price."
        )
    return data.path


def _pin_hub(data: Data) -> Data:
    if not data.repo:
        raise UserError("data.repo is not set. Give data.repo=OWNER/NAME, a dataset of the Hugging Face hub.")
    return data.model_copy(update={"revision": _commit(data.repo, data.revision)})


def _commit(repo: str, revision: str | None) -> str:
    """The commit that a revision is now. A commit needs no look at the network: what is fetched already can be curated
    offline, and what is curated read."""
    return revision if revision and hub.COMMIT.fullmatch(revision) else hub.snapshot(repo, revision).commit


def _hub_files(found: hub.Snapshot, pattern: str) -> list[str]:
    files = [file for file in hub.matching(found, pattern) if kinds.suffix(file) in SUFFIXES]
    if not files:
        raise UserError(f"No file of {found.repo} that fits {pattern} is one of {', '.join(SUFFIXES)}. Set data.files.")
    return files


def _cut_hub(data: Data, _seed: int, folder: Path) -> Iterator[Shard]:
    found = hub.snapshot(str(data.repo), data.revision)
    for path in _hub_files(found, data.files):
        file = hub.fetch(found.repo, path, found.commit)
        check_columns(file, data)
        yield from shards.cut(file, folder, encoding=data.encoding)


def _pin_amazon(data: Data) -> Data:
    repo = data.repo or AMAZON
    return data.model_copy(update={"repo": repo, "revision": _commit(repo, data.revision or AMAZON_COMMIT)})


def _cut_amazon(data: Data, _seed: int, folder: Path) -> Iterator[Shard]:
    for category in data.categories:
        file = hub.fetch(str(data.repo), f"raw/meta_categories/meta_{category}.jsonl", str(data.revision))
        yield from shards.cut(file, folder, (("category", category),))


SOURCES: dict[str, Source] = {
    "sample": Source(
        shards=lambda data, seed, folder: shards.spill(catalogue.generate(data.rows, seed), folder, "the catalogue"),
        identity=lambda data, seed: {"rows": data.rows, "seed": seed},
        generated=True,
        floor=lambda data, seed: catalogue.floor(data.rows, seed),
    ),
    "files": Source(
        shards=_cut_files,
        identity=_name_files,
    ),
    "hub": Source(
        shards=_cut_hub,
        identity=lambda data, _seed: [data.repo, data.revision, data.files],
        pin=_pin_hub,
    ),
    "amazon": Source(
        shards=_cut_amazon,
        identity=lambda data, _seed: [data.repo, data.revision, sorted(data.categories)],
        pin=_pin_amazon,
        columns={"id": "parent_asin"},
    ),
}


def source_of(data: Data) -> Source:
    """The source that a conf names.

    Raises:
        UserError: there is no such source.
    """
    if data.source not in SOURCES:
        raise UserError(f"data.source: there is no source {data.source!r}. Expected one of {', '.join(SOURCES)}.")
    return SOURCES[data.source]

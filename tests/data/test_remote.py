"""Data by address: an S3-compatible store and a web server, read in shards where that can be, the same as a folder."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.config.experiment import Data
from tasks.data.files import remote, shards
from tasks.data.sources import list_files, source_of
from tasks.errors import UserError
from tasks.models.external import contents, read_recorded

ROWS = [{"id": str(n), "title": f"Kettle {n}, Größe {n % 7}", "price": 10.5 + n} for n in range(500)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shards of a few lines, and a cache of its own."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000)
    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def store() -> Iterator[Any]:
    """A store of fsspec's own, in memory; what is of S3 alone is tried with the servers of a team."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def put(store: Any, name: str, content: bytes) -> None:
    with store.open(f"/shop/{name}", "wb") as file:
        file.write(content)


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def cut(path: str, folder: Path, **conf: Any) -> list[shards.Shard]:
    data = Data(source="files", path=path, **conf)
    return list(source_of(data).shards(data, 42, folder))


def rows(parts: list[shards.Shard]) -> list[dict[str, Any]]:
    return [row for part in parts for row in shards.read(part)]


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_each_line_is_in_one_shard_wherever_the_cuts_fall(
    store: Any, tmp_path: Path, end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read to cut a file, and no copy is made; the end of a line may be a cut."""
    content = jsonl(ROWS).rstrip(b"\n") + end
    put(store, "goods.jsonl", content)
    for size in (997, 1000, len(jsonl(ROWS[:1])), len(jsonl(ROWS[:1])) + 1, 10**6):
        monkeypatch.setattr(shards, "SHARD_BYTES", size)
        parts = cut("memory://shop/goods.jsonl", tmp_path / "raw")
        assert rows(parts) == ROWS
        assert sum(part.bytes for part in parts) == len(content) and len(parts) == -(-len(content) // size)
    assert not (tmp_path / "cache").exists() and not (tmp_path / "raw").exists()


def test_row_groups_are_read_where_they_lie(store: Any, tmp_path: Path) -> None:
    """Of Parquet only the groups of a shard, and no copy is made."""
    with store.open("/shop/goods.parquet", "wb") as file:
        pq.write_table(pa.Table.from_pylist(ROWS), file, row_group_size=100)
    parts = cut("memory://shop/goods.parquet", tmp_path / "raw")
    assert rows(parts) == ROWS and len(parts) == 5
    assert not (tmp_path / "cache").exists()


def test_a_glob_a_folder_and_kinds_that_have_to_be_fetched(store: Any, tmp_path: Path) -> None:
    """What can only be read from its start is fetched once; whatever is no data is left alone."""
    put(store, "a.jsonl.gz", gzip.compress(jsonl(ROWS[:200]), mtime=0))
    put(store, "b.csv", b"id;title;price\n1;Kettle;10\n")
    put(store, "c.jsonl", jsonl(ROWS[200:]))
    put(store, "notes.md", b"# nothing")
    parts = cut("memory://shop", tmp_path / "raw")
    assert rows(parts) == [*ROWS[:200], {"id": "1", "title": "Kettle", "price": "10"}, *ROWS[200:]]
    copies = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.*") if path.is_file()}
    assert {path.name for path in copies} == {"a.jsonl.gz", "b.csv"}
    parts = cut("memory://shop/*.jsonl*", tmp_path / "again")
    assert rows(parts) == ROWS
    assert copies == {path: path.stat().st_mtime_ns for path in copies}


def test_what_does_not_look_like_utf8_is_read_as_a_file_of_this_disk_is(store: Any, tmp_path: Path) -> None:
    """Its encoding is found out from a copy."""
    russian = [{"id": "1", "title": "Чайник из нержавеющей стали, полтора литра", "price": 10}] * 20
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in russian)
    put(store, "goods.jsonl", lines.encode("cp1251"))
    assert rows(cut("memory://shop/goods.jsonl", tmp_path / "raw")) == russian


def test_the_name_of_the_content_follows_the_content(store: Any) -> None:
    """Not the address, and not the order."""
    data = Data(source="files", path="memory://shop/*.jsonl")
    identity = source_of(data).identity
    put(store, "a.jsonl", jsonl(ROWS[:3]))
    put(store, "b.jsonl", jsonl(ROWS[3:6]))
    first = identity(data, 42)
    put(store, "a.jsonl", jsonl(ROWS[3:6]))
    put(store, "b.jsonl", jsonl(ROWS[:3]))
    assert identity(data, 42) == first
    put(store, "a.jsonl", jsonl(ROWS[4:7]))
    assert identity(data, 42) != first


def test_a_bad_line_is_named_by_its_shard(store: Any, tmp_path: Path) -> None:
    """Nobody has counted the lines before it."""
    put(store, "goods.jsonl", jsonl(ROWS[:100]) + b"{oh\n")
    parts = cut("memory://shop/goods.jsonl", tmp_path / "raw")
    with pytest.raises(UserError, match=r"memory://shop/goods.jsonl \(from byte [\d,]+\), line \d+, is not JSON"):
        rows(parts)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("memory://shop/nothing.jsonl", "No data at memory://shop/nothing.jsonl"),
        ("memory://shop/*.jsonl", "No data at memory://shop"),
        ("gopher://shop/goods.jsonl", "cannot be read: Protocol not known: gopher"),
        ("http://127.0.0.1:9/goods.jsonl", "Cannot connect to host 127.0.0.1:9"),
    ],
)
def test_what_is_not_there_is_said(path: str, said: str, tmp_path: Path) -> None:
    """With the address, and no traceback of somebody else's."""
    with pytest.raises(UserError, match="^.*" + said.replace("*", "[*]").replace("(", "[(]")):
        cut(path, tmp_path / "raw")


def test_columns_of_files_elsewhere_are_checked(store: Any, tmp_path: Path) -> None:
    """As those of this disk are."""
    with store.open("/shop/goods.parquet", "wb") as file:
        pq.write_table(pa.Table.from_pylist([{"name": "Kettle", "cost": 3.0}]), file)
    with pytest.raises(UserError, match=r"data\.columns\.price=COST"):
        cut("memory://shop/goods.parquet", tmp_path / "raw")


@pytest.fixture
def website(tmp_path: Path) -> Iterator[str]:
    """A web server that knows nothing of ranges, as the simplest ones do."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_file_of_a_web_server(website: str, tmp_path: Path) -> None:
    """One that cannot hand out parts either."""
    (tmp_path / "www" / "goods.jsonl").write_bytes(jsonl(ROWS))
    assert rows(cut(f"{website}/goods.jsonl", tmp_path / "raw")) == ROWS
    (copy,) = list_files(f"{website}/goods.jsonl")
    assert copy.read_bytes() == jsonl(ROWS) and remote.is_address(website)


def test_a_presigned_address_is_read_as_its_path_says(website: str, tmp_path: Path) -> None:
    """However long its query is; that is not part of the file's name."""
    (tmp_path / "www" / "goods.tsv").write_text("id\ttitle\tprice\n1\tKettle, of steel\t10\n")
    address = f"{website}/goods.tsv?X-Amz-Signature={'0a' * 350}&path=a/b.csv"
    assert rows(cut(address, tmp_path / "raw")) == [{"id": "1", "title": "Kettle, of steel", "price": "10"}]
    (copy,) = list_files(address)
    assert copy.name == "goods.tsv"


def test_a_full_disk_is_not_called_a_matter_of_credentials(store: Any) -> None:
    """The store is in order: the error of the disk stays what it is."""
    put(store, "goods.csv", b"id,title,price\n" * 10_000)
    if not Path("/dev/full").exists():
        pytest.skip("This system has no device that is always full")
    with pytest.raises(OSError, match="No space left"), remote.reached("memory://shop/goods.csv") as (files, path):
        files.get_file(path, "/dev/full")


def test_recorded_predictions_by_address(store: Any, tmp_path: Path) -> None:
    """They count by their content and are called as their file is."""
    from tasks.config.experiment import Evaluate
    from tasks.data.items import Item

    table = b"id,model,guess\n1,theirs,10\n"
    put(store, "theirs.csv", table)
    (tmp_path / "theirs.csv").write_bytes(table)
    there, here = Evaluate(recorded="memory://shop/theirs.csv"), Evaluate(recorded=str(tmp_path / "theirs.csv"))
    assert contents(there) == contents(here)
    item = Item("1", "Kettle", "", "", "{}", 10.0)
    assert [row.name for row in read_recorded(there.recorded, [item])] == ["recorded/theirs"]

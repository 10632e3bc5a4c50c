"""JSON as programs write it, whose corners strict readers refuse: its rows are read, or it is refused in a sentence."""

from __future__ import annotations

import codecs
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tasks.data.files import documents, shards
from tasks.errors import UserError


def rows(folder: Path, content: bytes, name: str = "goods.json") -> list[dict[str, Any]]:
    """The rows of a file of this content, as a shard hands them on."""
    (folder / name).write_bytes(content)
    return [row for shard in shards.cut(folder / name, folder / "raw") for row in shards.read(shard)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_blank_lines_are_no_rows_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    """Between rows and at the end, as editors leave them."""
    text = '{"title": "Küche"}\r\n\r\n{"title": "Möbel"}\r\n\r\n\r\n'
    assert rows(tmp_path, text.encode(encoding), "goods.jsonl") == [{"title": "Küche"}, {"title": "Möbel"}]


def test_a_file_of_a_mark_alone_holds_no_rows(tmp_path: Path) -> None:
    """A byte order mark is no line."""
    assert rows(tmp_path, codecs.BOM_UTF8, "goods.jsonl") == []


@pytest.mark.parametrize("name", ["goods.jsonl", "goods.json"])
def test_half_a_surrogate_is_a_question_mark(tmp_path: Path, name: str) -> None:
    """Where somebody cut a text within an emoji; the row stays, in lines and in a document."""
    rest = '{"title": "Lamp", "price": 6}'
    content = f'{{"title": "Ket\\ud83dtle \\ud83d\\ude00", "price": 5}}\n{rest}'
    content = content if name.endswith("l") else f"[{content.replace(chr(10), ',')}]"
    assert rows(tmp_path, content.encode(), name) == [
        {"title": "Ket?tle \U0001f600", "price": 5},
        {"title": "Lamp", "price": 6},
    ]


BY_ID = {"1": {"title": "Kettle", "price": 5}, "b": {"title": "Lamp", "price": 6}}
NODES = [{"node": row, "cursor": key} for key, row in BY_ID.items()]
COLUMNS = {"title": {"0": "Kettle", "1": "Lamp"}, "price": {"0": 5, "1": 6}}


@pytest.mark.parametrize(
    "rows_held", [BY_ID, list(BY_ID.values()), {"count": 2, "items": BY_ID}, {"edges": NODES}, COLUMNS]
)
@pytest.mark.parametrize("names", [["products"], ["data", "products"]])
def test_rows_may_stand_below_names(tmp_path: Path, names: list[str], rows_held: Any) -> None:
    """As arrays, by id, by column or as the nodes of GraphQL, also where nothing stands beside the name."""
    for name in reversed(names):
        rows_held = {name: rows_held}
    found = rows(tmp_path, json.dumps(rows_held).encode())
    assert [(row["title"], row["price"]) for row in found] == [("Kettle", 5), ("Lamp", 6)]


@pytest.mark.parametrize(
    "more", [{}, {"variants": [{"size": 1}, {"size": 2}]}, {"maker": {"address": {"city": "Oslo"}}}]
)
def test_one_row_under_its_id_is_a_row(tmp_path: Path, more: dict[str, Any]) -> None:
    """Whatever lists and objects it holds."""
    row = {"title": "Kettle", "price": 5, **more}
    assert rows(tmp_path, json.dumps({"a1": row}).encode()) == [{"id": "a1", **row}]


@pytest.mark.parametrize("columns", [["title", 1], [{"name": "title", "type": "text"}, {"name": 1}]])
@pytest.mark.parametrize("data", [[["Kettle", 5], ["Lamp", 6]], [["Kettle", 5], {"title": "Lamp", "1": 6}]])
def test_rows_may_stand_apart_from_their_names(tmp_path: Path, columns: list[Any], data: list[Any]) -> None:
    """As databases and pandas write them: the names as texts, numbers or objects, the rows as lists or objects."""
    content = json.dumps({"columns": columns, "data": data}).encode()
    assert rows(tmp_path, content) == [{"title": "Kettle", "1": 5}, {"title": "Lamp", "1": 6}]


@pytest.mark.parametrize(
    ("columns", "data"),
    [(["title"], 5), (["title"], [5]), ([["title"]], [["Kettle"]]), ([{"label": "title"}], [["Kettle"]])],
)
def test_names_without_rows_are_refused(tmp_path: Path, columns: list[Any], data: Any) -> None:
    """Nothing is guessed from what holds no rows, or rows whose names cannot be told."""
    with pytest.raises(UserError, match=r"no rows can be made out in it\. It has the keys columns, data"):
        rows(tmp_path, json.dumps({"columns": columns, "data": data}).encode())


def test_a_document_that_memory_does_not_hold_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a few megabytes of gzip."""
    stream = io.BytesIO(b"[" + b'{"title": "Kettle"},' * 1000)
    monkeypatch.setattr(documents, "MOST_BYTES", 2**10)
    with pytest.raises(UserError, match=r"more than .* MiB\. Write it as one object a line"):
        documents.document_of(stream, "goods.json")
    assert stream.tell() == 2**10 + 1

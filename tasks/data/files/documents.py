"""JSON: one object a line, or one document that holds them as an array, by id, by column or under a name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO, Any

import orjson

from tasks.data.files.delimited import LINE, REJECTED, Row
from tasks.data.files.encodings import decode, is_utf8
from tasks.errors import UserError

NOTED = "\0noted"  # the key of what is to be counted about a row that stays
MOST_BYTES = 512 * 2**20  # of a document, which is held in memory
OF_A_ROW = {"title", "price", "text", "description", "name"}


def json_lines(lines: Iterable[bytes], origin: str, first: int = 1) -> Iterator[Row]:
    """The rows of JSONL, blank lines left out; what is no object is the text of a row.

    Raises:
        UserError: a line is not JSON.
    """
    for number, line in enumerate(lines, first):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():  # of text in other encodings the ends are cut off already, and a mark may stand alone
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = _lenient(line, origin, number)
        if line.count(b'"price"') > 1 and (twice := _twice(line)):
            row = {REJECTED: f"the key {twice} twice", LINE: decode(line)[:500]}
        yield row if isinstance(row, dict) else {"text": row}


def _lenient(line: bytes, origin: str, number: int) -> Any:
    """What strict JSON refuses and a catalogue may hold: NaN, control characters, other encodings, half surrogates."""
    text = decode(line).replace("\0", " ")
    try:
        row = _mended(json.loads(text, strict=False))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin}, line {number}, is not JSON: {error}") from error
    if isinstance(row, dict) and text.encode() != line and not is_utf8(line):
        row[NOTED] = "line that is not UTF-8, read as cp1252"
    return row


def _mended(value: Any) -> Any:
    """The same with a question mark for each half surrogate, which an escape can write and UTF-8 cannot."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _twice(line: bytes) -> str | None:
    """A key that stands twice in the object of a line."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        twice = next((key for key, count in Counter(key for key, _ in found).items() if count > 1), None)
        return dict(found)

    twice: str | None = None
    try:
        json.loads(decode(line), object_pairs_hook=pairs, strict=False)
    except (ValueError, RecursionError):
        return None
    return twice  # of the outermost object, which is closed last


def document_of(stream: IO[bytes], origin: str) -> bytes:
    """The content of a JSON document, of which no more is read than can be held in memory.

    Raises:
        UserError: it is longer.
    """
    content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(
            f"{origin} is one JSON document of more than {MOST_BYTES / 2**20:g} MiB. Write it as one object a line, "
            "such as by `jq -c '.[]'`, which can be read in parts."
        )
    return content


def document_rows(content: bytes, origin: str) -> Iterator[Row]:
    """The rows of a JSON document: an array of objects, objects by id, columns (as pandas writes them), or an object
    that holds one of these.

    Raises:
        UserError: it is none of these, or not JSON.
    """
    text = decode(content).lstrip("\ufeff") if not is_utf8(content) else content.removeprefix(b"\xef\xbb\xbf")
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = _several(text if isinstance(text, str) else text.decode(), origin)
    rows = _rows(found)
    if rows is None:
        keys = f" It has the keys {', '.join(list(found)[:10])}." if isinstance(found, dict) else ""
        raise UserError(
            f"{origin} is JSON, but no rows can be made out in it.{keys} Expected an array of objects, an object of "
            "objects by id, or one object a line."
        )
    for row in rows:
        if isinstance(row, dict):  # GraphQL puts each row into an object beside its place in the list
            yield row["node"] if row.keys() <= {"node", "cursor"} and isinstance(row.get("node"), dict) else row
        else:
            yield {"text": row}


def _several(text: str, origin: str) -> list[Any]:
    """Values that stand one after another, over several lines each, as jq writes them."""
    decoder = json.JSONDecoder(strict=False)
    found, at = [], _after_blanks(text, 0)
    try:
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            found.append(value)
            at = _after_blanks(text, at)
        found = _mended(found)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is not JSON: {error}") from error
    return found[0] if len(found) == 1 else found


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _rows(found: Any, deep: int = 0) -> list[Any] | None:
    if isinstance(found, list):
        return found
    if not isinstance(found, dict):
        return None
    values = list(found.values())
    if {"columns", "data"} <= found.keys() and isinstance(found["columns"], list):
        return _from_table(found["columns"], found["data"])
    names = {str(name).strip().lower() for name in found}
    if values and all(isinstance(value, dict | list) for value in values) and names & OF_A_ROW:
        return _from_columns(found)
    if values and all(isinstance(value, dict) for value in values):
        # One object is a row under its id, or what holds the rows.
        if len(values) == 1 and deep < 3 and not _is_row(values[0]) and (rows := _rows(values[0], deep + 1)):
            return rows
        if all(key.isdigit() for value in values for key in value) and any(values):
            return _from_columns(found)
        return [{"id": key, **value} for key, value in found.items()]
    held = [value for value in values if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(held) == 1:
        return held[0]
    if names & OF_A_ROW:
        return [found]
    inner = [rows for value in values if isinstance(value, dict) and deep < 3 and (rows := _rows(value, deep + 1))]
    return inner[0] if len(inner) == 1 else None


def _is_row(found: dict[str, Any]) -> bool:
    """Whether an object has a title or a price, and is not columns of these."""
    ours = [value for name, value in found.items() if str(name).strip().lower() in OF_A_ROW]
    return any(not isinstance(value, dict | list) for value in ours)


def _from_table(columns: list[Any], data: Any) -> list[Any] | None:
    """Rows whose names stand apart from them; None where they are none."""
    names = [column.get("name") if isinstance(column, dict) else column for column in columns]
    if not isinstance(data, list) or not all(isinstance(row, list | dict) for row in data):
        return None
    if not all(isinstance(name, str | int) for name in names):
        return None
    names = list(map(str, names))  # pandas numbers columns that have no names
    return [row if isinstance(row, dict) else dict(zip(names, row, strict=False)) for row in data]


def _from_columns(columns: dict[str, Any]) -> list[Any]:
    parts = {name: value if isinstance(value, dict) else dict(enumerate(value)) for name, value in columns.items()}
    keys = dict.fromkeys(key for part in parts.values() for key in part)
    return [{name: part.get(key) for name, part in parts.items()} for key in keys]

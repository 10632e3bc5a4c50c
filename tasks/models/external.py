"""Guesses that are made elsewhere: a person's, on a sheet that is written here, and those that others recorded."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.config.experiment import Evaluate
from tasks.data.files.delimited import LINE, REJECTED, Table
from tasks.data.files.encodings import encoding_of, text_lines
from tasks.data.files.remote import fetch, is_address
from tasks.data.items import Item
from tasks.data.prices import DOLLARS, Evidence, UnreadableError, read_guess
from tasks.digests import file_digest
from tasks.errors import UserError, writing_to
from tasks.models.predictor import Predictions

SHEET = ("id", "title", "text", "guess")
RECORDED = ("id", "model", "guess")
CELL = 32_000  # a spreadsheet breaks a longer cell into two
FORMULA = ("=", "+", "-", "@", "'")


@dataclass(frozen=True)
class ExternalPredictions:
    """A row of the leaderboard whose answers come from outside, over the test items.

    `reason` says why there are no predictions, or what they leave out. `figures` are further figures of the row and
    `params` what they depend on. `unfinished` means that another try may do better although nothing has changed here.
    """

    name: str
    kind: str
    predictions: Predictions | None = None
    status: str = "ran"
    reason: str | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    unfinished: bool = False


def write_sheet(file: Path, items: Sequence[Item]) -> None:
    """Write the items for a person to price: a CSV that spreadsheets open well, without the prices.

    Raises:
        UserError: the file is there already, or cannot be written.
    """
    if os.path.lexists(file):
        raise UserError(f"{file} is there already and may hold guesses. Give another name, or move it away.")
    with (
        writing_to(file, "Give a name in a folder that is there."),
        file.open("x", encoding="utf-8-sig", newline="") as sheet,
    ):
        writer = csv.writer(sheet)
        writer.writerow(SHEET)
        for item in items:
            identity = f"'{item.id}" if _mangled(item.id) else _escape(item.id)
            writer.writerow([identity, _escape(item.title), _escape(item.text[:CELL]), ""])


def _escape(cell: str) -> str:
    """The cell as text in every spreadsheet: one that begins like a formula would be run."""
    start = unicodedata.normalize("NFKC", cell.lstrip()[:1])  # full-width signs start a formula in some
    return f"'{cell}" if start in FORMULA or cell[:1] in ("\t", "\r", "\n") else cell


def _restore(cell: str) -> str:
    return cell.removeprefix("'")


def _mangled(identity: str) -> bool:
    """Whether a spreadsheet would save another number: it drops leading zeros and keeps fifteen digits."""
    try:
        float(identity)
    except ValueError:
        return False
    return not re.fullmatch(r"0|[1-9]\d{0,14}", identity)


def check_files(evaluate: Evaluate) -> None:
    """Look that every file of guesses is there, before hours of other work.

    Raises:
        UserError: a file does not exist.
    """
    for key, file in [("human", evaluate.human), *(("recorded", file) for file in evaluate.recorded)]:
        if file is not None and not _here(file).is_file():
            hint = "`pricewright human SHEET` writes one." if key == "human" else "Expected a CSV: id, model, guess."
            raise UserError(f"evaluate.{key}: there is no file {file}. {hint}")


def contents(evaluate: Evaluate) -> dict[str, Any]:
    """What the files of guesses hold, for the ledger; where they lie does not matter."""
    human = file_digest(_here(evaluate.human)) if evaluate.human else None
    return {"human": human, "recorded": [(file.stem, file_digest(file)) for file in map(_here, evaluate.recorded)]}


def _here(file: str) -> Path:
    """A file of a conf on this disk: a copy of one at an address."""
    return fetch(file) if is_address(file) else Path(file)


def read_sheet(file: str | None, items: Sequence[Item], currency: tuple[str, ...] = DOLLARS) -> ExternalPredictions:
    """The row of the person who filled in a sheet, over the items that have a guess; skipped where there is none. A
    sign of `currency` may stand beside a guess."""
    if file is None:
        reason = "`pricewright human SHEET` writes a sheet, evaluate.human=SHEET takes it"
        return ExternalPredictions("human", "human", status="skipped", reason=reason)
    try:
        rows = [(_restore(row["id"]), _restore(row["guess"])) for row in _read(_here(file), ("id", "guess"))]
    except ValueError as error:
        return ExternalPredictions("human", "human", status="failed", reason=str(error))
    if not any(guess.strip() for _, guess in rows):
        return ExternalPredictions("human", "human", status="skipped", reason=f"{Path(file).name} holds no guess yet")
    return _row("human", "human", rows, items, currency)


def read_recorded(
    files: Sequence[str], items: Sequence[Item], currency: tuple[str, ...] = DOLLARS
) -> list[ExternalPredictions]:
    """A row for each model of the files, over the test items it covers; a file that cannot be read is a row too. A
    sign of `currency` may stand beside a guess."""
    found: dict[str, list[tuple[str, str]]] = {}
    broken = []
    for file in map(_here, files):
        try:
            for row in _read(file, RECORDED):
                found.setdefault(row["model"].strip() or file.stem, []).append((row["id"], row["guess"]))
        except ValueError as error:
            broken.append(ExternalPredictions(f"recorded/{file.name}", "recorded", status="failed", reason=str(error)))
    return [_row(f"recorded/{model}", "recorded", rows, items, currency) for model, rows in found.items()] + broken


def _read(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV as a spreadsheet saves it: with commas, semicolons or tabs, in whatever encoding.

    Raises:
        ValueError: it is no CSV, holds no rows, or lacks a column.
    """
    try:
        table = Table(text_lines(file, encoding_of(file, None)), file.name)
        rows = list(table.rows(short=True))
    except (UserError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from None
    names = [name.lower() for name in table.header]
    missing = [column for column in columns if column not in names]
    if missing:
        first = f": its first line is {', '.join(table.header)[:80]!r}" if names else ""
        raise ValueError(
            f"{file.name} has no column {', '.join(missing)}; expected a first line with {', '.join(columns)}{first}"
        )
    if twice := [column for column in columns if names.count(column) > 1]:
        raise ValueError(f"{file.name} has two columns called {twice[0]}; leave one")
    if not rows:
        raise ValueError(f"{file.name} holds no rows")
    # A line that is lost may hold anybody's guess.
    if lost := [row for row in rows if REJECTED in row]:
        raise ValueError(f"{file.name} is not CSV: {lost[0][REJECTED]} in {lost[0][LINE][:60]!r}")
    return [{name.lower(): cell for name, cell in row.items() if name.lower() in columns} for row in rows]


def _row(
    name: str, kind: str, rows: Sequence[tuple[str, str]], items: Sequence[Item], currency: tuple[str, ...]
) -> ExternalPredictions:
    """The row of (id, guess) cells. What cannot be used is left out and named; an id with two guesses spoils it all,
    since nobody can say which of them was meant, and so do guesses that could be thousands or decimals."""
    # A spreadsheet may write another line end into a cell.
    position = {item.id.replace("\r\n", "\n"): number for number, item in enumerate(items)}
    price = np.full(len(items), np.nan)
    given = [(key if key in position else key.strip(), guess.strip()) for key, guess in rows if guess.strip()]
    counts = Counter(key for key, _ in given)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        reason = f"{_some(twice, 'id')} with more than one guess; expected one for each item"
        return ExternalPredictions(name, kind, status="failed", reason=reason)
    evidence = Evidence()
    for _, guess in given:
        evidence.look(guess)
    try:
        decimal, _ = evidence.decide()
    except UnreadableError as error:
        reason = f"{error}; write them without marks between thousands"
        return ExternalPredictions(name, kind, status="failed", reason=reason)
    unknown = [key for key, _ in given if key not in position]
    unusable = []
    for key, guess in given:
        value = read_guess(guess, decimal, currency)
        if key in position and value is not None:
            price[position[key]] = value
        elif key in position:
            unusable.append(f"{guess[:20]!r} for {key}")
    remarks = [f"{_some(unusable, 'guess', 'guesses')} that is no price, left out"] if unusable else []
    remarks += [f"{_some(unknown, 'id')} not among the test items, left out"] if unknown else []
    if np.isnan(price).all():
        example = f"; its ids look like {items[0].id!r}" if unknown else ""
        if unknown and set(unknown) & {item.title for item in items}:
            example += ", and the column id holds titles"
        return ExternalPredictions(
            name, kind, status="failed", reason=f"no guess can be used{example}: {'; '.join(remarks)}"
        )
    return ExternalPredictions(name, kind, Predictions.points(price), reason="; ".join(remarks) or None)


def _some(things: Sequence[str], one: str, many: str | None = None) -> str:
    shown = ", ".join(things[:3]) + (", ..." if len(things) > 3 else "")
    return f"{len(things)} {one if len(things) == 1 else many or one + 's'} ({shown})"

"""Tables of text: which mark parts their cells, and rows that can be trusted, the others marked as rejected.

A library's reader takes a stray quote for the start of a cell and swallows the lines up to the next one. Here every
line is a row, a part of a cell of several lines, or a rejection.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from tasks.data.prices import CURRENCIES
from tasks.errors import UserError

Row = dict[str, Any]
REJECTED = "\0rejected"  # the key of a row that stands for lines that could not be read: the reason
LINE = "\0line"  # their text
DELIMITERS = ",;\t|"
SEPARATOR = re.compile(r"\s*\"?sep=(.)\"?\s*", re.IGNORECASE)
SAMPLE = 200  # lines by which the delimiter is chosen
MOST_LINES = 1000  # of one cell
SIGN = rf"(?:(?:[A-Z]{{3}}\b|[A-Z]{{1,2}}\$|{'|'.join(map(re.escape, itertools.chain(*CURRENCIES)))})\W{{0,4}})?"
NUMERIC = re.compile(rf"\s*\W{{0,4}}{SIGN}\d[\d.,\s]{{0,30}}\W{{0,4}}{SIGN}\s*")

csv.field_size_limit(2**31 - 1)


class Table:
    """The lines of a table: its header, and its rows."""

    def __init__(self, lines: Iterable[str], origin: str, likely: str = ",") -> None:
        """`likely` is the delimiter that the file's name promises.

        Raises:
            UserError: there is no header in which cells can be told apart.
        """
        self.lines = (line for line in lines)
        self.waiting: deque[str] = deque(self._head())
        given = SEPARATOR.fullmatch(self.waiting[0]) if self.waiting else None
        if given:
            self.waiting.popleft()
        self.delimiter = given.group(1) if given else _delimiter(self.waiting, likely)
        self.header: list[str] = []
        if (first := self._next()) is not None:
            cells, _ = self._record(first, None)
            if cells is None:
                raise UserError(f"{origin} cannot be read: its first line has a quote that is not closed: {first[:80]}")
            self.header = [name.strip().lstrip("\ufeff").strip() for name in cells]
            while self.header and not self.header[-1]:
                self.header.pop()
        self.numeric = self._numeric_columns()

    def _head(self) -> list[str]:
        return [line for line in itertools.islice(self.lines, SAMPLE) if line.strip()]

    def _next(self) -> str | None:
        return self.waiting.popleft() if self.waiting else next(self.lines, None)

    def rows(self, *, short: bool = False) -> Iterator[Row]:
        """The rows under the header's names; blank lines are left out. In `short` rows the last cells may be missing,
        as spreadsheets leave out empty ones."""
        width = len(self.header)
        while (line := self._next()) is not None:
            if '"' in line:
                cells, line = self._record(line, width)
            elif line and not line.isspace():
                cells = line.split(self.delimiter)
            else:
                continue
            if cells is not None and len(cells) > width and not any(cells[width:]):
                cells = cells[:width]
            if cells is None:
                yield {REJECTED: "a quote that is not closed", LINE: line[:500]}
            elif not any(cell.strip() for cell in cells):
                continue
            elif len(cells) == width or (short and len(cells) < width):
                cells += [""] * (width - len(cells))
                yield dict(zip(self.header, cells, strict=True))
            else:
                more = "more" if len(cells) > width else "fewer"
                yield {REJECTED: f"{more} cells than the header", LINE: line[:500]}

    def _record(self, line: str, width: int | None) -> tuple[list[str] | None, str]:
        """The cells of a line with quotes, or of it and the lines that a cell of it goes on in, and the text of all."""
        cells, closed = self._strictly(line)
        if not closed:
            taken = [line]
            while not closed and len(taken) < MOST_LINES and (following := self._next()) is not None:
                taken.append(following)
                if '"' in following:
                    cells, closed = self._strictly("\n".join(taken))
            # Lines that are rows by themselves are not the text of a cell: the quote is a stray one. The last line also
            # holds the cells that follow, and may look like a row: it counts only if the first line is a row as well.
            alone = [bool(width) and self._is_row(other, width) for other in taken]
            rows = sum(alone[1:-1]) + (alone[0] and alone[-1])
            fits = cells is not None and width in (None, len(cells)) and 2 * rows < len(taken)
            if fits or (cells is not None and not any(alone[1:])):
                return cells, "\n".join(taken)
            self.waiting.extendleft(reversed(taken[1:]))
            cells = None
        if cells is None or width not in (None, len(cells)):
            literal = line.split(self.delimiter)
            if len(literal) == width:
                return literal, line
        return cells, line

    def _strictly(self, text: str) -> tuple[list[str] | None, bool]:
        """The cells, if quotes stand where they belong; and whether every quote is closed."""
        closed = True
        backslashes: dict[str, Any] = {"doublequote": False, "escapechar": "\\"}
        for options in ({}, backslashes if '\\"' in text else None):
            try:
                if options is not None:
                    (cells,) = csv.reader([text], delimiter=self.delimiter, strict=True, **options)
                    return cells, True
            except csv.Error as error:
                closed = closed and (options != {} or "unexpected end" not in str(error))
        return None, closed

    def _is_row(self, line: str, width: int) -> bool:
        """Whether a line by itself has the cells of a row, numbers where the column holds them."""
        cells = (self._strictly(line)[0] if '"' in line else None) or line.split(self.delimiter)
        return len(cells) == width > 1 and all(
            NUMERIC.fullmatch(cells[number]) or (gaps and cells[number].strip() in ("", '""'))
            for number, gaps in self.numeric.items()
        )

    def _numeric_columns(self) -> dict[int, bool]:
        """The columns that hold numbers in nearly all of the first rows, and whether they have empty cells."""
        width = len(self.header)
        parted = csv.reader([line.replace("\r", " ") for line in self.waiting], delimiter=self.delimiter)
        rows = [cells for cells in parted if len(cells) == width][:50]
        found = {}
        for number, column in enumerate(zip(*rows, strict=True)):
            filled = [cell for cell in column if cell.strip()]
            if sum(bool(NUMERIC.fullmatch(cell)) for cell in filled) > 0.8 * len(filled):
                found[number] = len(filled) < len(column)
        return found


def _delimiter(lines: Iterable[str], likely: str) -> str:
    """The mark that parts the header and most of the lines into as many cells."""
    lines = list(lines)
    if not lines:
        return likely
    best, most = likely, (0.0, 0)
    for mark in sorted(DELIMITERS, key=lambda mark: mark != likely):
        widths = [width for line in lines if (width := _width(line, mark))]
        header = _width(lines[0], mark)
        if header < 2:
            continue
        alike = sum(width == header for width in widths) / len(widths)
        if (alike, header) > most:
            best, most = mark, (alike, header)
    return best


def _width(line: str, mark: str) -> int:
    """How many cells a line has; 0 if a quote in it is not closed."""
    if '"' not in line:
        return line.count(mark) + 1
    try:
        return len(next(csv.reader([line], delimiter=mark, strict=True)))
    except csv.Error:
        return 0

"""Tables whose cells hold line breaks: valid ones are read as they were written, and no stray quote joins rows."""

from __future__ import annotations

import csv
import io
import itertools
import random

import pytest

from tasks.data.files.delimited import REJECTED, Table

LAYOUTS = (
    ("title", "description", "price"),
    ("title", "price", "description"),
    ("price", "title", "description"),
    ("description", "price"),
    ("id", "title", "description", "brand", "price"),
)
CONTENTS = {
    "plain": "Made by hand.\nSolid oak {n}",
    "a comma in the last line": "Made by hand.\nSolid oak, oiled {n}",
    "a comma in the first line": "Made, by hand.\nSolid oak {n}",
    "commas": "Made, by hand, here.\nSolid oak, oiled, {n}",
    "bullets": "Features:\n- oak; oiled, waxed\n- {n} legs; 5 screws, 2 keys\n- 3, 4, 5\nMade here.",
    "inches": '24" wide,\n27" deep, {n}" high,\nwith 5" drawers',
    "quotes": 'He said "buy it"\nand "soon, {n}"\n"please"',
    "HTML": '<p class="x">Solid, heavy</p>\n<ul>\n<li style="a:b">oak, {n}</li>\n<li>5, 6</li>\n</ul>',
    "paragraphs": "One, {n}.\n\nTwo, three.\n",
    "first line empty": "\nMade, by hand {n}",
    "backslashes": 'C:\\kept, "x"\nthen \\ {n}, more',
    "long": "\n".join(f"line {line}, of {{n}}, text" for line in range(30)),
}
PRICES = {
    "numbers": lambda n: f"{n}.50",
    "dollars": lambda n: f"${n},250.00",
    "codes": lambda n: f"{n},50 EUR",
    "gaps": lambda n: "" if n % 9 == 4 else f"{n}.50",
}


def rows_of(layout: tuple[str, ...], content: str, price: str, lines: float = 1.0) -> list[list[str]]:
    """Rows in whose descriptions a share of the line breaks stays."""
    draw, rows = random.Random(content), []
    for n in range(1, 25):
        text = CONTENTS[content].format(n=n)
        cells = {
            "id": f"a{n}",
            "title": f"Oak table, no. {n}" if n % 3 else f"Oak table {n}",
            "description": text if draw.random() < lines else " ".join(text.split()),
            "brand": "Acme",
            "price": PRICES[price](n),
        }
        rows.append([cells[name] for name in layout])
    return rows


def read(text: str) -> list[list[str]]:
    """The cells of the rows, a run of blanks as one; the reason alone of a row that is rejected."""
    rows = Table(text.removesuffix("\n").split("\n"), "x").rows()
    return [[row[REJECTED]] if REJECTED in row else [" ".join(cell.split()) for cell in row.values()] for row in rows]


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
def test_cells_of_several_lines_are_read_as_they_were_written(layout: tuple[str, ...], content: str) -> None:
    """Whatever stands in their lines and wherever the price does, also where the last line of a cell with what follows
    it, or the first one with what precedes it, has as many commas as a row."""
    layouts = itertools.product(PRICES, (csv.QUOTE_MINIMAL, csv.QUOTE_ALL), ",;\t", (1.0, 0.3))
    for price, quoting, mark, lines in layouts:
        rows, text = rows_of(layout, content, price, lines), io.StringIO()
        writer = csv.writer(text, delimiter=mark, quoting=quoting, lineterminator="\n")
        writer.writerows([layout, *rows])
        assert read(text.getvalue()) == [[" ".join(cell.split()) for cell in row] for row in rows], (price, mark)


@pytest.mark.parametrize("content", ["plain", "commas", "HTML"])
@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
def test_two_stray_quotes_do_not_join_the_rows_between_them(layout: tuple[str, ...], content: str) -> None:
    """An inch mark before a cell, and one or more rows later another behind one: what lies between would fit a cell."""
    for price, apart in itertools.product(PRICES, (1, 2, 5)):
        rows = [[" ".join(cell.replace(",", " ").replace('"', "").split()) for cell in row]
                for row in rows_of(layout, content, price)]  # fmt: skip
        written = [row.copy() for row in rows]
        place = layout.index("description")
        written[6][place] = f'"24 {rows[6][place]}'
        written[6 + apart][place] = f'{rows[6 + apart][place]} 27"'
        found = read("\n".join(";".join(row) for row in [list(layout), *written]))
        assert found == written, (price, apart)

"""The leaderboard in order and in tables: for a terminal, for Markdown, and for a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from tasks.scoring.comparisons import FLOOR
from tasks.scoring.rows import CONTRACT, Row
from tasks.scoring.wording import duration, escaped, figure, interval, p_text, with_unit

GENERATED = "Generated data: made up by a program, not a statement about real products."
SYMBOLS = {"champion": "★ champion", "challenger": "▲ challenger", "best_checkpoint": "◆ best checkpoint"}


def marks(row: Row) -> list[str]:
    """What sets a row apart: a symbol and a word, so that neither colour nor font is needed to see it."""
    return [mark for key, mark in SYMBOLS.items() if getattr(row, key)]


def outcome(row: Row) -> str:
    """Why a row has no figures. One that ran gave no answer in which a price was found."""
    status = "answered no test item with a price" if row.status == "ran" else row.status
    return f"{status}: {row.reason}" if row.reason else status


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows, best first: the ranked by rank and distance to the leader, who is in front, the floor, what did not run."""

    def key(row: Row) -> tuple[float, ...]:
        group = 2 if row.mae is None else 1 if row.kind == FLOOR else 0
        behind = row.mae if row.difference is None else row.difference
        return (group, row.rank or math.inf, not row.leads, behind or 0)

    return sorted(rows, key=key)


def leader_of(rows: Sequence[Row]) -> Row | None:
    """The leader among rows in_order: the first, if any leads."""
    return rows[0] if rows and rows[0].leads else None


Headings = dict[str, dict[str, Any]]  # options of a terminal's columns, by their titles


class Column(NamedTuple):
    """A column of figures: its title, and what stands in it for a row; nothing where the row has no figure."""

    title: str
    text: Callable[[Row], str]


def _number(key: str, form: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row.number(key)
        return "" if value is None else figure(value, form)

    return text


def _p_value(row: Row) -> str:
    return "" if row.p_value is None else p_text(row.p_value)[2:].lstrip("= ")


# The first seven always stand; the others as soon as a row has a figure for them.
COLUMNS = {
    "mae": Column("MAE", _number("mae", ".2f")),
    "mae_low": Column("95% interval", lambda row: interval(row.mae_low, row.mae_high)),
    "difference": Column("Behind leader", lambda row: "leader" if row.leads else _number("difference", "+.2f")(row)),
    "difference_low": Column(
        "95% interval", lambda row: "" if row.leads else interval(row.difference_low, row.difference_high, sign="+")
    ),
    "p_value": Column("p, as good as the best", _p_value),
    "hits": Column("Hits", _number("hits", ".0%")),
    "n": Column("n", _number("n", ",.0f")),
    "median_ae": Column("Median error", _number("median_ae", ".2f")),
    "rmse": Column("RMSE", _number("rmse", ".2f")),
    "rmsle": Column("RMSLE", _number("rmsle", ".3f")),
    "r2": Column("R²", _number("r2", ".2f")),
    "coverage": Column("In 80% interval", _number("coverage", ".0%")),
    "width": Column("Interval width", _number("width", ".2f")),
    "crps": Column("CRPS", _number("crps", ".2f")),
    "unparsable": Column("Unparsable", _number("unparsable", ".1%")),
    "n_train": Column("Trained on", _number("n_train", ",.0f")),
    "fit_seconds": Column("Fit", lambda row: duration(row.fit_seconds)),
    "predict_ms": Column("ms per item", _number("predict_ms", ".3g")),
    "size_mb": Column("Size, MB", _number("size_mb", ".3g")),
}
ALWAYS = 7


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that these rows fill: those known here, and then whatever else was measured, under its own name, so
    that a new metric is one entry in METRICS."""
    known = [
        column
        for i, (key, column) in enumerate(COLUMNS.items())
        if i < ALWAYS or any(row.number(key) is not None for row in rows)
    ]
    more = dict.fromkeys(key for row in rows for key, value in row.figures.items() if value is not None)
    own = [Column(key.replace("_", " ").capitalize(), _number(key, ",.4g")) for key in more if key not in COLUMNS]
    return [*known, *own]


def leaderboard_table(rows: Iterable[Row], *, generated: bool = False, unit: str = "$", width: int = 80) -> Table:
    """The leaderboard for a terminal of so many columns, 80 and more; the names and remarks wrap, the figures do not.

    From 130 columns on it also has the interval's coverage and what the answers took. Where errors are so large, or so
    small, that there is no room for them, they are counted in thousands and the like. What was skipped has no row but a
    sentence below.
    """
    rows = list(rows)
    ordered = [row for row in in_order(rows) if row.status != "skipped"]
    # The first form with room enough, or the one with the most.
    forms = _forms(ordered, unit, width)
    headings, lines, notes = max(forms, key=lambda form: min(_room(*form[:2], width), len(REMARKS)))
    if (room := _room(headings, lines, width)) <= NAME:  # Rich would share this out evenly, keep NAME, and cut remarks
        headings[REMARKS]["max_width"] = max(room, len(REMARKS))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, caption_justify="left")
    table.caption = Text("\n".join([*notes, *([GENERATED] if generated else []), *skipped(rows)])) or None
    for title, options in headings.items():
        table.add_column(title, **options)
    groups = [row.mae is None or 2 * (row.kind == FLOOR) for row in ordered]
    for i, (row, cells) in enumerate(zip(ordered, lines, strict=True)):
        ends_section = i + 1 < len(ordered) and groups[i] != groups[i + 1]
        style = "bold" if row.leads else "dim" if groups[i] else None
        # Text: square brackets in a name are no markup
        table.add_row(*map(Text, cells), style=style, end_section=ends_section)
    return table


def _forms(rows: list[Row], unit: str, width: int) -> Iterator[tuple[Headings, list[list[str]], list[str]]]:
    """Headings, cells and notes of the table in its forms: with further columns, as it is, and the shorter ones, with
    errors in thousands and the like."""
    known = [COLUMNS[key] for key in WIDE if any(row.number(key) is not None for row in rows)]
    for more in [known, []] if width >= 130 else [[]]:
        yield _headings(unit, more), [_cells(row, more) for row in rows], []
    for power in _powers(rows):
        letter, word = PREFIXES[power]
        counted = f"{letter}{with_unit('', unit)}" if power else unit
        notes = [f"{counted}: errors are in {word} of {unit}."] if power else []
        yield _headings(counted), [_cells(row, power=power) for row in rows], notes


def _room(headings: Headings, lines: list[list[str]], width: int) -> int:
    """The columns that figures and the shortest names leave for remarks, of so many, with two between any two."""
    columns = zip(headings, *lines, strict=True)
    figures = [max(map(cell_len, column)) for column in columns if column[0] not in (NAMES, REMARKS)]
    return width - sum(figures) - NAME - 2 * (len(headings) - 1)


def _powers(rows: Sequence[Row]) -> list[int]:
    """The powers of ten by which the first error has one to three digits before the point; of one above 1 before that
    the power that leaves it two or more, if it is another one."""
    size = math.log10(next((row.mae for row in rows if row.mae), 1.0))
    found = {size // 3, max(0, (size - 1) // 3) if size >= 0 else size // 3}
    return [min(max(3 * int(power), min(PREFIXES)), max(PREFIXES)) for power in sorted(found)]


def skipped(rows: Iterable[Row]) -> list[str]:
    """What did not run and how to make it run, in a sentence; none where nothing was skipped."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.status == "skipped":
            names.setdefault(row.reason or "no reason is known", []).append(row.label)
    told = "; ".join(f"{', '.join(models)} ({reason})" for reason, models in names.items())
    return [f"Not run: {told}."] if told else []


NAMES, REMARKS = "model", "kind, remarks"
NAME = 15  # columns: constant_median, word2vec_linear
WIDE = ("median_ae", "coverage", "predict_ms")
PREFIXES = {  # by power of ten
    -6: ("\u00b5", "millionths"),
    -3: ("m", "thousandths"),
    0: ("", ""),
    3: ("K", "thousands"),
    6: ("M", "millions"),
    9: ("B", "billions"),
    12: ("T", "trillions"),
}


def _headings(unit: str, more: Sequence[Column] = ()) -> Headings:
    figure = {"justify": "right", "no_wrap": True}
    return {
        "#": figure,
        NAMES: {"overflow": "fold", "min_width": NAME},
        **dict.fromkeys((f"MAE {unit}", "95% CI", "vs leader", "hits", "n"), figure),
        **dict.fromkeys((column.title for column in more), figure),
        REMARKS: {"overflow": "fold", "min_width": 14},
    }


def _cells(row: Row, more: Sequence[Column] = (), power: int | None = None) -> list[str]:
    """The cells of a row under `_headings`. Made short by a power of ten, errors are in that many units, and those from
    1,000 on have no decimals."""

    def error(key: str) -> float | None:
        value = row.number(key)
        return value if value is None or not power else value / 10.0**power

    def short(low: float | None, high: float | None, to: str, sign: str = "") -> str:
        wide = low is not None and high is not None and max(-low, high) >= 100
        return interval(low, high, to=to, sign=sign, digits=0 if wide else None)  # 80 columns have no room for more

    mae = error("mae")
    # What the floor is stands below the table; of other rows that ran, the reason says which items they cover.
    said = outcome(row) if row.mae is None else row.reason if row.kind != FLOOR else None
    remarks = [row.kind, *marks(row), *([said] if said else [])]
    return [
        "" if row.rank is None else str(row.rank),
        row.label,
        "" if mae is None else figure(mae, ".2f" if power is None or mae < 1000 else ".0f"),
        short(error("mae_low"), error("mae_high"), "\u2013"),
        "leader" if row.leads else short(error("difference_low"), error("difference_high"), " to ", "+"),
        _number("hits", ".0%")(row),
        str(row.n) if row.n else "",
        *(column.text(row) for column in more),
        "; ".join(remarks),
    ]


def as_records(rows: Iterable[Row], unit: str = "$") -> list[dict[str, str]]:
    """What the terminal shows, as one dict of texts for each row, best first."""
    return [dict(zip(_headings(unit), _cells(row), strict=True)) for row in in_order(rows)]


def as_markdown(rows: Iterable[Row], *, generated: bool = False, unit: str = "$") -> str:
    """The leaderboard as a table of Markdown, for a README or a pull request; names and reasons are escaped."""
    headings = _headings(unit)
    rule = ["---:" if "justify" in options else "---" for options in headings.values()]
    lines = [list(headings), rule, *([escaped(cell) for cell in row.values()] for row in as_records(rows, unit))]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n{GENERATED}" if generated else table


def as_csv(rows: Iterable[Row]) -> str:
    """The leaderboard with all its figures as CSV, best first; a figure that is not there is an empty cell."""
    ordered = [row.to_json() for row in in_order(rows)]
    keys = list(dict.fromkeys(key for row in ordered for key in row)) or list(CONTRACT)
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    return text.getvalue()

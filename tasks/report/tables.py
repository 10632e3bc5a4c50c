"""The leaderboard in order and in tables: for a terminal, for Markdown, and for a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from tasks.scoring.comparisons import FLOOR
from tasks.scoring.rows import CONTRACT, Row
from tasks.scoring.wording import duration, escaped, figure, interval, p_text

GENERATED = "Generated data: made up by a program, not a statement about real products."
SYMBOLS = {"champion": "★ champion", "challenger": "▲ challenger", "best_checkpoint": "◆ best checkpoint"}


def marks(row: Row) -> list[str]:
    """What sets a row apart: a symbol and a word, so that neither colour nor font is needed to see it."""
    return [mark for key, mark in SYMBOLS.items() if getattr(row, key)]


def outcome(row: Row) -> str:
    """Why a row has no figures."""
    return f"{row.status}: {row.reason}" if row.reason else row.status


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


def leaderboard_table(rows: Iterable[Row], *, generated: bool = False, unit: str = "$", wide: bool = False) -> Table:
    """The leaderboard for a terminal of 80 columns and more; the names and remarks wrap, the figures do not.

    A wide one, for 130 columns and more, also has the interval's coverage and what the answers took. What was skipped
    has no row but a sentence below.
    """
    rows = list(rows)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, caption_justify="left")
    table.caption = Text("\n".join([*([GENERATED] if generated else []), *skipped(rows)])) or None
    ordered = [row for row in in_order(rows) if row.status != "skipped"]
    more = [COLUMNS[key] for key in WIDE if wide and any(row.number(key) is not None for row in ordered)]
    for title, options in _headings(unit).items():
        if title == REMARKS:
            for column in more:
                table.add_column(column.title, justify="right", no_wrap=True)
        table.add_column(title, **options)
    groups = [row.mae is None or 2 * (row.kind == FLOOR) for row in ordered]
    for i, row in enumerate(ordered):
        ends_section = i + 1 < len(ordered) and groups[i] != groups[i + 1]
        style = "bold" if row.leads else "dim" if groups[i] else None
        *figures, remarks = _cells(row)
        cells = [*figures, *(column.text(row) for column in more), remarks]
        # Text: square brackets in a name are no markup
        table.add_row(*map(Text, cells), style=style, end_section=ends_section)
    return table


def skipped(rows: Iterable[Row]) -> list[str]:
    """What did not run and how to make it run, in a sentence; none where nothing was skipped."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.status == "skipped":
            names.setdefault(row.reason or "no reason is known", []).append(row.label)
    told = "; ".join(f"{', '.join(models)} ({reason})" for reason, models in names.items())
    return [f"Not run: {told}."] if told else []


REMARKS = "kind, remarks"
WIDE = ("median_ae", "coverage", "predict_ms")


def _headings(unit: str) -> dict[str, dict[str, Any]]:
    figure = {"justify": "right", "no_wrap": True}
    return {
        "#": figure,
        "model": {"overflow": "fold", "min_width": 15},
        **dict.fromkeys((f"MAE {unit}", "95% CI", "vs leader", "hits", "n"), figure),
        REMARKS: {"overflow": "fold", "min_width": 14},
    }


def _cells(row: Row) -> list[str]:
    def short(low: float | None, high: float | None, to: str, sign: str = "") -> str:
        wide = low is not None and high is not None and max(-low, high) >= 100
        return interval(low, high, to, sign=sign, digits=0 if wide else None)  # 80 columns have no room for more

    # What the floor is stands below the table; of other rows that ran, the reason says which items they cover.
    said = outcome(row) if row.mae is None else row.reason if row.kind != FLOOR else None
    remarks = [row.kind, *marks(row), *([said] if said else [])]
    return [
        "" if row.rank is None else str(row.rank),
        row.label,
        _number("mae", ".2f")(row),
        short(row.mae_low, row.mae_high, "\u2013"),
        "leader" if row.leads else short(row.difference_low, row.difference_high, " to ", "+"),
        _number("hits", ".0%")(row),
        str(row.n) if row.n else "",
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

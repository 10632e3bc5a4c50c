"""The leaderboard in order, in words and in tables: for a terminal, for Markdown, and for a spreadsheet.

Rows are dicts with the keys of ROW_KEYS and whatever else an evaluation measured: a number under a key that is not
known here gets a column of its own as soon as a row has it, so that a new metric is one entry in METRICS.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from tasks.scoring.comparisons import OWN_KINDS, SIGNIFICANCE
from tasks.scoring.wording import amount, duration, escaped, p_text, span

Row = dict[str, Any]

ROW_KEYS = (
    *("rank", "model", "kind", "step", "status", "reason", "n", "n_train", "mae", "mae_low", "mae_high", "median_ae"),
    *("rmse", "rmsle", "r2", "hits", "difference", "difference_low", "difference_high", "p_value", "split"),
    *("champion", "best_checkpoint", "fit_seconds", "predict_ms", "size_mb"),
)
GENERATED = "Generated data: made up by a program, not a statement about real products."


def label(row: Row) -> str:
    """A model's name, with the step of a checkpoint."""
    return row["model"] if row.get("step") is None else f"{row['model']} step {row['step']}"


def marks(row: Row) -> list[str]:
    """What sets a row apart: a symbol and a word, so that neither colour nor font is needed to see it."""
    named = {"champion": "★ champion", "challenger": "▲ challenger", "best_checkpoint": "◆ best checkpoint"}
    return [mark for key, mark in named.items() if row.get(key)]


def outcome(row: Row) -> str:
    """Why a row has no figures."""
    return f"{row['status']}: {row['reason']}" if row["reason"] else str(row["status"])


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = list(names[:most]) + ([f"{len(names) - most} more"] if len(names) > most else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Complete rows, best first: the ranked by rank and MAE with the leader in front, the floor, what did not run."""

    def key(row: Row) -> tuple[float, ...]:
        group = 2 if row["mae"] is None else 1 if row["kind"] == "floor" else 0
        return (group, row["rank"] or math.inf, not may_lead(row), row["mae"] or 0)

    return sorted((dict.fromkeys(ROW_KEYS) | row for row in rows), key=key)


def may_lead(row: Row) -> bool:  # one of our own, against which the others were tested
    return row["rank"] == 1 and row["kind"] in OWN_KINDS and row["p_value"] is None


def leader_of(rows: list[Row]) -> Row | None:
    """The leader among rows in_order: the first, if any may lead."""
    return rows[0] if rows and may_lead(rows[0]) else None


def headline(rows: list[Row], unit: str) -> tuple[str, list[str]]:
    """The conclusion by rule, from rows in_order: one sentence, and the sentences that say how certain it is."""
    ran = [row for row in rows if row["mae"] is not None]
    leader = leader_of(rows)
    if not ran:
        return "No model has run yet.", []
    if leader is None:
        return "No model answered every test item, so none leads.", []
    off = f"{amount(leader['mae'], unit)} off on average"
    ranked = [row for row in ran if row["kind"] != "floor" and row is not leader]
    better = [row for row in ranked if (row["p_value"] or 0) < SIGNIFICANCE and (row["difference"] or 0) < 0]
    tied = [row for row in ranked if row["rank"] == 1 and row not in better]
    if not ranked:
        first = f"{label(leader)} is the only model that ran: its guesses are {off}."
    elif tied:
        them = "another model" if len(tied) == 1 else f"{len(tied)} other models"
        first = f"No certain winner: {label(leader)} is {off}, and {them} cannot be told from it."
    else:
        first = f"{label(leader)} leads: its guesses are {off}."
    return first, [*_certainty(leader, ranked, tied, unit), *_context(rows, leader, better, unit)]


def _certainty(leader: Row, ranked: list[Row], tied: list[Row], unit: str) -> list[str]:
    measured = (f"{leader['n']:,} test items", span(leader, unit, "mae"))
    sentences = [f"Measured on {', '.join(part for part in measured if part)}."]
    rivals = [row for row in ranked if row["kind"] in OWN_KINDS and (row["rank"] or 1) > 1]
    if tied:
        gap = tied[0]["difference"] or 0
        size = f"{amount(abs(gap), unit)} {'worse' if gap >= 0 else 'better'} on the items both answered"
        # An interval by itself may lie beyond zero where the test, corrected for all that were made, says nothing.
        many = "among so many models " if (tied[0]["difference_low"] or 0) > 0 else ""
        sentences.append(f"{label(tied[0])} is {size} ({span(tied[0], unit)}), which {many}chance alone can explain.")
        if len(tied) > 1:
            sentences.append(f"The same holds for {_listed([label(row) for row in tied[1:]])}.")
    elif rivals:
        gap = amount(rivals[0]["difference"], unit)
        evidence = f"{span(rivals[0], unit)}; {p_text(rivals[0]['p_value'])}"
        sentences.append(f"The next, {label(rivals[0])}, is {gap} worse ({evidence}): more than chance explains.")
    return sentences


def _context(rows: list[Row], leader: Row, better: list[Row], unit: str) -> list[str]:
    sentences = [
        f"{label(row)} did better by {amount(-row['difference'], unit)} on the {row['n']:,} items it answered, but "
        + ("is a recorded run and not one of ours." if row["kind"] == "recorded" else "did not answer all of them.")
        for row in better
    ]
    ran = [row for row in rows if row["mae"] is not None and row is not leader]
    constant = next((row for row in ran if row["model"].startswith("constant")), None)
    if constant:
        sentences.append(f"Always guessing the same price is {amount(constant['mae'], unit)} off.")
    floor = next((row for row in ran if row["kind"] == "floor"), None)
    if floor:
        sentences.append(f"The best possible guess would be {amount(floor['mae'], unit)} off.")
    champion = next((row for row in rows if row["champion"]), None)
    if champion and champion is not leader:
        sentences.append(f"The champion in service is {label(champion)}.")
    return sentences


class Column(NamedTuple):
    """A column of figures: its title, and what stands in it for a row; nothing where the row has no figure."""

    title: str
    text: Callable[[Row], str]


def _number(key: str, form: str, scale: float = 1) -> Callable[[Row], str]:
    return lambda row: "" if row.get(key) is None else format(scale * row[key], form)


def _ends(key: str, form: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
        return (
            ""
            if low is None or high is None or (key == "difference" and may_lead(row))
            else f"{low:{form}} to {high:{form}}"
        )

    return text


# The first seven always stand; the others as soon as a row has a figure for them.
COLUMNS = {
    "mae": Column("MAE", _number("mae", ".2f")),
    "mae_low": Column("95% interval", _ends("mae", ".1f")),
    "difference": Column(
        "Behind leader", lambda row: "leader" if may_lead(row) else _number("difference", "+.2f")(row)
    ),
    "difference_low": Column("95% interval", _ends("difference", "+.1f")),
    "p_value": Column(
        "p, adjusted", lambda row: "" if row["p_value"] is None else p_text(row["p_value"])[2:].lstrip("= ")
    ),
    "hits": Column("Hits", _number("hits", ".0%")),
    "n": Column("n", _number("n", ",d")),
    "median_ae": Column("Median error", _number("median_ae", ".2f")),
    "rmse": Column("RMSE", _number("rmse", ".2f")),
    "rmsle": Column("RMSLE", _number("rmsle", ".3f")),
    "r2": Column("R²", _number("r2", ".2f")),
    "coverage": Column("In 80% interval", _number("coverage", ".0%")),
    "width": Column("Interval width", _number("width", ".2f")),
    "crps": Column("CRPS", _number("crps", ".2f")),
    "unparsable": Column("Unparsable", _number("unparsable", ".1%")),
    "n_train": Column("Trained on", _number("n_train", ",d")),
    "fit_seconds": Column("Fit", lambda row: duration(row["fit_seconds"])),
    "predict_ms": Column("ms per item", _number("predict_ms", ".3g")),
    "size_mb": Column("Size, MB", _number("size_mb", ".3g")),
}
ALWAYS = 7
NO_FIGURES = {"rank", "step", "mae_high", "difference_high"}  # numbers that stand elsewhere in the row


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that these rows fill: those known here, and then whatever else was measured."""
    filled = dict.fromkeys(key for row in rows for key, value in row.items() if _is_number(value))
    known = [column for i, (key, column) in enumerate(COLUMNS.items()) if i < ALWAYS or key in filled]
    more = [key for key in filled if key not in COLUMNS and key not in NO_FIGURES]
    return [*known, *(Column(key.replace("_", " ").capitalize(), _number(key, ",.4g")) for key in more)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def leaderboard_table(rows: Iterable[Row], *, generated: bool = False, unit: str = "$", wide: bool = False) -> Table:
    """The leaderboard for a terminal of 80 columns and more; the names and remarks wrap, the figures do not.

    A wide one, for 130 columns and more, also has the interval's coverage and what the answers took.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, caption_justify="left")
    table.caption = GENERATED if generated else None
    ordered = in_order(rows)
    more = [
        column
        for key, column in COLUMNS.items()
        if wide and key in WIDE and any(_is_number(row.get(key)) for row in ordered)
    ]
    for title, options in _headings(unit).items():
        if title == REMARKS:
            for column in more:
                table.add_column(column.title, justify="right", no_wrap=True)
        table.add_column(title, **options)
    groups = [row["mae"] is None or 2 * (row["kind"] == "floor") for row in ordered]
    for i, row in enumerate(ordered):
        ends_section = i + 1 < len(ordered) and groups[i] != groups[i + 1]
        style = "bold" if may_lead(row) else "dim" if groups[i] else None
        *figures, remarks = _cells(row)
        cells = [*figures, *(column.text(row) for column in more), remarks]
        # Text: square brackets in a name are no markup
        table.add_row(*map(Text, cells), style=style, end_section=ends_section)
    return table


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
    def interval(key: str, sign: str, to: str) -> str:
        low, high = row[f"{key}_low"], row[f"{key}_high"]
        if low is None or high is None:
            return ""
        form = f"{sign}.{0 if max(-low, high) >= 100 else 1}f"  # 80 columns have no room for more
        return f"{low:{form}}{to}{high:{form}}"

    # What the floor is stands below the table; of other rows that ran, the reason says which items they cover.
    said = outcome(row) if row["mae"] is None else row["reason"] if row["kind"] != "floor" else None
    remarks = [str(row["kind"]), *marks(row), *([said] if said else [])]
    return [
        "" if row["rank"] is None else str(row["rank"]),
        label(row),
        "" if row["mae"] is None else f"{row['mae']:.2f}",
        interval("mae", "", "\u2013"),
        "leader" if may_lead(row) else interval("difference", "+", " to "),
        "" if row["hits"] is None else f"{row['hits']:.0%}",
        f"{row['n']}" if row["n"] else "",
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
    ordered = in_order(rows)
    keys = list(dict.fromkeys(key for row in ordered for key in row)) or list(ROW_KEYS)
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    return text.getvalue()

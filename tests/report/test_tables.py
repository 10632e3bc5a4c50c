"""The leaderboard in words, in the terminal, in Markdown and as CSV."""

import csv
import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from tasks.report.tables import GENERATED, as_csv, as_markdown, in_order, leaderboard_table
from tasks.scoring.rows import Row
from tests.report.boards import row


def text_of(table, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_terminal_table_fits_and_keeps_its_figures_whole(board, width):
    """At any usual width no line is too long, no figure is cut, and marks are words."""
    text = text_of(leaderboard_table(board.rows, width=width), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for figures in board.rows:
        if figures.mae is not None:
            assert f" {figures.mae:.2f} " in text
            digits = 0 if figures.mae_high >= 100 else 1
            assert f" {figures.mae_low:.{digits}f}\u2013{figures.mae_high:.{digits}f} " in text
    words = re.sub(r"\s+", " ", text)
    assert "Not run: gpt-4.1 (OPENAI_API_KEY is not set)." in words
    assert "champion" in words and "OPENAI_API_KEY" in words and "leader" in words
    assert "checkpoint" in text and "memory" in text and "errors are" not in text


@pytest.mark.parametrize(
    ("factor", "named"),
    [(40, "$"), (120, "K$"), (4_000, "K$"), (40_000, "K$"), (4e6, "M$"), (1e9, "B$"), (0.004, "m$"), (1e-5, "\u00b5$")],
)
def test_large_and_small_prices_leave_room_for_names_and_remarks(board, factor, named):
    """In won, dong or tenths of a cent, 80 columns hold every figure, mark and remark; a line names the unit."""
    keys = ("mae", "mae_low", "mae_high", "difference", "difference_low", "difference_high")
    rows = [
        replace(row, n=row.n and 5 * row.n, **{key: getattr(row, key) * factor for key in keys if row.mae is not None})
        for row in board.rows
    ]
    text = text_of(leaderboard_table(rows), 80)
    heading, *lines = text.splitlines()
    assert heading.split() == f"# model MAE {named} 95% CI vs leader hits n kind, remarks".split()
    assert ("errors are in" in text) == (named != "$")
    marked = next(line for line in lines if "blend" in line)
    assert re.search(r" leader +85%  1500  blend; ★", marked) and "champion" in text and "checkpoint" in text
    for ran in rows:
        if ran.mae is not None:
            assert any(ran.model[:15] in line and f"%  {ran.n:4d}  {ran.kind}" in line for line in lines)
    assert max(len(line.rstrip()) for line in lines) <= 80 and "…" not in text
    wide = text_of(leaderboard_table(rows, width=140), 140)
    assert max(len(line.rstrip()) for line in wide.splitlines()) <= 140 and "memory" in wide and "checkpoint" in wide


def test_the_terminal_table_sets_the_floor_apart_and_the_rest_in_order(board):
    """Ranked rows first, then the floor between two rules, then what did not run."""
    lines = text_of(leaderboard_table(board.rows), 140).splitlines()

    def at(words: str) -> int:
        return next(i for i, line in enumerate(lines) if words in line)

    order = [at(words) for words in ("leader ", "constant", "floor ", "word2vec_svr")]
    assert order[1] < order[2] < order[3]
    assert set(lines[at("floor ") - 1].strip()) <= {"─", "-", ""}


@pytest.mark.parametrize("generated", [True, False])
def test_the_terminal_table_labels_generated_data_and_only_that(board, generated):
    """Its caption says so exactly when the data is made up."""
    assert ("Generated data" in text_of(leaderboard_table(board.rows, generated=generated), 100)) == generated


def test_square_brackets_in_names_are_not_terminal_markup():
    """A model called [red]x is shown as it is called."""
    assert "[red]x[/red]" in text_of(leaderboard_table([row("[red]x[/red]", 10.0, 1)]), 120)


def test_markdown_is_one_table_whatever_the_names_hold(board):
    """Pipes, line breaks and markup in names and reasons cannot break a cell or become markup."""
    rows = [*board.rows, Row("a|b\n<b>", "api", status="failed", reason="`x` | [y](z)")]
    head, rule, *lines = as_markdown(rows).splitlines()
    assert len(lines) == len(rows)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in (head, rule, *lines)} == {9}
    assert any(r"a\|b \<b\>" in line for line in lines)
    assert as_markdown(rows, generated=True).endswith(GENERATED)


def test_csv_holds_every_figure_best_first(board):
    """A spreadsheet reads the same numbers; what is not there is an empty cell."""
    rows = list(csv.DictReader(io.StringIO(as_csv(board.rows))))
    assert [row["model"] for row in rows] == [row.model for row in in_order(board.rows)]
    assert float(rows[0]["mae"]) == in_order(board.rows)[0].mae
    assert rows[-1]["mae"] == "" and rows[-1]["reason"]


def test_a_wide_terminal_shows_more(board):
    """From 130 columns on there is room for the median error and what an answer takes."""
    text = text_of(leaderboard_table(board.rows, width=140), 140)
    assert "Median error" in text and "ms per item" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 140


def test_small_errors_keep_their_digits():
    """Of screws that cost a tenth of a cent, an error is not 0.00 and an interval not 0.0 to 0.0."""
    ends = {
        "mae_low": 0.00123,
        "mae_high": 0.0061,
        "difference": 0.0004,
        "difference_low": -0.0002,
        "difference_high": 0.001,
    }
    rows = [row("ridge", 0.0042, 1, **ends), row("constant", 12.5, 2, 12.4, 0.001)]
    text = as_markdown(rows)
    assert "0.0042" in text and "0.00123\u20130.0061" in text and "12.50" in text and "| 0.00 |" not in text


def test_an_interval_below_one_has_two_decimals():
    """Where prices are below a dollar, 0.1 to 0.1 would say nothing; from one on, one decimal is enough."""
    ends = {"mae_low": 0.098, "mae_high": 0.12, "difference_low": 0.1, "difference_high": 0.14}
    text = as_markdown([row("ridge", 0.11, 1, **ends), row("constant", 0.23, 2, 0.12, 0.001, **ends)])
    assert "0.10\u20130.12" in text and "+0.10 to +0.14" in text
    ends = {"mae_low": 0.9, "mae_high": 1.1}
    assert "0.9\u20131.1" in as_markdown([row("ridge", 1.0, 1, **ends)])

"""The leaderboard in words, in the terminal, in Markdown and as CSV."""

import csv
import io
import re

import pytest
from rich.console import Console

from tasks.report.tables import GENERATED, as_csv, as_markdown, headline, in_order, leaderboard_table
from tests.report.boards import row


def text_of(table, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue()


def said(rows: list[dict]) -> str:
    first, more = headline(in_order(rows), "$")
    return " ".join([first, *more])


def test_the_headline_names_a_certain_winner_and_the_next():
    """A leader alone at rank 1 leads, with the distance to the runner-up, its interval and p-value."""
    text = said([row("ridge", 14.0, 2, 4.0, 0.0002), row("trees", 10.0, 1), row("constant", 40.0, 3, 30.0, 0.0001)])
    assert text.startswith("trees leads: its guesses are $10.00 off on average. Measured on 500 test items")
    assert "The next, ridge, is $4.00 worse (95% interval $3.00 to $5.00; p < 0.001)" in text
    assert "Always guessing the same price is $40.00 off." in text


def test_the_headline_does_not_claim_a_winner_when_tied():
    """Rows that share rank 1 make it a tie, whichever has the lower error."""
    text = said([row("ridge", 10.3, 1, 0.3, 0.4), row("trees", 10.0, 1), row("blend", 10.4, 1, 0.4, 0.5)])
    assert text.startswith(
        "No certain winner: trees is $10.00 off on average, and 2 other models cannot be told from it."
    )
    assert "which chance alone can explain" in text and "leads" not in text


def test_the_headline_owns_up_to_a_recorded_row_that_is_better():
    """A recorded row that beats the leader is said to, and is not the leader although its error is lower."""
    rows = [row("trees", 10.0, 1), row("recorded/x", 6.0, 1, -4.0, 0.001, kind="recorded", n=200)]
    assert said(rows).startswith("trees leads")
    assert "recorded/x did better by $4.00 on the 200 items it answered, but is a recorded run" in said(rows)
    assert in_order(rows)[0]["model"] == "trees"


def test_the_headline_names_a_champion_that_is_not_the_leader():
    """An incumbent that keeps its place although another model leads is named."""
    rows = [row("trees", 10.0, 1), row("ridge", 14.0, 2, 4.0, 0.001, champion=True)]
    assert "The champion in service is ridge." in said(rows)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_terminal_table_fits_and_keeps_its_figures_whole(board, width):
    """At any usual width no line is too long, no figure is cut, and marks are words."""
    text = text_of(leaderboard_table(board.rows), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for figures in board.rows:
        if figures.get("mae") is not None:
            assert f" {figures['mae']:.2f} " in text
            digits = 0 if figures["mae_high"] >= 100 else 1
            assert f" {figures['mae_low']:.{digits}f}\u2013{figures['mae_high']:.{digits}f} " in text
    words = re.sub(r"\s+", " ", text)
    assert "champion" in words and "OPENAI_API_KEY" in words and "leader" in words


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
    rows = [*board.rows, {"model": "a|b\n<b>", "kind": "api", "status": "failed", "reason": "`x` | [y](z)"}]
    head, rule, *lines = as_markdown(rows).splitlines()
    assert len(lines) == len(rows)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in (head, rule, *lines)} == {9}
    assert any(r"a\|b \<b\>" in line for line in lines)
    assert as_markdown(rows, generated=True).endswith(GENERATED)


def test_csv_holds_every_figure_best_first(board):
    """A spreadsheet reads the same numbers; what is not there is an empty cell."""
    rows = list(csv.DictReader(io.StringIO(as_csv(board.rows))))
    assert [row["model"] for row in rows] == [row["model"] for row in in_order(board.rows)]
    assert float(rows[0]["mae"]) == in_order(board.rows)[0]["mae"]
    assert rows[-1]["mae"] == "" and rows[-1]["reason"]


def test_a_wide_terminal_shows_more(board):
    """From 130 columns on there is room for the median error and what an answer takes."""
    text = text_of(leaderboard_table(board.rows, wide=True), 140)
    assert "Median error" in text and "ms per item" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 140

"""The page: what it says and shows, and that data cannot become markup."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tasks.report.board import Leaderboard
from tasks.report.html import write_figures, write_report
from tasks.report.tables import GENERATED, as_markdown, in_order
from tasks.scoring.checkpoint_choice import Checkpoint
from tasks.scoring.rows import Row
from tests.report.boards import board_of
from tests.report.boards import row as ran


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its text, and the text of its table rows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text, self.rows, self.data = "", [], ""
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append("")
        elif tag in ("td", "th") and self.rows:
            self.rows[-1] += " "

    def handle_endtag(self, tag):
        if tag in self.open:
            del self.open[len(self.open) - 1 - self.open[::-1].index(tag) :]

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.data += data if data.startswith("{") else ""
            return
        self.text += data
        if "tr" in self.open:
            self.rows[-1] += data


@pytest.fixture(scope="module")
def page(board, tmp_path_factory) -> Page:
    return Page(write_report(tmp_path_factory.mktemp("report") / "deep" / "report.html", board))


def dots(page: Page) -> list[dict[str, str]]:
    """The circles of the scatter; those of its key are placed in pixels."""
    circles = [attributes for tag, attributes in page.tags if tag == "circle" and "%" in attributes["cx"]]
    return [circle for circle in circles if circle["class"] in ("hit", "miss")]


def test_every_model_is_in_the_page_with_its_figures(page, board):
    """Each row of the board is a row of the page's leaderboard, with its MAE where it ran."""
    for row in board.rows:
        found = next(text for text in page.rows if f" {row.label} {row.kind} " in f" {' '.join(text.split())} ")
        assert row.mae is None or f"{row.mae:.2f}" in found


def test_rows_that_did_not_run_are_last_and_say_why(page, board):
    """A skipped or failed model keeps its row, after all others, with status and reason."""
    ends = in_order(board.rows)[-2:]
    assert {row.model for row in ends} == {"gpt-4.1", "word2vec_svr"}
    assert any("gpt-4.1" in row and "skipped: OPENAI_API_KEY is not set" in row for row in page.rows)
    assert any("word2vec_svr" in row and "failed: out of memory" in row for row in page.rows)


def test_a_model_that_priced_nothing_says_so(board, tmp_path):
    """Its row has no figures, and not the bare word that it ran; what else is known of it stands behind that."""
    silent = [Row("base", "base", n=0), Row("gpt-4o", "api", n=0, reason="3 answers were cut")]
    page = Page(write_report(tmp_path / "report.html", replace(board, rows=[*board.rows, *silent])))
    assert any("base base" in row and "answered no test item with a price" in row for row in page.rows)
    assert any("gpt-4o" in row and "with a price: 3 answers were cut" in row for row in page.rows)
    assert "base; answered no test item with a price" in as_markdown(silent)


def test_data_is_shown_and_never_run(board, tmp_path):
    """Markup in titles, texts, categories, reasons, names and the dataset appears as text and makes no element."""
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    items = [item | {"title": evil, "text": evil, "category": evil} for item in board.items]
    rows = [replace(row, reason=evil) if row.status == "skipped" else row for row in board.rows]
    renamed = {evil if model == "boosted_trees" else model: guess for model, guess in board.predictions.items()}
    rows = [replace(row, model=evil) if row.model == "boosted_trees" else row for row in rows]
    dataset = board.dataset | {"name": evil, "source": evil}
    changed = replace(board, items=items, rows=rows, predictions=renamed, dataset=dataset, title=evil)
    page = Page(write_report(tmp_path / "report.html", changed))
    assert "<script>alert" not in page.source and "<img" not in page.source
    assert [tag for tag, _ in page.tags].count("script") == 2  # the page's own, and its data
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count(evil) > 20
    assert json.loads(page.data)["titles"][0] == evil


def test_the_page_refers_to_nothing_outside_itself(page):
    """No address of another host anywhere, no link but to the page's own parts, and a policy that forbids the rest."""
    assert "http://" not in page.source and "https://" not in page.source
    links = [a[key] for _, a in page.tags for key in ("src", "href", "xlink:href", "srcset", "action") if a.get(key)]
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest", page.source)
    identifiers = {a["id"] for _, a in page.tags if a.get("id")}
    assert {link[1:] for link in links if link.startswith("#")} <= identifiers
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("generated", [True, False])
def test_generated_data_is_labelled_and_only_then(board, tmp_path, generated):
    """The banner stands there exactly when the data is made up."""
    page = Page(write_report(tmp_path / "report.html", replace(board, generated=generated)))
    assert any(attributes.get("id") == "generated" for _, attributes in page.tags) == generated
    assert (GENERATED in page.text) == generated


def test_a_minimal_board_is_enough(tmp_path):
    """One constant model, no curve, no intervals: a page without the parts that have nothing to show."""
    board = board_of(np.array([5.0, 20.0, 80.0]), {"constant": np.full(3, 35.0)}, {"constant": "baseline"})
    page = Page(write_report(tmp_path / "report.html", board))
    assert "constant is the only model that ran: its answers are $30.00 off on average." in page.text
    assert "Checkpoints on validation" not in page.text and "80% interval hold" not in page.text


@pytest.mark.parametrize("rows", [[], [Row("gpt-4.1", "api", status="skipped", reason="no key")]])
def test_a_board_on_which_nothing_ran_says_so(tmp_path, rows):
    """No model, or none that ran, is a page that says that, not a crash."""
    page = Page(write_report(tmp_path / "report.html", Leaderboard("Empty", False, {}, rows, [], {})))
    assert "No model has run yet." in page.text
    assert all(str(row.reason) in page.text for row in rows)


def test_hits_and_misses_differ_by_more_than_colour(page, board):
    """In the scatter, the leader's dots are classed by the rule for hits, and drawn filled or hollow."""
    drawn = dots(page)
    leader = in_order(board.rows)[0]
    assert len(drawn) == leader.n
    assert sum(dot["class"] == "hit" for dot in drawn) == round(leader.figures["hits"] * leader.n)
    assert re.search(r"circle\.miss \{ fill:transparent", page.source)


def test_worst_and_best_items_are_the_extremes(page, board):
    """The worst item of the leader opens the list, with its error, and the best items stand there too."""
    leader = in_order(board.rows)[0].model
    errors = [abs(guess - item["price"]) for guess, item in zip(board.predictions[leader], board.items, strict=True)]
    worst, best = int(np.argmax(errors)), int(np.argmin(errors))
    section = page.text[page.text.index("Furthest off") :]
    assert (
        section.index(board.items[worst]["title"])
        < section.index("Closest")
        < section.rindex(board.items[best]["title"])
    )
    assert f"${errors[worst]:,.2f}" in section


def test_the_page_survives_negative_missing_and_huge_guesses(board, tmp_path):
    """Guesses below zero, none, or far off the axes are drawn inside the plot, and the data stays strict JSON."""
    guesses = [-50.0, None, 1e7, math.nan] * (len(board.items) // 4)
    changed = replace(board, predictions=dict.fromkeys(board.predictions, guesses), intervals={})
    page = Page(write_report(tmp_path / "report.html", changed))
    heights = [float(dot["cy"][:-1]) for dot in dots(page)]
    assert heights and all(0 <= height <= 100 for height in heights)
    json.loads(page.data, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_cheap_prices_keep_their_digits(tmp_path):
    """Of screws for some cents, no error and no interval is written as nothing, on the page and in its pictures."""
    truth = np.exp(np.random.default_rng(0).normal(-3.5, 0.3, 100))
    guesses = {"ridge": truth * 1.2, "constant": np.full(100, 0.03)}
    curve = [Checkpoint(1, "step 1", "m", 100, 0.0061, mae_low=0.0052, mae_high=0.0074, chosen=True, train_loss=0.04)]
    board = replace(board_of(truth, guesses, dict.fromkeys(guesses, "baseline")), curve=curve)
    page = Page(write_report(tmp_path / "report.html", board))
    assert "0.0052 to 0.0074" in page.text and "0.0061" in page.text and "0.040" in page.text
    drawn = "".join(picture.read_text(encoding="utf-8") for picture in write_figures(tmp_path / "figures", board))
    for text in (re.sub(r"<(script|style).*?</\1>", "", page.source, flags=re.DOTALL), drawn):
        assert not re.findall(r"[^<>]*\b0\.00? to [^<>]*|[^<>]* to 0\.00?\b[^<>]*|>\$0\.00<", text)


def test_errors_by_group_say_on_how_many_items_they_are(board, tmp_path):
    """A person who priced a part of a group has the count beside the figure; who priced all of it has none."""
    human = [guess is not None for guess in board.predictions["human"]]
    kitchen = sum(given for given, item in zip(human, board.items, strict=True) if item["category"] == "Kitchen")
    page = Page(write_report(tmp_path / "report.html", board))
    (row,) = (row for row in page.rows if row.split()[:1] == ["Kitchen"])
    assert row.split()[1] == "60" and kitchen == 12 and re.findall(r"\bn\s(\d+)", row) == ["12"]
    write_figures(tmp_path, board)
    assert "(n 12)" in (tmp_path / "category.svg").read_text(encoding="utf-8")


def test_another_unit_is_written_after_the_number(board, tmp_path):
    """A task in kilograms reports kilograms."""
    page = Page(write_report(tmp_path / "report.html", replace(board, unit="kg")))
    assert re.search(r"\d kg off on average", page.text) and "$" not in page.text


def test_a_measure_nobody_knew_gets_a_column_where_rows_have_it(board, tmp_path):
    """What an evaluation measures beyond the known figures is shown under its name, and only then."""
    more = {"answer_tokens": 1234.0, "coverage": 0.81}
    rows = [row.beside(more) if row.mae else row for row in board.rows]
    page = Page(write_report(tmp_path / "report.html", replace(board, rows=rows)))
    assert "Answer tokens" in page.rows[0] and "In 80% interval" in page.rows[0]
    assert any("81%" in text and "1,234" in text for text in page.rows)
    plain = Page(write_report(tmp_path / "plain.html", board))
    assert "tokens" not in plain.rows[0].lower() and "In 80% interval" not in plain.rows[0]


def test_a_long_leaderboard_is_folded_and_a_short_one_is_not(tmp_path, board):
    """Of forty recorded rows the page opens with the first ten, our own and the champion; all of them are there."""
    recorded = [ran(f"recorded/{i}", 10.0 + i, 2 + i, 1.0 + i, 0.001, kind="recorded") for i in range(40)]
    rows = [
        ran("recorded/best", 9.0, 1, kind="recorded"),
        *recorded,
        ran("ridge", 80.0, 42, 71.0, 0.001, champion=True),
    ]
    page = Page(write_report(tmp_path / "report.html", Leaderboard("Many", False, {}, rows, [], {})))
    more = [attributes for tag, attributes in page.tags if tag == "tr" and "more" in (attributes.get("class") or "")]
    assert len(more) == 31 and "Show all 42 models" in page.text
    assert all(f"recorded/{i}" in page.text for i in range(40))
    assert "Show all" not in Page(write_report(tmp_path / "few.html", replace(board, rows=board.rows[:8]))).text

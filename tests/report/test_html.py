"""The report and the terminal table: what they say, what they show, and that data cannot become markup."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tasks.report.board import Leaderboard
from tasks.report.figures import bars, calibration, nice_ticks, quantiles, running
from tasks.report.html import write_report
from tasks.report.tables import GENERATED, as_csv, as_markdown, headline, in_order, leaderboard_table
from tasks.scoring.comparisons import compare

KINDS = {
    "constant": "baseline",
    "bag_of_words": "baseline",
    "tfidf_ridge": "baseline",
    "boosted_trees": "baseline",
    "human": "human",
    "smollm2-135m": "base",
    "smollm2-135m-tuned": "finetuned",
    "blend": "blend",
    "recorded/gpt-4o": "recorded",
    "floor": "floor",
}
SIGMA = {"bag_of_words": 0.6, "tfidf_ridge": 0.45, "boosted_trees": 0.33, "human": 0.5, "smollm2-135m": 0.9}
SIGMA |= {"smollm2-135m-tuned": 0.3, "blend": 0.29, "recorded/gpt-4o": 0.4, "floor": 0.15}


def board_of(truth, guesses, kinds, **changes) -> Leaderboard:
    """A board from guesses, its figures computed as evaluation computes them."""
    figures = compare(truth, guesses, kinds, seed=1, resamples=400)
    rows = [{"model": model, "kind": kinds[model], "status": "ran", **figures[model]} for model in guesses]
    nouns = ("Steel kettle", "Walnut shelf", "Trail tent", "Desk lamp", "Cordless drill")
    items = [
        {
            "id": f"item-{i}",
            "title": f"{nouns[i % 5]}, model {i}",
            "text": f"{nouns[i % 5]} for the house.\nBrand: Northwind. Weight: {1 + i % 7} kg.",
            "category": ("Kitchen", "Furniture", "Outdoors", "Lighting", "Tools & More")[i % 5],
            "price": float(price),
        }
        for i, price in enumerate(truth)
    ]
    predictions = {
        model: [None if math.isnan(guess) else float(guess) for guess in map(float, guesses[model])]
        for model in guesses
    }
    dataset = {
        "name": "sample",
        "digest": "3f9c2ab177d0",
        "source": "sample",
        "rows": {"train": 4000, "test": len(items)},
    }
    board = Leaderboard("Pricewright: laptop", False, dataset, rows, items, predictions)
    return replace(board, **changes)


def full_board(n: int = 300) -> Leaderboard:
    """Every kind of row, a curve, intervals, and two rows that did not run."""
    random = np.random.default_rng(0)
    truth = np.round(np.clip(np.exp(random.normal(4.2, 1, n)), 3, 990), 2)
    guesses = {model: truth * np.exp(random.normal(0, sigma, n)) for model, sigma in SIGMA.items()}
    guesses["human"][60:] = math.nan
    board = board_of(truth, {"constant": np.full(n, truth.mean()), **guesses}, KINDS)
    for row in board.rows:
        row |= {"n_train": 4000, "fit_seconds": 75.0, "predict_ms": 0.412, "size_mb": 12.5}
        row |= {"champion": row["model"] == "blend", "best_checkpoint": row["model"] == "smollm2-135m-tuned"}
        row["step"] = 300 if row["model"] == "smollm2-135m-tuned" else None
    board.rows.insert(
        0, {"model": "gpt-4.1", "kind": "api", "status": "skipped", "reason": "OPENAI_API_KEY is not set"}
    )
    board.rows.append({"model": "word2vec_svr", "kind": "baseline", "status": "failed", "reason": "out of memory"})
    tuned = guesses["smollm2-135m-tuned"]
    curve = [
        {"step": step, "train_loss": 2.4 - step / 250, "mae": mae, "mae_low": mae - 4, "mae_high": mae + 5, "n": 200}
        | {"chosen": step == 300, "label": f"step {step}", "difference": mae - 29.1, "p_value": 0.2}
        | {"difference_low": mae - 31, "difference_high": mae - 28}
        for step, mae in ((100, 41.0), (200, 33.5), (300, 29.1), (400, 30.2))
    ]
    intervals = {"smollm2-135m-tuned": ((tuned * 0.7).tolist(), (tuned * 1.4).tolist())}
    reproduce = {"command": "pricewright run -c conf/laptop.yaml", "conf": "a1b2c3d4", "commit": "0f1e2d3c"}
    pits = {"smollm2-135m-tuned": (random.beta(1.3, 1.1, n)).tolist()}
    return replace(board, curve=curve, intervals=intervals, pits=pits, reproduce=reproduce)


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
def board() -> Leaderboard:
    return full_board()


@pytest.fixture(scope="module")
def page(board, tmp_path_factory) -> Page:
    return Page(write_report(tmp_path_factory.mktemp("report") / "deep" / "report.html", board))


def text_of(table, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue()


def test_every_model_is_in_the_page_with_its_figures(page, board):
    """Each row of the board is a row of the page's leaderboard, with its MAE where it ran."""
    for row in board.rows:
        name = row["model"] if row.get("step") is None else f"{row['model']} step {row['step']}"
        found = next(text for text in page.rows if f" {name} {row['kind']} " in f" {' '.join(text.split())} ")
        assert row.get("mae") is None or f"{row['mae']:.2f}" in found


def test_rows_that_did_not_run_are_last_and_say_why(page, board):
    """A skipped or failed model keeps its row, after all others, with status and reason."""
    ends = in_order(board.rows)[-2:]
    assert {row["model"] for row in ends} == {"gpt-4.1", "word2vec_svr"}
    assert any("gpt-4.1" in row and "skipped: OPENAI_API_KEY is not set" in row for row in page.rows)
    assert any("word2vec_svr" in row and "failed: out of memory" in row for row in page.rows)


def test_data_is_shown_and_never_run(board, tmp_path):
    """Markup in titles, texts, categories, reasons, names and the dataset appears as text and makes no element."""
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    items = [item | {"title": evil, "text": evil, "category": evil} for item in board.items]
    rows = [row | {"reason": evil} if row["status"] == "skipped" else row for row in board.rows]
    renamed = {evil if model == "boosted_trees" else model: guess for model, guess in board.predictions.items()}
    rows = [row | {"model": evil} if row["model"] == "boosted_trees" else row for row in rows]
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
    """The banner and the terminal's caption stand there exactly when the data is made up."""
    page = Page(write_report(tmp_path / "report.html", replace(board, generated=generated)))
    assert any(attributes.get("id") == "generated" for _, attributes in page.tags) == generated
    assert (GENERATED in page.text) == generated
    assert ("Generated data" in text_of(leaderboard_table(board.rows, generated=generated), 100)) == generated


def test_a_minimal_board_is_enough(tmp_path):
    """One constant model, no curve, no intervals: a page without the parts that have nothing to show."""
    board = board_of(np.array([5.0, 20.0, 80.0]), {"constant": np.full(3, 35.0)}, {"constant": "baseline"})
    page = Page(write_report(tmp_path / "report.html", board))
    assert "constant is the only model that ran: its guesses are $30.00 off on average." in page.text
    assert "Checkpoints on validation" not in page.text and "80% interval hold" not in page.text


@pytest.mark.parametrize("rows", [[], [{"model": "gpt-4.1", "kind": "api", "status": "skipped", "reason": "no key"}]])
def test_a_board_on_which_nothing_ran_says_so(tmp_path, rows):
    """No model, or none that ran, is a page that says that, not a crash."""
    page = Page(write_report(tmp_path / "report.html", Leaderboard("Empty", False, {}, rows, [], {})))
    assert "No model has run yet." in page.text
    assert all(row["reason"] in page.text for row in rows)


def said(rows: list[dict]) -> str:
    first, more = headline(in_order(rows), "$")
    return " ".join([first, *more])


def row(model, mae, rank, difference=0.0, p_value=None, kind="baseline", **more):
    ends = {"difference": difference, "difference_low": difference - 1, "difference_high": difference + 1}
    figures = {"mae": mae, "mae_low": mae - 2, "mae_high": mae + 2, "n": 500, "rank": rank, "p_value": p_value}
    return {"model": model, "kind": kind, "status": "ran", **figures, **ends, **more}


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


def test_square_brackets_in_names_are_not_terminal_markup():
    """A model called [red]x is shown as it is called."""
    assert "[red]x[/red]" in text_of(leaderboard_table([row("[red]x[/red]", 10.0, 1)]), 120)


def dots(page: Page) -> list[dict[str, str]]:
    """The circles of the scatter; those of its key are placed in pixels."""
    circles = [attributes for tag, attributes in page.tags if tag == "circle" and "%" in attributes["cx"]]
    return [circle for circle in circles if circle["class"] in ("hit", "miss")]


def test_hits_and_misses_differ_by_more_than_colour(page, board):
    """In the scatter, the leader's dots are classed by the rule for hits, and drawn filled or hollow."""
    drawn = dots(page)
    leader = in_order(board.rows)[0]
    assert len(drawn) == leader["n"]
    assert sum(dot["class"] == "hit" for dot in drawn) == round(leader["hits"] * leader["n"])
    assert re.search(r"circle\.miss \{ fill:transparent", page.source)


def test_worst_and_best_items_are_the_extremes(page, board):
    """The worst item of the leader opens the list, with its error, and the best items stand there too."""
    leader = in_order(board.rows)[0]["model"]
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


def test_ticks_are_round_and_inside():
    """Axis labels are round numbers within the axis."""
    assert nice_ticks(0, 47) == [0, 10, 20, 30, 40]
    assert nice_ticks(27.3, 31.9, 4) == [28, 29, 30, 31]


def test_another_unit_is_written_after_the_number(board, tmp_path):
    """A task in kilograms reports kilograms."""
    page = Page(write_report(tmp_path / "report.html", replace(board, unit="kg")))
    assert re.search(r"\d kg off on average", page.text) and "$" not in page.text


def test_a_bar_out_of_all_proportion_is_cut_and_the_others_keep_theirs():
    """One absurd model does not flatten the rest: its bar ends at the edge and is marked, the page says so."""
    rows = [row("ridge", 40.0, 1), row("trees", 50.0, 2, 10.0, 0.01), row("random", 400.0, 3, 360, 0.01)]
    drawn = bars(in_order(rows))
    ends = {bar["row"]["model"]: (bar["mae"], bar["cut"]) for bar in drawn["bars"]}
    assert ends["random"] == (100.0, True)
    assert ends["trees"][0] > 80 and not ends["trees"][1]
    assert not bars(in_order(rows[:2]))["cut"]


def test_the_running_error_ends_at_the_error(board):
    """After the last item each line stands at the model's MAE, items without a guess left out."""
    drawn = running(board, ["blend", "human"])
    errors = {row["model"]: row["mae"] for row in board.rows if row.get("mae")}
    assert {line["model"]: line["last"] for line in drawn["lines"]} == pytest.approx(
        {model: errors[model] for model in ("blend", "human")}
    )
    assert drawn["half"] > 0 and all(line["path"].split()[-1].startswith("100.00,") for line in drawn["lines"])


def test_calibration_counts_the_prices_below_each_end():
    """Ten prices: two below the low end, half of the rest below the guess, none above the high end."""
    truth = np.arange(1.0, 11.0)
    board = board_of(truth, {"trees": np.full(10, 6.5)}, {"trees": "baseline"})
    board = replace(board, intervals={"trees": ([2.5] * 10, [20.0] * 10)})
    (found,) = calibration(board, ["trees"])
    assert [round(mark["share"]) for mark in found["below"]] == [20, 60, 100]
    assert found["inside"] == pytest.approx(80) and found["width"] == 17.5


def test_a_calibrated_distribution_draws_a_diagonal(board):
    """Truths spread evenly over the levels lie on it; without a distribution there is no picture."""
    n = len(board.items)
    even = [None, *((np.arange(1, n) - 0.5) / (n - 1)).tolist()]
    drawn = quantiles(replace(board, pits={"blend": even}), ["blend", "human"])
    points = [tuple(map(float, point.split(","))) for point in drawn["lines"][0]["path"].split()]
    assert [line["model"] for line in drawn["lines"]] == ["blend"] and drawn["lines"][0]["n"] == n - 1
    assert all(abs(x + y - 100) < 1 for x, y in points)
    assert quantiles(board, ["blend"]) is None


def test_a_measure_nobody_knew_gets_a_column_where_rows_have_it(board, tmp_path):
    """What an evaluation measures beyond the known figures is shown under its name, and only then."""
    rows = [row | {"answer_tokens": 1234.0, "coverage": 0.81} if row.get("mae") else row for row in board.rows]
    page = Page(write_report(tmp_path / "report.html", replace(board, rows=rows)))
    assert "Answer tokens" in page.rows[0] and "In 80% interval" in page.rows[0]
    assert any("81%" in text and "1,234" in text for text in page.rows)
    plain = Page(write_report(tmp_path / "plain.html", board))
    assert "tokens" not in plain.rows[0].lower() and "In 80% interval" not in plain.rows[0]


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

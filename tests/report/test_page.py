"""The report in a real browser: nothing is fetched, nothing foreign runs, and it reads on any screen and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.report.html import write_figures, write_report
from tests.browser import Browser, find
from tests.report.boards import full_board

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium on this machine")
EVIL = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'><svg onload='window.ran = 3'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(find() or "") as page:
        yield page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report with every part, over data that tries to be markup."""
    board = full_board()
    items = [item | {"title": f"{item['title']} {EVIL}", "text": EVIL, "category": EVIL} for item in board.items]
    board = replace(board, items=items, title=EVIL, generated=True)
    return write_report(tmp_path_factory.mktemp("page") / "report.html", board).as_uri()


# The contrast ratio of an element's text to the page or panel behind it (WCAG 2).
CONTRAST = """(selector) => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  let back = document.querySelector(selector);
  const ink = light(getComputedStyle(back).color);
  while (getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)") back = back.parentElement;
  const paper = light(getComputedStyle(back).backgroundColor);
  return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
}"""


def test_nothing_is_fetched_and_no_data_runs(browser: Browser, report: str) -> None:
    """The one request is for the file itself, no error is logged, and markup in the data stays text."""
    browser.screen(1100, 900)
    browser.open(report)
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}
    assert [url for url in requests if url.startswith("file")] == [report]
    assert not [e for e in browser.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert browser.evaluate("window.ran === undefined && document.images.length === 0")
    assert "<img src=x" in browser.evaluate("document.querySelector('.items').textContent")


@pytest.mark.parametrize(
    ("width", "scheme", "media"), [(390, "light", ""), (390, "dark", ""), (1100, "dark", ""), (740, "light", "print")]
)
def test_it_fits_and_can_be_read(browser: Browser, report: str, width: int, scheme: str, media: str) -> None:
    """On a phone, in the dark and on paper the page never scrolls sideways, and text stands out from its ground."""
    browser.screen(width, 900, scheme=scheme, media=media)
    browser.open(report)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("h1", ".note", ".bars .value", ".bars small", ".tag", ".text", "#generated", "dd"):
        assert browser.evaluate(f"({CONTRAST})({selector!r})") >= 4.5, selector
    outside = "[...document.querySelectorAll('h1, h2, .note, .label, .value, .plot, .items li')]"
    assert browser.evaluate(f"{outside}.every((node) => node.getBoundingClientRect().right <= {width})")


def test_dark_is_dark_and_paper_is_white(browser: Browser, report: str) -> None:
    """The colours follow the reader's wish on a screen; in print there is no dark page and no menu."""
    paper = "getComputedStyle(document.body).backgroundColor"
    browser.screen(800, 900, scheme="dark")
    browser.open(report)
    assert browser.evaluate(paper) == "rgb(20, 24, 27)"
    browser.screen(800, 900, scheme="dark", media="print")
    assert browser.evaluate(paper) == "rgb(255, 255, 255)"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_pointing_at_a_dot_names_its_item(browser: Browser, report: str) -> None:
    """Title, price, guess and miss or hit appear beside the dot; they go when the mouse does."""
    browser.screen(1100, 900)
    browser.open(report)
    browser.evaluate("document.getElementById('scatter').scrollIntoView({block: 'center'})")
    place = browser.evaluate("(({x, y, width}) => [x + width / 2, y + width / 2])(dots[3].getBoundingClientRect())")
    browser.point(*place)
    said = browser.evaluate("tip.hidden ? '' : tip.textContent")
    near = browser.evaluate("data.titles[at] + ' ' + data.truth[at].toFixed(2)").rpartition(" ")
    assert near[0] in said and f"price ${near[2]}" in said and ("hit: " in said or "miss: " in said)
    browser.point(5, 5)
    assert browser.evaluate("tip.hidden")


def test_the_scatter_works_without_a_mouse(browser: Browser, report: str) -> None:
    """Arrow keys walk through the items by price; Escape ends it."""
    browser.open(report)
    browser.evaluate("document.getElementById('scatter').focus()")
    browser.press("ArrowRight")
    first = browser.evaluate("data.truth[at]")
    browser.press("ArrowRight")
    assert first <= browser.evaluate("data.truth[at]") and not browser.evaluate("tip.hidden")
    browser.press("Escape")
    assert browser.evaluate("tip.hidden")


def test_another_model_can_be_chosen(browser: Browser, report: str) -> None:
    """The dots and the count of hits are then those of that model; items it did not answer have no dot."""
    board = full_board()
    browser.open(report)
    browser.evaluate("pick.value = 'human'; pick.dispatchEvent(new Event('change'))")
    row = next(row for row in board.rows if row.model == "human")
    expected = f"human: {round(row.figures['hits'] * row.n)} of the {row.n} items shown are hits."
    assert browser.evaluate("says.textContent") == expected
    assert browser.evaluate("dots.filter((dot) => dot.style.display !== 'none').length") == row.n


def test_every_picture_is_a_file_a_browser_shows(browser: Browser, tmp_path: Path) -> None:
    """Each is well-formed SVG with its title whole, whatever control characters and markup the names hold."""
    board = full_board()
    rows = [replace(row, model=EVIL + "\x0b") if row.model == "boosted_trees" else row for row in board.rows]
    renamed = {EVIL + "\x0b" if model == "boosted_trees" else model: g for model, g in board.predictions.items()}
    pictures = write_figures(tmp_path, replace(board, rows=rows, predictions=renamed, generated=True))
    assert {picture.stem for picture in pictures} >= {
        "models",
        "guesses",
        "running",
        "price",
        "category",
        "calibration",
    }
    for picture in pictures:
        browser.open(picture.as_uri())
        assert browser.evaluate("document.documentElement.nodeName") == "svg", picture.name
        assert browser.evaluate("document.querySelector('parsererror') === null && window.ran === undefined")
        assert browser.evaluate("document.querySelector('text.title').textContent.length") > 5
        ends = "[...document.querySelectorAll('text.title, text.note')].map((line) => line.getBBox())"
        assert browser.evaluate(f"{ends}.every((box) => box.x + box.width <= 920 && box.height > 0)"), picture.name

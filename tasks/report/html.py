"""The leaderboard as one HTML file that works offline, and its pictures as files of their own.

`figures.py` does the arithmetic of the pictures, `headline.py` words the conclusion, `templates/` draws. Titles, texts
and model names are data: the templates escape them all, and a content security policy lets no script run but the page's
own.
"""

from __future__ import annotations

import base64
import hashlib
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.report import figures
from tasks.report.board import Leaderboard
from tasks.report.headline import headline
from tasks.report.tables import GENERATED, columns, in_order, leader_of, marks, outcome
from tasks.scoring.checkpoint_choice import choice
from tasks.scoring.comparisons import FLOOR
from tasks.scoring.metrics import HIT_SHARE, hit_dollars
from tasks.scoring.rows import Row
from tasks.scoring.wording import amount, figure, interval

SHOWN = 10  # rows of a leaderboard too long to be read at once
MAX_TEXT = 1_500  # characters of an item's text on the page, when it is opened
NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")  # HTML bears it, XML does not
PICTURES = ("models", "guesses", "running", "checkpoints", "price", "category", "calibration", "quantiles")


def write_report(path: Path, board: Leaderboard) -> Path:
    """Writes the leaderboard as one HTML file that needs no network; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page = _environment(board.unit).get_template("report.html.j2").render(picture(board))
    path.write_text(page, encoding="utf-8")
    return path


def write_figures(folder: Path, board: Leaderboard) -> list[Path]:
    """Writes each picture that has something to show as `<name>.svg`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    template, page = _environment(board.unit).get_template("figure.svg.j2"), picture(board)
    written = []
    for name in PICTURES:
        drawn = NOT_XML.sub("", template.render(page, figure=name)).strip()
        if drawn:
            written.append(folder / f"{name}.svg")
            written[-1].write_text(drawn, encoding="utf-8")
    return written


def picture(board: Leaderboard) -> dict[str, Any]:
    """What the templates draw: the conclusion, the rows, and the numbers behind every picture there is data for."""
    rows = in_order(board.rows)
    models = [row.model for row in rows if row.mae is not None and board.predictions.get(row.model)]
    first, sentences = headline(rows, board.unit, board.dataset.get("test_products"))
    page: dict[str, Any] = {"board": board, "rows": rows, "columns": columns(rows), "leader": leader_of(rows)}
    page |= {"headline": first, "sentences": sentences, "bars": figures.bars(rows), "models": models}
    page["folded"], dollars = folded(rows), hit_dollars([item["price"] for item in board.items])
    within = [amount(dollars, board.unit, "g")] if dollars else []
    page["HIT"] = f"less than {' or '.join([*within, f'{HIT_SHARE:.0%} of the price'])} off"
    page["curve"] = figures.curve_points(board.curve)
    page["choice"] = choice(board.curve, board.unit) if board.curve else None
    page |= dict.fromkeys(("scatter", "running", "groups", "calibration", "quantiles", "items"))
    if models and board.items:
        truth = np.array([item["price"] for item in board.items], dtype=float)
        few = _a_few(rows, models)
        groups = {
            "price": figures.price_bands(truth, board.unit),
            "category": figures.categories(board.items),
        }
        page |= {
            "few": few,
            "scatter": figures.scatter(board, models),
            "running": figures.running(board, few),
            "groups": {name: figures.errors_by_group(board, few, *group) for name, group in groups.items()},
            "calibration": figures.calibration(board, models),
            "quantiles": figures.quantiles(board, models),
            "items": figures.extremes(board, models[0]),
        }
    return page


def folded(rows: Sequence[Row]) -> set[str]:
    """The models that a long leaderboard shows only when it is asked for all: not the first, not ours, not marked."""
    if len(rows) <= SHOWN + 2:
        return set()
    return {row.model for row in rows[SHOWN:] if not (row.ours or row.kind in ("human", FLOOR) or marks(row))}


def _a_few(rows: list[Row], models: list[str], most: int = 4) -> list[str]:
    """The leader and the best of each other kind: what a reader wants to see side by side."""
    best: dict[str, str] = {}
    for row in rows:
        if row.model in models and row.kind != "floor":
            best.setdefault(row.kind, row.model)
    return list(best.values())[:most] or models[:most]


def _environment(unit: str) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        marks=marks,
        outcome=outcome,
        lines=textwrap.wrap,
        figure=figure,
        amount=lambda value, digits=None: amount(value, unit, digits),
        sha256=lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
    )
    names: dict[str, Any] = {"GENERATED": GENERATED, "MAX_TEXT": MAX_TEXT, "EXPECTED": figures.EXPECTED}
    names["interval"] = interval
    environment.globals.update(names)
    return environment

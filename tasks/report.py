"""The leaderboard for people: a table for the terminal, and one HTML file that works offline.

This module does the arithmetic of the pictures (positions in percent of the plot, so that they stretch with the page)
and words the conclusion; `report.html.j2` does the drawing. Titles, texts and model names are data: the template
escapes them all, and a content security policy lets no script run but the page's own.
"""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich import box
from rich.table import Table
from rich.text import Text
from scipy.stats import binomtest

from tasks.metrics import HIT_DOLLARS, HIT_SHARE, OWN_KINDS, SIGNIFICANCE, absolute_error, bootstrap_interval, is_hit

Row = dict[str, Any]

ROW_KEYS = (
    *("rank", "model", "kind", "step", "status", "reason", "n", "n_train", "mae", "mae_low", "mae_high", "median_ae"),
    *("rmse", "rmsle", "r2", "hits", "difference", "difference_low", "difference_high", "p_value", "split"),
    *("champion", "best_checkpoint", "fit_seconds", "predict_ms", "size_mb"),
)
MAX_POINTS = 2_000  # more dots than this hide each other and make the page slow
MAX_TEXT = 1_500  # characters of an item's text on the page, when it is opened
GENERATED = "Generated data: made up by a program, not a statement about real products."


@dataclass(frozen=True)
class Leaderboard:
    """All a report shows. Prices and errors are in `unit`, which stands before a number if it is a currency sign."""

    title: str
    generated: bool  # the data is the generated sample catalogue
    dataset: dict[str, Any]  # name, digest, rows {split: count}, source
    rows: list[Row]  # one per model, keys of ROW_KEYS, any of them None
    items: list[dict[str, Any]]  # the test items: id, title, text, category, price
    predictions: dict[str, list[float | None]]  # model -> guess per item, in the order of items
    intervals: dict[str, tuple[list[float | None], list[float | None]]] = field(default_factory=dict)  # 80%, low, high
    curve: list[dict[str, Any]] = field(default_factory=list)  # step, train_loss, mae, mae_low, mae_high, chosen, n
    reproduce: dict[str, str] = field(default_factory=dict)  # command, conf digest, commit, versions ...
    unit: str = "$"


def amount(value: float, unit: str, digits: str | None = None) -> str:
    """A price with its unit: $38.42, $1,250, 12.30 kg; digits is a format for the number."""
    number = format(abs(value), digits or (",.0f" if abs(value) >= 1000 else ".2f"))
    before, after = (unit, "") if len(unit) == 1 and not unit.isalpha() else ("", f" {unit}")
    return f"{'-' if value < 0 else ''}{before}{number}{after}"


def p_text(p_value: float) -> str:
    """How a p-value is written."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def label(row: Row) -> str:
    """A model's name, with the step of a checkpoint."""
    return row["model"] if row.get("step") is None else f"{row['model']} step {row['step']}"


def marks(row: Row) -> list[str]:
    """What sets a row apart: a symbol and a word, so that neither colour nor font is needed to see it."""
    named = {"champion": "★ champion", "best_checkpoint": "◆ best checkpoint"}
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
        return (group, row["rank"] or math.inf, not _may_lead(row), row["mae"] or 0)

    return sorted((dict.fromkeys(ROW_KEYS) | row for row in rows), key=key)


def _may_lead(row: Row) -> bool:  # one of our own, against which the others were tested
    return row["rank"] == 1 and row["kind"] in OWN_KINDS and row["p_value"] is None


def leader_of(rows: list[Row]) -> Row | None:
    """The leader among rows in_order: the first, if any may lead."""
    return rows[0] if rows and _may_lead(rows[0]) else None


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


def _span(row: Row, unit: str, key: str = "difference") -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return "" if low is None or high is None else f"95% interval {amount(low, unit)} to {amount(high, unit)}"


def _certainty(leader: Row, ranked: list[Row], tied: list[Row], unit: str) -> list[str]:
    measured = (f"{leader['n']:,} test items", _span(leader, unit, "mae"))
    sentences = [f"Measured on {', '.join(part for part in measured if part)}."]
    rivals = [row for row in ranked if row["kind"] in OWN_KINDS and (row["rank"] or 1) > 1]
    if tied:
        gap = tied[0]["difference"] or 0
        size = f"{amount(abs(gap), unit)} {'worse' if gap >= 0 else 'better'} on the items both answered"
        sentences.append(f"{label(tied[0])} is {size} ({_span(tied[0], unit)}), which chance alone can explain.")
        if len(tied) > 1:
            sentences.append(f"The same holds for {_listed([label(row) for row in tied[1:]])}.")
    elif rivals:
        gap = amount(rivals[0]["difference"], unit)
        evidence = f"{_span(rivals[0], unit)}; {p_text(rivals[0]['p_value'])}"
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


def leaderboard_table(rows: Iterable[Row], *, generated: bool = False, unit: str = "$") -> Table:
    """The leaderboard for a terminal of 80 columns and more; the names and remarks wrap, the figures do not."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, caption_justify="left")
    table.caption = GENERATED if generated else None
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold", min_width=15)
    for name in (f"MAE {unit}", "95% CI", "vs leader", "hits", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("kind, remarks", overflow="fold", min_width=14)
    ordered = in_order(rows)
    groups = [row["mae"] is None or 2 * (row["kind"] == "floor") for row in ordered]
    for i, row in enumerate(ordered):
        ends_section = i + 1 < len(ordered) and groups[i] != groups[i + 1]
        style = "bold" if _may_lead(row) else "dim" if groups[i] else None
        table.add_row(*_cells(row), style=style, end_section=ends_section)
    return table


def _cells(row: Row) -> list[Text]:
    def interval(key: str, sign: str, to: str) -> str:
        low, high = row[f"{key}_low"], row[f"{key}_high"]
        if low is None or high is None:
            return ""
        form = f"{sign}.{0 if max(-low, high) >= 100 else 1}f"  # 80 columns have no room for more
        return f"{low:{form}}{to}{high:{form}}"

    remarks = [str(row["kind"]), *marks(row), *([outcome(row)] if row["mae"] is None else [])]
    cells = [
        "" if row["rank"] is None else str(row["rank"]),
        label(row),
        "" if row["mae"] is None else f"{row['mae']:.2f}",
        interval("mae", "", "\u2013"),
        "leader" if _may_lead(row) else interval("difference", "+", " to "),
        "" if row["hits"] is None else f"{row['hits']:.0%}",
        f"{row['n']}" if row["n"] else "",
        "; ".join(remarks),
    ]
    return [Text(cell) for cell in cells]  # Text: square brackets in a name are no markup


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about count of them."""
    rough = max(high - low, 1e-9) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.8)
    return [float(tick) for tick in np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step]


def bars(rows: list[Row]) -> dict[str, Any]:
    """Ends of each bar and its interval, the floor and the ticks, in percent of an axis that starts at zero."""
    top = max((row["mae_high"] or row["mae"] for row in rows if row["mae"] is not None), default=0.0) * 1.02 or 1.0

    def percent(value: float | None) -> float | None:
        return None if value is None else round(100 * value / top, 2)

    drawn = [{"row": row} | {key: percent(row[key]) for key in ("mae", "mae_low", "mae_high")} for row in rows]
    floor = next((bar["mae"] for bar in drawn if bar["row"]["kind"] == "floor"), None)
    return {"bars": drawn, "floor": floor, "ticks": [(tick, percent(tick)) for tick in nice_ticks(0, top)]}


def scatter(board: Leaderboard, models: list[str]) -> dict[str, Any]:
    """Guess against truth on square-root axes: room for cheap items, and errors in dollars still look like errors.

    The dots of the first model are placed here; those of the others by the page's script, from `data`.
    """
    kept = np.unique(np.linspace(0, len(board.items) - 1, min(len(board.items), MAX_POINTS)).round().astype(int))
    truth = np.array([board.items[i]["price"] for i in kept], dtype=float)
    top = float(truth.max()) * 1.05

    def scale(value: Any) -> Any:
        return np.round(100 * np.sqrt(np.clip(value, 0, top) / top), 2)

    line = top * np.linspace(0, 1, 60) ** 2
    reach = np.maximum(HIT_DOLLARS, HIT_SHARE * line)
    edge = [*zip(line, line + reach, strict=True), *zip(line[::-1], (line - reach)[::-1], strict=True)]
    ticks: list[float] = []
    for tick in sorted(m * 10.0**power for power in range(-2, 7) for m in (1, 2.5, 5)):
        if tick <= top and scale(tick) - (scale(ticks[-1]) if ticks else 0) >= 12:
            ticks.append(tick)
    guesses = {model: [_plain(board.predictions[model][i]) for i in kept] for model in models}
    return {
        "x": scale(truth).tolist(),
        "y": [None if guess is None else 100 - float(scale(guess)) for guess in guesses[models[0]]],
        "hit": is_hit(truth, _floats(guesses[models[0]])).tolist(),
        "band": " ".join(f"{scale(x):g},{100 - scale(y):g}" for x, y in edge),
        "ticks": [(tick, float(scale(tick))) for tick in [0.0, *ticks]],
        "left_out": len(board.items) - len(kept),
        "data": {
            "titles": [str(board.items[i].get("title") or "") for i in kept],
            "truth": truth.tolist(),
            "guesses": guesses,
            "top": top,
            "hit": [HIT_DOLLARS, HIT_SHARE],
            "affixes": amount(1, board.unit, "g").split("1"),
        },
    }


def curve_points(curve: list[dict[str, Any]]) -> dict[str, Any]:
    """Checkpoints in percent of the plot: points, the band of their intervals, ticks of both axes."""
    lows = [point["mae"] if point.get("mae_low") is None else point["mae_low"] for point in curve]
    highs = [point["mae"] if point.get("mae_high") is None else point["mae_high"] for point in curve]
    steps = [point["step"] for point in curve]
    pad = 0.08 * (max(highs) - min(lows)) or 1.0
    bottom, height = min(lows) - pad, max(highs) - min(lows) + 2 * pad
    start, width = min(steps), (max(steps) - min(steps)) or 1

    def x(step: float) -> float:
        return round(100 * (step - start) / width, 2) if len(curve) > 1 else 50.0

    def y(value: float) -> float:
        return round(100 - 100 * (value - bottom) / height, 2)

    points = [
        {"point": point, "x": x(step), "y": y(point["mae"]), "low": y(low), "high": y(high)}
        for point, step, low, high in zip(curve, steps, lows, highs, strict=True)
    ]
    band = [(p["x"], p["high"]) for p in points] + [(p["x"], p["low"]) for p in reversed(points)]
    return {
        "points": points,
        "line": " ".join(f"{p['x']},{p['y']}" for p in points),
        "band": " ".join(f"{a},{b}" for a, b in band),
        "x_ticks": [(step, x(step)) for step in steps[:: math.ceil(len(steps) / 6)]],
        "y_ticks": [(tick, y(tick)) for tick in nice_ticks(bottom, bottom + height, 4)],
    }


def price_bands(truth: np.ndarray, unit: str) -> tuple[list[str], np.ndarray]:
    """Names of about five bands with round edges and similar numbers of items, and each item's band [n]."""
    quintiles = {float(f"{edge:.1g}") for edge in np.quantile(truth, [0.2, 0.4, 0.6, 0.8])}
    edges = [edge for edge in sorted(quintiles) if truth.min() < edge <= truth.max()]
    words = [amount(edge, unit, "g") for edge in edges]
    if not edges:
        return ["all prices"], np.zeros(len(truth), dtype=int)
    between = [f"{low} to {high}" for low, high in pairwise(words)]
    return [f"under {words[0]}", *between, f"{words[-1]} and over"], np.searchsorted(edges, truth, side="right")


def categories(items: list[dict[str, Any]], most: int = 8) -> tuple[list[str], np.ndarray]:
    """The commonest categories, the rest as `other`, and each item's category [n]."""
    found = [str(item.get("category") or "none") for item in items]
    names = [name for name, _ in Counter(found).most_common(most)]
    group = np.array([names.index(name) if name in names else len(names) for name in found])
    return ([*names, "other"] if (group == len(names)).any() else names), group


def errors_by_group(board: Leaderboard, models: list[str], names: list[str], group: np.ndarray) -> list[dict[str, Any]]:
    """MAE of each model in each group with its 95% interval, and all of it in percent of the highest."""
    truth = np.array([item["price"] for item in board.items], dtype=float)
    errors = np.stack([absolute_error(truth, _floats(board.predictions[model])) for model in models])
    table = []
    for i in np.unique(group):
        here = errors[:, group == i]
        low, high = bootstrap_interval(here, seed=0, resamples=2_000)
        means = [float(np.nanmean(row)) if not np.isnan(row).all() else None for row in here]
        cells = [{"mae": m, "low": _plain(a), "high": _plain(b)} for m, a, b in zip(means, low, high, strict=True)]
        table.append({"name": names[i], "n": here.shape[1], "cells": cells})
    top = max((cell["high"] or cell["mae"] or 0 for row in table for cell in row["cells"]), default=0) or 1
    return [row | {"cells": [cell | {"scale": 100 / top} for cell in row["cells"]]} for row in table]


def calibration(board: Leaderboard, models: list[str]) -> list[dict[str, Any]]:
    """Share of truths inside each model's 80% interval, with its own 95% interval (Wilson 1927), and median width."""
    truth = np.array([item["price"] for item in board.items], dtype=float)
    found = []
    for model in models:
        low, high = (_floats(ends) for ends in board.intervals.get(model, ([], [])))
        given = ~(np.isnan(low) | np.isnan(high)) if len(low) else np.zeros(0, dtype=bool)
        if given.any():
            inside = (low[given] <= truth[given]) & (truth[given] <= high[given])
            ends = binomtest(int(inside.sum()), len(inside)).proportion_ci(method="wilson")
            shares = {"share": 100 * inside.mean(), "low": 100 * ends.low, "high": 100 * ends.high}
            found.append({"model": model, "n": len(inside), "width": np.median((high - low)[given])} | shares)
    return found


def extremes(board: Leaderboard, model: str, most: int = 10) -> dict[str, list[dict[str, Any]]]:
    """The items the model gets most wrong and most right, no item in both unless there is only one."""
    pairs = zip(board.items, map(_plain, board.predictions[model]), strict=True)
    found = [item | {"guess": guess, "off": guess - item["price"]} for item, guess in pairs if guess is not None]
    found.sort(key=lambda item: abs(item["off"]))
    most = min(most, max(1, len(found) // 2))
    return {"worst": found[::-1][:most], "best": found[:most]}


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def _plain(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), 2)


def write_report(path: Path, board: Leaderboard) -> Path:
    """Writes the leaderboard as one HTML file that needs no network; returns its path."""
    rows = in_order(board.rows)
    models = [row["model"] for row in rows if row["mae"] is not None and board.predictions.get(row["model"])]
    truth = np.array([item["price"] for item in board.items], dtype=float)
    page: dict[str, Any] = {"board": board, "rows": rows, "bars": bars(rows), "leader": leader_of(rows)}
    page["headline"], page["sentences"] = headline(rows, board.unit)
    page["curve"] = curve_points(board.curve) if board.curve else None
    if models and len(truth):
        few = _a_few(rows, models)
        page |= {"models": models, "few": few, "scatter": scatter(board, models), "items": extremes(board, models[0])}
        groups = {"price": price_bands(truth, board.unit), "category": categories(board.items)}
        page["groups"] = {name: errors_by_group(board, few, *group) for name, group in groups.items()}
        page["calibration"] = calibration(board, models)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_environment(board.unit).get_template("report.html.j2").render(page), encoding="utf-8")
    return path


def _a_few(rows: list[Row], models: list[str], most: int = 4) -> list[str]:
    """The leader and the best of each other kind: what a reader wants to see side by side."""
    best: dict[str, str] = {}
    for row in rows:
        if row["model"] in models and row["kind"] != "floor":
            best.setdefault(row["kind"], row["model"])
    return list(best.values())[:most] or models[:most]


def _environment(unit: str) -> Environment:
    loader, options = FileSystemLoader(Path(__file__).parent), {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **options)
    environment.filters |= {"label": label, "marks": marks, "outcome": outcome, "p_text": p_text}
    environment.filters["amount"] = lambda value, digits=None: amount(value, unit, digits)
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    hit = f"less than {amount(HIT_DOLLARS, unit, 'g')} or {HIT_SHARE:.0%} of the price off"
    environment.globals |= {"GENERATED": GENERATED, "MAX_TEXT": MAX_TEXT, "HIT": hit}
    return environment

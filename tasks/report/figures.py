"""The arithmetic of the report's pictures: positions in percent of the plot, so that they stretch with the page.

Nothing here draws; `templates/` does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest

from tasks.data.prices import rounded
from tasks.scoring.checkpoint_choice import Checkpoint
from tasks.scoring.metrics import HIT_SHARE, absolute_error, hit_dollars, is_hit
from tasks.scoring.resampling import bootstrap_interval, of_those, standard_error
from tasks.scoring.rows import Row
from tasks.scoring.wording import amount

if TYPE_CHECKING:
    from tasks.report.board import Leaderboard

MAX_POINTS = 2_000  # more dots than this hide each other and make the page slow
LONG_BAR = 2.0  # a bar beyond so many times the middle one is cut, or it would flatten all the others
EXPECTED = (10, 50, 90)  # percent of prices below the low end of an 80% interval, a median and its high end


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about count of them."""
    rough = max(high - low, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.8)
    return [float(tick) for tick in np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step]


def bars(rows: list[Row]) -> dict[str, Any]:
    """Ends of each bar and its interval, the floor and the ticks, in percent of an axis that starts at zero.

    The axis ends with the longest bar that is not out of all proportion; longer ones are `cut` at its end.
    """
    errors = [row.mae for row in rows if row.mae is not None]
    usual = LONG_BAR * float(np.median(errors)) if errors else 0.0
    longest = max((row.mae_high or row.mae for row in rows if (row.mae or 0) <= usual and row.mae), default=0.0)
    top = 1.02 * min(longest, LONG_BAR * usual) or 1.0

    def percent(value: float | None) -> float | None:
        return None if value is None else round(min(100.0, 100 * value / top), 2)

    drawn: list[dict[str, Any]] = [
        {"row": row, "cut": (row.mae or 0) > top}
        | {key: percent(getattr(row, key)) for key in ("mae", "mae_low", "mae_high")}
        for row in rows
    ]
    floor = next((bar["mae"] for bar in drawn if bar["row"].kind == "floor"), None)
    ticks = [(tick, percent(tick)) for tick in nice_ticks(0, top)]
    return {"bars": drawn, "floor": floor, "ticks": ticks, "cut": any(bar["cut"] for bar in drawn)}


def running(board: Leaderboard, models: list[str], points: int = 160) -> dict[str, Any] | None:
    """Mean absolute error over the first k test items, for growing k, in one random order for all models.

    The band is mean plus and minus 1.96 standard errors of the first model. None with too few items for a line.
    """
    n = len(board.items)
    if n < 10:
        return None
    order = np.random.default_rng(0).permutation(n)
    truth = _floats([item["price"] for item in board.items])
    shown = np.unique(np.linspace(min(n, max(5, n // 40)), n, points).round().astype(int))
    lines = []
    for model in models:
        errors = absolute_error(truth, _floats(board.predictions[model]))[order]
        asked = ~np.isnan(errors)
        count = np.cumsum(asked)[shown - 1]
        sums = np.cumsum(np.where(asked, errors, 0))[shown - 1]
        squares = np.cumsum(np.where(asked, errors, 0) ** 2)[shown - 1]
        enough = count > 1
        if not enough.any():
            continue
        mean = sums[enough] / count[enough]
        variance = np.maximum(squares[enough] - count[enough] * mean**2, 0) / (count[enough] - 1)
        half = 1.96 * np.sqrt(variance / count[enough])
        if board.families is not None and not lines:  # the only band that is drawn
            those = [(errors[:k][asked[:k]], board.families[order[:k]][asked[:k]]) for k in shown[enough]]
            half = 1.96 * np.array([standard_error(values[None], of)[0] for values, of in those])
        lines.append((model, shown[enough], mean, half))
    # The first few items swing so widely that they are left to run out of the picture.
    settled = [(mean + (half if i == 0 else 0))[at >= n / 10] for i, (_, at, mean, half) in enumerate(lines)]
    top = 1.05 * max((float(values.max()) for values in settled if len(values)), default=0.0) or 1.0

    def path(at: np.ndarray, values: np.ndarray) -> list[str]:
        return [f"{100 * x / n:.2f},{100 - 100 * y / top:.2f}" for x, y in zip(at, values, strict=True)]

    band = [path(at, mean + half) + path(at, mean - half)[::-1] for _, at, mean, half in lines[:1]]
    return {
        "lines": [{"model": model, "path": " ".join(path(at, mean)), "last": mean[-1]} for model, at, mean, _ in lines],
        "band": " ".join(band[0]) if band else "",
        "half": float(lines[0][3][-1]) if lines else 0.0,
        "x_ticks": [(int(tick), round(100 * tick / n, 2)) for tick in nice_ticks(0, n) if tick == int(tick)],
        "y_ticks": [(tick, round(100 - 100 * tick / top, 2)) for tick in nice_ticks(0, top)],
    }


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
    reach = np.maximum(hit_dollars(truth), HIT_SHARE * line)
    edge = [*zip(line, line + reach, strict=True), *zip(line[::-1], (line - reach)[::-1], strict=True)]
    ticks: list[float] = []
    largest = math.floor(math.log10(top))  # below a hundredth of the top, the root leaves no room for a tick
    for tick in (m * 10.0**power for power in range(largest - 2, largest + 1) for m in (1, 2.5, 5)):
        if tick <= top and scale(tick) - (scale(ticks[-1]) if ticks else 0) >= 12:
            ticks.append(tick)
    guesses = {model: [_plain(board.predictions[model][i]) for i in kept] for model in models}
    return {
        "x": scale(truth).tolist(),
        "y": [None if guess is None else 100 - float(scale(guess)) for guess in guesses[models[0]]],
        "hit": is_hit(truth, _floats(guesses[models[0]])).tolist(),
        "band": " ".join(f"{scale(x):g},{100 - scale(y):g}" for x, y in edge),
        "ticks": [(tick, float(scale(tick))) for tick in [0.0, *ticks]],
        "y_ticks": [(tick, 100 - float(scale(tick))) for tick in [0.0, *ticks]],
        "left_out": len(board.items) - len(kept),
        "data": {
            "titles": [str(board.items[i].get("title") or "") for i in kept],
            "truth": truth.tolist(),
            "guesses": guesses,
            "top": top,
            "hit": [hit_dollars(truth), HIT_SHARE],
            "affixes": amount(1, board.unit, "g").split("1"),
        },
    }


def curve_points(curve: list[Checkpoint]) -> dict[str, Any] | None:
    """Checkpoints in percent of the plot: points, the band of their intervals, ticks of both axes.

    A mean of checkpoints has no step, and so no place there; nor has one that answered nothing. None if none is left.
    """
    curve = [point for point in curve if point.step is not None and point.mae is not None]
    if not curve:
        return None
    lows = [point.mae_low if point.mae_low is not None else point.mae or 0.0 for point in curve]
    highs = [point.mae_high if point.mae_high is not None else point.mae or 0.0 for point in curve]
    steps = [point.step or 0 for point in curve]
    pad = 0.08 * (max(highs) - min(lows)) or 1.0
    bottom, height = min(lows) - pad, max(highs) - min(lows) + 2 * pad
    start, width = min(steps), (max(steps) - min(steps)) or 1

    def x(step: float) -> float:
        return round(100 * (step - start) / width, 2) if len(curve) > 1 else 50.0

    def y(value: float) -> float:
        return round(100 - 100 * (value - bottom) / height, 2)

    points = [
        {"point": point, "x": x(step), "y": y(point.mae or 0.0), "low": y(low), "high": y(high)}
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
    words = [amount(edge, unit, ",.12g") for edge in edges]
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
    """MAE of each model in each group with its 95% interval, and all of it in percent of the highest; `n` of a group
    are its items, `n` of a cell those that the model priced."""
    truth = _floats([item["price"] for item in board.items])
    errors = np.stack([absolute_error(truth, _floats(board.predictions[model])) for model in models])
    table = []
    for i in np.unique(group):
        here = errors[:, group == i]
        of = of_those(board.families, group == i)
        low, high = bootstrap_interval(here, seed=0, resamples=2_000, families=of)
        means = [float(np.nanmean(row)) if not np.isnan(row).all() else None for row in here]
        counts = (~np.isnan(here)).sum(axis=1).tolist()
        cells = [
            {"mae": mean, "low": _plain(least), "high": _plain(most), "n": count}
            for mean, least, most, count in zip(means, low, high, counts, strict=True)
        ]
        table.append({"name": names[i], "n": here.shape[1], "cells": cells})
    top = max((cell["high"] or cell["mae"] or 0 for row in table for cell in row["cells"]), default=0) or 1
    return [row | {"cells": [cell | {"scale": 100 / top} for cell in row["cells"]]} for row in table]


def calibration(board: Leaderboard, models: list[str]) -> list[dict[str, Any]]:
    """Where the truths lie in each model's 80% interval, in percent of the items that have one.

    `inside` is the share within, `width` the median width; `below` the shares of truths below the interval's low end,
    the guess and its high end, each with its 95% interval (Wilson 1927), to be compared with EXPECTED.
    """
    truth = _floats([item["price"] for item in board.items])
    found = []
    for model in models:
        low, high = (_floats(ends) for ends in board.intervals.get(model, ([], [])))
        guess = _floats(board.predictions[model])
        given = ~(np.isnan(low) | np.isnan(high) | np.isnan(guess)) if len(low) else np.zeros(0, dtype=bool)
        if not given.any():
            continue
        below = []
        for expected, edge in zip(EXPECTED, (low, guess, high), strict=True):
            # A price that is exactly the answer counts half on either side.
            share = float(np.mean((truth < edge)[given]) + np.mean((truth == edge)[given]) / 2)
            ends = binomtest(round(share * given.sum()), int(given.sum())).proportion_ci(method="wilson")
            below.append({"expected": expected, "share": 100 * share, "low": 100 * ends.low, "high": 100 * ends.high})
        inside = 100 * np.mean(((low <= truth) & (truth <= high))[given])
        width = float(np.median((high - low)[given]))
        found.append({"model": model, "n": int(given.sum()), "inside": inside, "width": width, "below": below})
    return found


def quantiles(board: Leaderboard, models: list[str], most: int = 4) -> dict[str, Any] | None:
    """Share of truths at or below each quantile of the predicted distributions, of the best models that give one: a
    diagonal where a model is calibrated. In percent of the plot; None where no model gives a distribution."""
    at = np.linspace(0, 1, 51)
    lines = []
    for model in models:
        pits = _floats(board.pits.get(model, []))
        pits = np.sort(pits[~np.isnan(pits)])
        if len(pits) and len(lines) < most:
            share = np.searchsorted(pits, at, side="right") / len(pits)
            path = " ".join(f"{100 * x:g},{100 - 100 * y:.2f}" for x, y in zip(at, share, strict=True))
            lines.append({"model": model, "path": path, "n": len(pits)})
    ticks = [(x, x) for x in (0, 25, 50, 75, 100)]
    return {"lines": lines, "x_ticks": ticks, "y_ticks": [(x, 100 - x) for x, _ in ticks]} if lines else None


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
    return None if value is None or math.isnan(value) else rounded(float(value))

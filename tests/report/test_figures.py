"""The arithmetic of the pictures."""

from dataclasses import replace

import numpy as np
import pytest

from tasks.report.figures import bars, calibration, nice_ticks, price_bands, quantiles, running, scatter
from tasks.report.tables import in_order
from tests.report.boards import board_of, row


def test_ticks_are_round_and_inside():
    """Axis labels are round numbers within the axis."""
    assert nice_ticks(0, 47) == [0, 10, 20, 30, 40]
    assert nice_ticks(27.3, 31.9, 4) == [28, 29, 30, 31]
    assert nice_ticks(0, 4.7e30) == pytest.approx([0, 1e30, 2e30, 3e30, 4e30])  # prices that a file has by mistake


def test_bands_of_large_prices_are_written_out():
    """In won or rupiah, too, and not as powers of ten."""
    names, _ = price_bands(np.linspace(1, 5e6, 100), "₩")
    assert names[:2] == ["under ₩1,000,000", "₩1,000,000 to ₩2,000,000"]
    assert price_bands(np.linspace(0.01, 1, 100), "$")[0][1] == "$0.2 to $0.4"


@pytest.mark.parametrize("top", [0.0125, 0.8, 47.0, 980.0, 4e8, 7e12])
def test_the_scatter_has_ticks_whatever_prices_are(top):
    """In tenths of a cent as in dong: several round numbers, of which the last is in the upper half of the axis."""
    prices = top * np.linspace(0.01, 1, 50)
    drawn = scatter(board_of(prices, {"ridge": prices * 1.1}, {"ridge": "baseline"}), ["ridge"])
    ticks = [tick for tick, _ in drawn["ticks"]]
    assert ticks[0] == 0 and len(ticks) >= 4 and ticks[-1] > 0.2 * top
    assert all(f"{tick:.2g}" == f"{tick:.12g}" or tick >= 100 for tick in ticks)


def test_a_bar_out_of_all_proportion_is_cut_and_the_others_keep_theirs():
    """One absurd model does not flatten the rest: its bar ends at the edge and is marked, the page says so."""
    rows = [row("ridge", 40.0, 1), row("trees", 50.0, 2, 10.0, 0.01), row("random", 400.0, 3, 360, 0.01)]
    drawn = bars(in_order(rows))
    ends = {bar["row"].model: (bar["mae"], bar["cut"]) for bar in drawn["bars"]}
    assert ends["random"] == (100.0, True)
    assert ends["trees"][0] > 80 and not ends["trees"][1]
    assert not bars(in_order(rows[:2]))["cut"]


def test_the_running_error_ends_at_the_error(board):
    """After the last item each line stands at the model's MAE, items without a guess left out."""
    drawn = running(board, ["blend", "human"])
    errors = {row.model: row.mae for row in board.rows if row.mae}
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

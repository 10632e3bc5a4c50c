"""80% intervals hold 80% of new items, however few they were fitted on."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.models.intervals import conformal, interval


@pytest.mark.parametrize("n", [9, 16, 32, 75, 500])
def test_few_items_make_an_interval_that_holds_as_many(n: int) -> None:
    """On average over many samples; plain quantiles of 16 items would hold 72%."""
    random = np.random.default_rng(n)
    held = []
    for _ in range(400):
        truth, price = random.lognormal(4, 1, (2, n + 200))
        low, high = interval(price[n:], conformal(truth[:n], price[:n]))
        held.append(((low <= truth[n:]) & (truth[n:] <= high)).mean())
    assert np.mean(held) == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize("points", [(4.99, 9.99, 14.99, 24.95), (0.013, 0.05, 1.1), (1_299_000_000.0, 19_900_000.5)])
def test_an_interval_that_ends_at_a_price_holds_the_items_that_cost_it(points: tuple[float, ...]) -> None:
    """Where all items have one of a few prices, the last bit of an end would decide about a third of them."""
    for asked in points:
        for wanted in points:
            price = np.full(9, asked)
            low, high = interval(price, conformal(np.full(9, wanted), price))
            assert low.tolist() == high.tolist() == [wanted] * 9

"""Batches of like length hold every example once, waste little, and come in an order that can be found again."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.batching import LikeLengths


@pytest.mark.parametrize("count", [0, 1, 8, 1000, 1003])
def test_every_example_once_an_epoch_in_an_order_of_its_own(count: int) -> None:
    """None is lost or repeated, whatever is left for the last batch; the same seed and epoch give the same order."""
    lengths = np.random.default_rng(1).integers(40, 120, count)
    sampler = LikeLengths(lengths, 8, seed=42)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(count)) and len(sampler) == count
    assert orders[0] == orders[2]
    if count > 8:
        assert orders[0] != orders[1] != list(LikeLengths(lengths, 8, seed=43))


def test_batches_are_of_like_length_and_come_in_random_order() -> None:
    """Padding nearly vanishes, and the length of a batch says nothing about when it comes."""
    lengths = np.random.default_rng(1).integers(40, 120, 2003)

    def longest(order: list[int]) -> np.ndarray:
        return np.array([lengths[order[start : start + 8]].max() for start in range(0, 2000, 8)])

    random, alike = np.random.default_rng(2).permutation(2003).tolist(), list(LikeLengths(lengths, 8, seed=42))
    assert 8 * longest(random).sum() / lengths.sum() > 1.3
    assert 8 * longest(alike).sum() / lengths.sum() < 1.05
    assert abs(np.corrcoef(longest(alike), np.arange(250))[0, 1]) < 0.2

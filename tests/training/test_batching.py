"""Batches of like length hold every example once, waste little, and come in an order that can be found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from torch.utils.data import RandomSampler
from trl import SFTConfig

from tasks.training.batching import LikeLengths, padding, pays


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
    assert padding(lengths, random, 8) > 1.3 and padding(lengths, alike, 8) < 1.1
    assert abs(np.corrcoef(longest(alike), np.arange(250))[0, 1]) < 0.2


@pytest.mark.parametrize(("longest", "kind"), [(120, LikeLengths), (42, RandomSampler)])
def test_a_training_takes_random_batches_where_sorted_ones_save_nothing(
    longest: int, kind: type, tmp_path: Path
) -> None:
    """Random ones, and not upstream's sorted ones, which its setting would mean."""
    from tasks.training.trainer import PriceTrainer

    trainer = PriceTrainer.__new__(PriceTrainer)
    lengths = np.random.default_rng(1).integers(40, longest, 500)
    trainer.train_dataset = Dataset.from_dict({"input_ids": [[1] * length for length in lengths]})
    trainer.args = SFTConfig(
        output_dir=str(tmp_path), train_sampling_strategy="group_by_length", use_cpu=True, bf16=False
    )
    trainer._train_batch_size = 8
    assert type(trainer._get_train_sampler()) is kind


def test_batches_of_like_length_are_made_only_where_random_ones_waste_much() -> None:
    """Not where all texts are cut to about one length, nor where one batch holds them all."""
    random = np.random.default_rng(1)
    assert pays(random.integers(40, 120, 1000), 8)
    assert not pays(random.integers(100, 105, 1000), 8)
    assert not pays([40, 120], 8) and not pays([], 8)

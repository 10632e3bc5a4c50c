"""Which examples make a batch: those of like length, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

CHUNK = 50  # batches that are sorted together: more are more alike, fewer more random


class LikeLengths(Sampler[int]):
    """Indices of examples, each once an epoch, so that every `batch` of them in a row are of like length.

    CHUNK random batches at a time are sorted by length and cut into batches again; all batches come in random order.
    Each epoch has an order of its own that depends on `seed` and its number alone: a resumed training finds it again.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = np.array(lengths), batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        for start in range(0, len(order), CHUNK * self.batch):
            chunk = order[start : start + CHUNK * self.batch]
            chunk[:] = chunk[np.argsort(self.lengths[chunk], kind="stable")]
        *whole, last = np.split(order, range(self.batch, len(order), self.batch))
        for index in random.permutation(len(whole)):
            yield from whole[index].tolist()
        yield from last.tolist()  # it may be short: before others it would shift them

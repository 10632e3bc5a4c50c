"""Which examples make a batch: where texts differ in length, those of like length, so that little of it is padding.

Such batches are less mixed than random ones, since texts of one length are of one kind: on the generated catalogue,
where they save 1%, a training learned worse by them (docs/benchmarks.md). So they are made only where they save much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

CHUNK = 8  # batches that are sorted together: more are more alike, fewer more random
WORTH = 1.1  # tokens that random batches compute for each one that is there, from which on like ones are made


def padding(lengths: Sequence[int], order: Sequence[int] | np.ndarray, batch: int) -> float:
    """Tokens computed for each one that is there when examples are batched in an order."""
    cut = np.split(np.asarray(lengths)[np.asarray(order, dtype=int)], range(batch, len(order), batch))
    return sum(len(part) * part.max() for part in cut) / sum(lengths)


def pays(lengths: Sequence[int], batch: int) -> bool:
    """Whether random batches would be padded so much that batches of like length are better."""
    return len(lengths) > batch and padding(lengths, np.random.default_rng(0).permutation(len(lengths)), batch) > WORTH


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

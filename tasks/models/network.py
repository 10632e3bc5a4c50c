"""A small neural network over sparse features, as the winners of the Mercari price challenge used it."""

from __future__ import annotations

from itertools import pairwise
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, RegressorMixin


class Network(RegressorMixin, BaseEstimator):
    """The mean of several multilayer perceptrons that learn the absolute error of the standardised target.

    They differ in nothing but their random numbers: together they err less than one (Lakshminarayanan et al. 2017).
    The batch doubles with each epoch, which calms the steps as a falling rate would and takes less time. Trained with
    torch, kept and run with NumPy and SciPy, so that pricing needs neither torch nor its start-up time.
    """

    def __init__(
        self,
        hidden: tuple[int, ...] = (128, 64),
        networks: int = 3,
        epochs: int = 4,
        batch: int = 128,
        learning_rate: float = 3e-3,
        random_state: int = 0,
    ) -> None:
        self.hidden, self.networks, self.epochs, self.batch = hidden, networks, epochs, batch
        self.learning_rate, self.random_state = learning_rate, random_state

    def fit(self, rows: csr_matrix, target: np.ndarray) -> Self:
        """Learn the target [n] from sparse rows [n, features].

        Raises:
            ValueError: the training did not converge to finite numbers.
        """
        import torch

        rows = csr_matrix(rows, dtype=np.float32)
        self.mean_, self.scale_ = float(np.mean(target)), float(np.std(target)) or 1.0
        goal = ((np.asarray(target) - self.mean_) / self.scale_).astype(np.float32)
        threads = torch.get_num_threads()
        # The sums of one thread are the same each time, and so small a network gains nothing from a second one.
        torch.set_num_threads(1)
        try:
            self.layers_ = [self._train(rows, goal, seed) for seed in range(self.networks)]
        finally:
            torch.set_num_threads(threads)
        if not all(np.isfinite(array).all() for layers in self.layers_ for array in layers):
            raise ValueError("the network did not converge: its weights are not finite")
        return self

    def _train(self, rows: csr_matrix, goal: np.ndarray, network: int) -> list[np.ndarray]:
        import torch
        from torch.nn import functional as F

        random = np.random.default_rng([self.random_state, network])
        layers = [torch.tensor(layer, requires_grad=True) for layer in self._start(rows.shape[1], random)]
        # The fused optimizer passes over the weights once a step, not eight times: five times faster on a CPU.
        optimizer = torch.optim.Adam(layers, lr=self.learning_rate, fused=True)
        for epoch in range(self.epochs):
            order, size = random.permutation(len(goal)), self.batch << epoch
            for start in range(0, len(order), size):
                chosen = order[start : start + size]
                batch = rows[chosen]
                bag = [torch.from_numpy(array.astype(np.int64)) for array in (batch.indices, batch.indptr[:-1])]
                weight = torch.from_numpy(batch.data)
                values = F.embedding_bag(bag[0], layers[0], bag[1], mode="sum", per_sample_weights=weight) + layers[1]
                for matrix, bias in zip(layers[2::2], layers[3::2], strict=True):
                    values = torch.relu(values) @ matrix + bias
                loss = (values[:, 0] - torch.from_numpy(goal[chosen])).abs().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return [layer.detach().numpy() for layer in layers]

    def _start(self, features: int, random: np.random.Generator) -> list[np.ndarray]:
        """Matrix and bias of each layer; the first is small because a row has few features that are not zero."""
        sizes = [features, *self.hidden, 1]
        layers: list[np.ndarray] = []
        for place, (rows, columns) in enumerate(pairwise(sizes)):
            deviation = 0.05 if place == 0 else (2 / rows) ** 0.5
            matrix = random.normal(0, deviation, (rows, columns)).astype(np.float32)
            layers += [matrix, np.zeros(columns, dtype=np.float32)]
        return layers

    def predict(self, rows: csr_matrix) -> np.ndarray:
        """The target of sparse rows [n, features], shape [n]."""
        rows = csr_matrix(rows, dtype=np.float32)
        answers = [_forward(rows, layers) for layers in self.layers_]
        return np.mean(answers, axis=0) * self.scale_ + self.mean_


def _forward(rows: csr_matrix, layers: list[np.ndarray]) -> np.ndarray:
    values = rows @ layers[0] + layers[1]
    for matrix, bias in zip(layers[2::2], layers[3::2], strict=True):
        values = np.maximum(values, 0) @ matrix + bias
    return values[:, 0]

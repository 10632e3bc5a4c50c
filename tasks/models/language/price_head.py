"""A price read off the hidden state after the prompt, in one forward pass: a layer instead of a tree of digits.

    head = PriceHead.begin(hidden_size, told, opinions, prices, prompt, bins)
    head.standardize(states)                        # of some prompts, before the model is tuned
    loss = head.loss(states, told, prices)          # soft labels: HL-Gauss (Farebrother et al. 2024, arXiv 2403.03950)
    probabilities = head.read(states, told)         # of the same whole prices that the text can answer

It begins as what it is told: its distribution lies where the opinions or the comparables lie, and the hidden state has
no say. What it learns from there is what the text adds to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tasks.config.experiment import Prompt
from tasks.errors import UserError

FILE = "price_head.safetensors"
SMOOTHING = 0.75  # of a bin's width: the deviation of a soft label, as HL-Gauss recommends
WIDTH = 0.5  # of log price: how far the truth lies from what is told, to begin with
ALIKE = 1e-4  # the deviation of a dimension that says nothing: what is left of equal states by rounding


class PriceHead(nn.Module):
    """A distribution over `bins` even bins of log price, from a hidden state and k numbers that are prices in logs.

    The logits are a Laplace distribution around  w . numbers + v . state,  whose width depends on the state as well,
    and one term of the state for each bin, which gives it any other form.
    """

    def __init__(self, hidden: int, numbers: int, edges: np.ndarray) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(numbers))
        self.start = nn.Parameter(torch.zeros(()))
        self.state = nn.Linear(hidden, 1, bias=False)
        self.width = nn.Linear(hidden, 1)
        self.form = nn.Linear(hidden, len(edges) - 1, bias=False)
        for layer in (self.state, self.width, self.form):
            nn.init.zeros_(layer.weight)
        nn.init.constant_(self.width.bias, math.log(WIDTH))
        self.register_buffer("edges", torch.tensor(edges, dtype=torch.float32))
        self.register_buffer("center", torch.zeros(hidden))
        self.register_buffer("scale", torch.ones(hidden))

    @classmethod
    def begin(
        cls, hidden: int, told: np.ndarray, opinions: int, prices: Sequence[float], prompt: Prompt, bins: int
    ) -> Self:
        """A head that answers the mean of the opinions, which are the first columns of what is `told` [n, k] of the
        training items; without any, the mean of the rest; told nothing, the median of the `prices` [n] in dollars."""
        lowest, highest = (np.log1p(prompt.unit * end) for end in (max(prompt.lowest - 0.5, 0), prompt.highest + 0.5))
        head = cls(hidden, told.shape[1], np.linspace(lowest, highest, bins + 1))
        logs = np.log1p(np.asarray(prices, dtype=float))
        counted = opinions or told.shape[1]
        with torch.no_grad():
            head.numbers[:counted] = 1 / max(counted, 1)
            head.start.fill_(float(np.median(logs - told @ head.numbers.double().numpy())))
        return head

    def standardize(self, states: torch.Tensor) -> None:
        """Measure every dimension of a state from its mean over these [n, hidden], in its deviations.

        Nearly all of a state is what the prompts have in common (99% of its energy with SmolLM2-135M). With that left
        in, most of each step of the optimizer goes there, and what tells the items apart is learned weakly.
        """
        states = _normed(states)
        deviation = states.std(dim=0, correction=0)
        self.center.copy_(states.mean(dim=0))
        self.scale.copy_(torch.where(deviation > ALIKE, deviation, 1))

    def forward(self, states: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Logits [n, bins] from hidden states [n, hidden] and numbers [n, k], in float32 whatever the model's."""
        with torch.autocast(states.device.type, enabled=False):
            states = (_normed(states) - self.center) / self.scale
            middle = (told @ self.numbers + self.start)[:, None] + self.state(states)
            width = self.width(states).clamp(-4, 2).exp()
            centers = (self.edges[1:] + self.edges[:-1]) / 2
            return -(centers - middle).abs() / width + self.form(states)

    def loss(self, states: torch.Tensor, told: torch.Tensor, prices: torch.Tensor) -> torch.Tensor:
        """The cross-entropy [n] with the prices [n] in dollars, each spread over the bins around it."""
        logs = torch.log1p(prices)[:, None].clamp(self.edges[0], self.edges[-1])
        deviation = SMOOTHING * (self.edges[1] - self.edges[0])
        below = torch.special.ndtr((self.edges - logs) / deviation)
        labels = below.diff(dim=1) / (below[:, -1:] - below[:, :1])
        return -(labels * F.log_softmax(self(states, told), dim=1)).sum(dim=1)

    def read(self, states: torch.Tensor, told: torch.Tensor, prices: np.ndarray) -> np.ndarray:
        """The probabilities [n, k] of evenly spaced prices [k] in dollars, each with half of the way to the next one on
        either side; a bin's probability is spread evenly over its logarithms."""
        bins = F.softmax(self(states, told), dim=1).double().cpu().numpy()
        edges = self.edges.double().cpu().numpy()
        half = (prices[1] - prices[0]) / 2 if len(prices) > 1 else 0.5
        ends = np.log1p(np.maximum(np.append(prices - half, prices[-1] + half), 0))
        place = np.clip((ends - edges[0]) / (edges[1] - edges[0]), 0, len(edges) - 1)
        whole = np.minimum(place.astype(int), len(edges) - 2)
        reached = np.pad(bins.cumsum(axis=1), ((0, 0), (1, 0)))[:, whole] + bins[:, whole] * (place - whole)
        probabilities = np.diff(reached, axis=1)
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def save(self, folder: Path) -> None:
        """Write it beside the adapter that it was trained with."""
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; a head of a version that did not standardize the states has them as they are.

        Raises:
            UserError: it was written by a version whose heads have more in them.
        """
        from safetensors.torch import load_file

        tensors = load_file(folder / FILE)
        head = cls(tensors["state.weight"].shape[1], len(tensors["numbers"]), tensors["edges"].numpy())
        if unknown := sorted(tensors.keys() - head.state_dict().keys()):
            raise UserError(
                f"The price head in {folder} was saved by another version of Pricewright: this one does not know its "
                f"{', '.join(unknown)}. Load it with that version, or fine-tune again with this one."
            )
        head.load_state_dict({**head.state_dict(), **tensors})
        return head


def _normed(states: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(states.float(), states.shape[-1:])


def mean_head(folders: Sequence[Path], folder: Path) -> None:
    """Write the head whose every number is the mean of those in `folders`, as the adapters' are averaged."""
    heads = [PriceHead.load(one) for one in folders]
    several = [head.state_dict() for head in heads]
    heads[0].load_state_dict({name: torch.stack([one[name] for one in several]).mean(dim=0) for name in several[0]})
    heads[0].save(folder)


def last_states(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """The hidden states [n, hidden] of a causal model, plain or with an adapter, at the places `last` [n] of token ids
    [n, length]; the layer over the vocabulary is not run."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    states = whole.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return states[torch.arange(len(last), device=states.device), last]

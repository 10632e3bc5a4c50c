"""The tokens of whole numbers as a trie: what a causal language model can write where a price is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class PriceTrie:
    """The tokens of k whole numbers as a trie of m inner nodes, breadth first, node 0 being the end of the prompt.

    Every number and every inner node but the first is the outcome of exactly one token at one inner node, and has a
    slot: number j slot j, node i slot k + i, and slot k + m is where padding goes.

    Of o numbers no other one continues: they are `open` until the token that begins the suffix follows. What the model
    makes of them is read at o further nodes, m to m + o, which have no outcomes among the numbers.
    """

    prices: np.ndarray  # [k] the numbers, ascending
    token: np.ndarray  # [m + o] the token that leads to the node
    depth: np.ndarray  # [m + o] tokens between the end of the prompt and the node
    path: np.ndarray  # [m + o, deepest] the nodes from the first token to the node itself, padded with node 0
    fan: np.ndarray  # [m] number of outcomes
    outcome_token: np.ndarray  # [m, widest] tokens, padded with 0
    outcome_slot: np.ndarray  # [m, widest] where each of them leads, padded with k + m
    size: np.ndarray  # [k + m + 1] numbers at or below the slot
    open: np.ndarray  # [o] the numbers that no other one continues
    stop: np.ndarray  # [o] the token that begins the suffix behind each of them

    @property
    def nodes(self) -> int:
        """Number of inner nodes, the end of the prompt included: positions a model must score at least."""
        return len(self.fan)

    def closing(self, most: int | None) -> int:
        """How many of the open numbers are asked whether they end: at most so many, or all of them."""
        return len(self.open) if most is None else min(most, len(self.open))


def build_trie(
    tokenizer: PreTrainedTokenizerBase, low: int = 0, high: int = 999, prefix: str = "$", suffix: str = ".00"
) -> PriceTrie:
    """The trie of the whole numbers low..high as they are tokenized between `prefix` and `suffix`.

    A number that another one continues (12 before 129) ends with the token that begins `suffix`; one that no other
    continues is `open`. Raises ValueError where tokens span `prefix`, the number and `suffix`.
    """
    if not 0 <= low <= high:
        raise ValueError(f"A price range needs 0 <= low <= high, got {low}..{high}.")
    numbers = range(low, high + 1)
    sequences, stops = _number_tokens(tokenizer, numbers, prefix, suffix)
    slot_of = {sequence: j for j, sequence in enumerate(sequences)}
    if len(slot_of) < len(numbers):
        raise ValueError(f"The tokenizer writes two numbers of {low}..{high} with the same tokens (an unknown token?).")
    inner = sorted({s[:i] for s in sequences for i in range(len(s))}, key=lambda s: (len(s), s))
    k, m = len(numbers), len(inner)
    node_of = {node: i for i, node in enumerate(inner)}
    outcomes: list[dict[int, int]] = [{} for _ in inner]
    for i, node in enumerate(inner[1:], start=1):
        outcomes[node_of[node[:-1]]][node[-1]] = k + i
    for sequence, j in slot_of.items():
        ends_at, token = (sequence, stops[j]) if sequence in node_of else (sequence[:-1], sequence[-1])
        if token is None or token in outcomes[node_of[ends_at]]:
            raise ValueError(f"The suffix {suffix!r} does not end {numbers[j]}: begin it with a sign such as a point.")
        outcomes[node_of[ends_at]][token] = j
    fan = np.array([len(o) for o in outcomes])
    size = np.ones(k + m + 1)
    outcome_token = np.zeros((m, fan.max()), dtype=np.int64)
    outcome_slot = np.full((m, fan.max()), k + m)
    for i in reversed(range(m)):  # breadth first, so a node's children have their sizes before it
        outcome_token[i, : fan[i]], outcome_slot[i, : fan[i]] = list(outcomes[i]), list(outcomes[i].values())
        size[k + i] = size[outcome_slot[i, : fan[i]]].sum()
    opened = [s for s, j in slot_of.items() if s not in node_of and stops[j] is not None]
    everything = [*inner, *opened]
    node_of |= {sequence: m + i for i, sequence in enumerate(opened)}
    depth = np.array([len(node) for node in everything])
    path = np.zeros((len(everything), max(depth.max(), 1)), dtype=np.int64)
    for i, node in enumerate(everything):
        path[i, : len(node)] = [node_of[node[: d + 1]] for d in range(len(node))]
    token = np.array([node[-1] if node else 0 for node in everything])
    open_ = np.array([slot_of[sequence] for sequence in opened], dtype=np.int64)
    stop = np.array([stops[slot_of[sequence]] for sequence in opened], dtype=np.int64)
    return PriceTrie(np.array(numbers), token, depth, path, fan, outcome_token, outcome_slot, size, open_, stop)


def in_dollars(numbers: np.ndarray, unit: float) -> np.ndarray:
    """Whole numbers of a unit as prices, to the last bit those that the data state: 1999 cents are 19.99, and not
    19.990000000000002, which an interval that ends there would not hold."""
    decimals = len(f"{unit:.15f}".rstrip("0").partition(".")[2])
    return np.round(numbers * unit, decimals)


def _number_tokens(
    tokenizer: PreTrainedTokenizerBase, numbers: Sequence[int], prefix: str, suffix: str
) -> tuple[list[tuple[int, ...]], list[int | None]]:
    """The tokens of each number after `prefix`, and the token after them that begins `suffix` (None if it is empty)."""
    texts = [prefix, *(f"{prefix}{n}" for n in numbers), *(f"{prefix}{n}{suffix}" for n in numbers)]
    start, *encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    pairs = list(zip(encoded[: len(numbers)], encoded[len(numbers) :], strict=True))
    for n, (alone, closed) in zip(numbers, pairs, strict=True):
        if alone[: len(start)] != start or len(alone) == len(start) or closed[: len(alone)] != alone:
            raise ValueError(
                f"The tokenizer does not keep {prefix!r}, the number and {suffix!r} apart: {prefix}{n}{suffix} becomes "
                f"{tokenizer.convert_ids_to_tokens(closed)}. End the prompt with, and begin the suffix with, "
                "a sign that stays a token of its own."
            )
    return [tuple(alone[len(start) :]) for alone, _ in pairs], [next(iter(c[len(a) :]), None) for a, c in pairs]

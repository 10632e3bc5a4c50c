"""The number-aware loss is the score it says it is, at the place where each digit stands, and its gradient is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.losses import NumberLoss
from tasks.metrics import crps_per_item
from tasks.predictors import Distribution


class Vocabulary:
    """As much of a tokenizer as the loss asks for: numbers of up to `digits` digits as tokens, and some words."""

    def __init__(self, digits: int) -> None:
        numbers = [f"{n:0{width}}" for width in range(1, digits + 1) for n in range(10**width)]
        self.words = {word: index for index, word in enumerate(["$", ".", "a1", "²", *reversed(numbers), "</s>"])}

    def get_vocab(self) -> dict[str, int]:
        return self.words

    def __len__(self) -> int:
        return len(self.words)

    def rows(self, *rows: str) -> torch.Tensor:
        """Targets: each word of each row, `_` where there is nothing to learn."""
        return torch.tensor([[self.words.get(word, -100) for word in row.split()] for row in rows])


def random_logits(targets: torch.Tensor, size: int) -> torch.Tensor:
    return 2 * torch.randn(*targets.shape, size, generator=torch.Generator().manual_seed(1))


def test_a_number_of_one_token_is_scored_by_the_crps_of_the_whole_distribution() -> None:
    """Over all of 0 to 999, by the same arithmetic as the leaderboard's figure, as a share of the range."""
    words = Vocabulary(3)
    words.words = {word: index for index, word in enumerate(["$", ".", *map(str, range(1000)), "</s>"])}
    targets = words.rows("129 . 0 </s>", "_ 7 . </s>")
    logits = random_logits(targets, len(words))
    loss = NumberLoss(words, weight=10, highest=999)(logits, targets)
    given = torch.stack([logits[0, 0], logits[1, 1]])[:, 2:1002].softmax(dim=1).double().numpy()
    expected = crps_per_item(np.array([129.0, 7.0]), Distribution(np.arange(1000.0), given))
    assert float(loss) == pytest.approx(10 * expected.sum() / 999, rel=1e-5)


def test_each_digit_is_scored_at_its_place_and_what_follows_the_number_is_not() -> None:
    """CRPS by its definition, E|X - y| - E|X - X'| / 2, times 100, 10 and 1; the zeros of ".00" are no part of it."""
    words = Vocabulary(1)
    targets = words.rows("_ 1 2 9 . 0 0 </s>", "_ _ 4 . 0 0 </s> _")
    logits = random_logits(targets, len(words))
    loss = NumberLoss(words, weight=1, highest=1)(logits, targets)
    expected, digits = 0.0, np.arange(10)
    tokens = [words.words[str(digit)] for digit in digits]
    for row, column, truth, place in ((0, 1, 1, 100), (0, 2, 2, 10), (0, 3, 9, 1), (1, 2, 4, 1)):
        given = logits[row, column, tokens].softmax(dim=0).double().numpy()
        distance = np.abs(digits[:, None] - digits)
        expected += place * (given @ np.abs(digits - truth) - given @ distance @ given / 2)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_the_loss_and_leads_to_the_truth() -> None:
    """By finite differences; steps against it put the probability on the true digits."""
    words = Vocabulary(1)
    targets = words.rows("1 2 9 . 0 </s>", "_ 4 2 . 0 </s>")
    loss = NumberLoss(words, weight=1, highest=99)
    logits = random_logits(targets, len(words)).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, targets), logits)
    with torch.no_grad():
        for row, column, token in ((0, 0, words.words["1"]), (1, 2, words.words["9"]), (0, 3, words.words["0"])):
            change = torch.zeros_like(logits)
            change[row, column, token] = 0.01
            slope = (loss(logits + change, targets) - loss(logits - change, targets)) / 0.02
            assert float(gradient[row, column, token]) == pytest.approx(float(slope), abs=2e-3, rel=2e-2)
    assert gradient[:, 3:].abs().sum() == 0  # the point, the zeros and the end are cross-entropy's
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        loss(logits, targets).backward()
        optimizer.step()
    learned = (targets != -100) & (torch.arange(6) < 3)
    assert torch.equal(logits.argmax(dim=2)[learned], targets[learned])

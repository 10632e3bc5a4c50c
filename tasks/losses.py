"""A loss that knows how far apart numbers are, beside the cross-entropy that does not.

To cross-entropy 130 is as wrong as 900 where 129 is right. The term here is the continuous ranked probability score
(CRPS) of each token of the number: the number token loss (Zausinger et al., arXiv 2411.02083) made a proper score. The
expected distance to the truth, as it stands there, is least where all probability lies on the median, and would undo
the width that the answer and its interval are read from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class NumberLoss:
    """The CRPS of the number's tokens, as a share of the range, times `weight`.

    Each token of the true number is scored among all tokens of digits, given the true ones before it, at its place: the
    hundreds' digit off by one counts a hundred times the units'. Where a number is one token (Llama 3), this is the
    CRPS of the whole distribution over prices.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, weight: float, highest: int) -> None:
        numbers = [(int(word), index, len(word)) for word, index in tokenizer.get_vocab().items() if _is_number(word)]
        values, tokens, digits = torch.tensor(sorted(numbers)).T
        self.values, self.tokens = values.double(), tokens
        self.digits = torch.zeros(len(tokenizer), dtype=torch.long)  # how many each token has, 0 where it is no number
        self.digits[tokens] = digits
        self.value = torch.zeros(len(tokenizer), dtype=torch.float64)
        self.value[tokens] = self.values
        self.scale = weight / max(highest, 1)

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sum over the items of logits [batch, places, vocabulary] and targets [batch, places], -100 where there is
        nothing to learn."""
        device, learned = logits.device, targets != -100
        digits = self.digits.to(device)[targets.clamp(min=0)] * learned
        # What comes after the number, such as the zeros of ".00", is no part of it.
        digits = digits * ((learned & (digits == 0)).cumsum(dim=1) == 0)
        places = digits.flip(1).cumsum(dim=1).flip(1) - digits  # digits of the number after the token
        counts = digits > 0
        truth = self.value.to(device)[targets[counts]][:, None]
        given = logits[counts][:, self.tokens.to(device)].float().softmax(dim=1).cumsum(dim=1)
        values = self.values.to(device)
        apart = (given[:, :-1] - (values[:-1] >= truth).float()) ** 2 * values.diff().float()
        return self.scale * (10.0 ** places[counts] * apart.sum(dim=1)).sum()


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()

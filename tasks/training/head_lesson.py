"""What a price head learns from, beside the hidden states: what it is told of every training item, and its price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from tasks.models.language.model import LanguageModel
from tasks.models.language.price_head import PriceHead
from tasks.models.language.prompts import Told
from tasks.training.plan import TrainingPlan

SEEN = 256  # prompts whose states say what all have in common: each deviation is known to 5%


@dataclass(frozen=True)
class HeadLesson:
    """A head in training at a `rate` of its own; `told` [n, k] and `prices` [n] in dollars of the training items."""

    head: PriceHead
    rate: float
    told: torch.Tensor
    prices: torch.Tensor

    @classmethod
    def of(cls, plan: TrainingPlan, language: LanguageModel, known: Told, texts: Sequence[str]) -> Self:
        """The lesson of a plan, with a head that has learned nothing but is told what is `known` of its items, and
        knows the states after some of their prompts `texts` [n]; the language model has it from now on."""
        prompt, answer = plan.conf.prompt, plan.conf.answer
        told = language.numbers(known, len(plan.items))
        prices = [item.known_price for item in plan.items]
        embeddings = language.model.get_input_embeddings().weight
        head = PriceHead.begin(embeddings.shape[1], told, len(prompt.opinions), prices, prompt, answer.bins)
        language.head = head.to(embeddings.device)
        head.standardize(language.states(language.tokenizer(list(texts[:SEEN]))["input_ids"]))
        as_tensor = [torch.tensor(values, dtype=torch.float32, device=embeddings.device) for values in (told, prices)]
        return cls(language.head, answer.rate, *as_tensor)

    def loss(self, states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The loss [batch] of hidden states [batch, hidden] after the prompts of these training items [batch]."""
        return self.head.loss(states, self.told[rows], self.prices[rows])

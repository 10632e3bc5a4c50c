"""A causal language model, untuned or with an adapter, that answers with its whole distribution over prices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tasks.config import Answer, Finetune, Prompt
from tasks.errors import UserError
from tasks.items import Item
from tasks.predictors import Predictions
from tasks.pricing import ANSWERS, build_trie, price_distribution, quantile
from tasks.progress import Progress
from tasks.prompts import render

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Recipe:
    """How a language model is loaded, asked and read; enough by itself for a model without adapter."""

    base: str
    quantization: dict[str, Any] | None
    prompt: Prompt
    answer: Answer
    device: str = "auto"

    @classmethod
    def of(cls, finetune: Finetune) -> Self:
        """The recipe of a conf.

        Raises:
            UserError: the estimate has no such name.
        """
        if finetune.answer.estimate not in ANSWERS:
            names = ", ".join(ANSWERS)
            raise UserError(f"finetune.answer.estimate: got {finetune.answer.estimate!r}. Expected one of {names}.")
        return cls(finetune.base, finetune.quantization, finetune.prompt, finetune.answer, finetune.device)

    def save(self, folder: Path) -> None:
        """Write the recipe: all there is to keep of a model without adapter, whose base is found by its name again."""
        fields = {"base": self.base, "quantization": self.quantization, "device": self.device}
        sections = {"prompt": self.prompt.model_dump(), "answer": self.answer.model_dump()}
        text = json.dumps({"predictor": "language", **fields, **sections}, indent=1)
        (folder / "predictor.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        fields = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
        sections = Prompt(**fields["prompt"]), Answer(**fields["answer"])
        return cls(fields["base"], fields["quantization"], *sections, fields["device"])


class LanguageModel:
    """A language model with its tokenizer, ready to price items."""

    def __init__(self, recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.recipe, self.model, self.tokenizer = recipe, model, tokenizer
        prompt = recipe.prompt
        self.trie = build_trie(tokenizer, prompt.lowest, prompt.highest, prefix=prompt.prefix, suffix=prompt.suffix)
        self.prices = np.arange(prompt.lowest, prompt.highest + 1)

    def predict(self, items: Sequence[Item], what: str | None = None) -> Predictions:
        """Price the items by the point estimate of the recipe, with the 10% and 90% quantiles.

        `what` is how the progress is called.
        """
        prompts = self.tokenizer(render(items, self.recipe.prompt, self.tokenizer))["input_ids"]
        answer = self.recipe.answer
        adapter = hasattr(self.model, "peft_config")
        what = what or f"pricing with {self.recipe.base}" + (" and its adapter" if adapter else "")
        with Progress(what, len(items), "items") as progress:
            distribution, mass = price_distribution(
                self.model,
                self.trie,
                prompts,
                batch_tokens=answer.batch_tokens,
                prune=answer.prune,
                progress=progress.advance,
            )
        price = ANSWERS[answer.estimate](distribution, self.prices)
        low, high = (quantile(distribution, self.prices, share) for share in (0.1, 0.9))
        return Predictions(price, low, high, mass)

    def save(self, folder: Path) -> None:
        """Write the recipe and, if there is one, the adapter."""
        self.recipe.save(folder)
        if hasattr(self.model, "peft_config"):
            self.model.save_pretrained(folder / "adapter", save_embedding_layers=False)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the base model and put the adapter of `folder` on it, if it holds one."""
        return cls.of(Recipe.load(folder), folder / "adapter" if (folder / "adapter").is_dir() else None)

    @classmethod
    def of(cls, recipe: Recipe, adapter: Path | None = None) -> Self:
        """Load the base model of a recipe, with an adapter if given."""
        from tasks.basemodel import load_model, load_tokenizer

        tokenizer = load_tokenizer(recipe.base)
        model = load_model(recipe.base, recipe.quantization, recipe.device)
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter).eval()
        return cls(recipe, model, tokenizer)

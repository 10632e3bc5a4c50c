"""A causal language model, untuned or with an adapter, that answers with its whole distribution over prices."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import ValidationError

from tasks.config.experiment import Answer, Finetune, Prompt
from tasks.data import minhash
from tasks.data.items import Item
from tasks.errors import ModelGoneError, UserError
from tasks.models.language import base_model
from tasks.models.language.estimators import ESTIMATORS, GREEDY, MOST_PROBABLE, fit_temperature, quantile, temper
from tasks.models.language.hardware import Hardware, Settings, settings
from tasks.models.language.price_distribution import batches, evaluating, price_distribution
from tasks.models.language.price_trie import build_trie, in_dollars
from tasks.models.language.prompts import Told, in_words, parse, render
from tasks.models.predictor import Distribution, Predictions
from tasks.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tasks.models.language.opinions import Opinions
    from tasks.models.language.price_head import PriceHead
    from tasks.models.language.retrieval import Comparables

COMPARABLES, OPINIONS = "comparables.skops", "opinions"
READ = 1000  # distributions that a head computes at once
MIN_FIT = 16  # fewer items than this say nothing about a temperature


@dataclass(frozen=True)
class ModelSpec:
    """How a language model is loaded, asked and read; enough by itself for a model without adapter."""

    base: str
    quantization: dict[str, Any] | None
    prompt: Prompt
    answer: Answer
    device: str = "auto"
    dtype: str = "auto"
    identity: str | None = None  # of the base model when this was saved
    comparables: Comparables | None = None
    opinions: Opinions | None = None

    @classmethod
    def of(
        cls,
        finetune: Finetune,
        train: Sequence[Item] | None = None,
        seed: int = 0,
        near: float | None = minhash.NEAR,
    ) -> Self:
        """The spec of a conf; for a model that is asked something, with the training items as far as it is told of
        them. The `seed` is that of the models whose opinions it is told, and `near` says how alike near duplicates are.

        Raises:
            UserError: the estimate or an opinion has no such name, or a head is to write.
        """
        names = (*ESTIMATORS, GREEDY)
        if finetune.answer.estimate not in names:
            expected = ", ".join(names)
            raise UserError(f"finetune.answer.estimate: got {finetune.answer.estimate!r}. Expected one of {expected}.")
        prompt, answer = finetune.prompt, finetune.answer
        if (answer.by, answer.estimate) == ("head", GREEDY):
            raise UserError("finetune.answer.estimate: a head writes no text. Expected median, mean or log_mean.")
        told: dict[str, Any] = {}
        if prompt.opinions:
            from tasks.models.language.opinions import Opinions, check

            check(prompt.opinions)
            told["opinions"] = None if train is None else Opinions.of(prompt.opinions, train, seed, near)
        if prompt.comparables:
            from tasks.models.language import encoder
            from tasks.models.language.retrieval import Comparables

            if encoder.asked_for(prompt):
                encoder.locate(prompt.encoder)
            told["comparables"] = None if train is None else Comparables.fit(train, prompt, near, finetune.device)
        told |= {"device": finetune.device, "dtype": finetune.dtype}
        return cls(finetune.base, finetune.quantization, prompt, answer, **told)

    def told(self, items: Sequence[Item], prompt: Prompt) -> Told:
        """The comparables and the opinions that a prompt asks for.

        Raises:
            ValueError: it asks for some, and the spec was made without training items.
        """
        prices = titles = said = None
        if prompt.comparables:
            if self.comparables is None:
                raise ValueError("finetune.prompt.comparables needs a spec that was given the training items")
            places = self.comparables.look_up(items, prompt.comparables, self.device)
            prices = self.comparables.prices[places]
            titles = None if self.comparables.titles is None else self.comparables.titles[places].tolist()
        if prompt.opinions:
            if self.opinions is None:
                raise ValueError("finetune.prompt.opinions needs a spec that was given the training items")
            said = self.opinions.ask(items)
        return Told(prices, titles, said)

    def settings(self) -> Settings:
        """How the model is loaded on this machine."""
        return settings(Hardware.here(self.device), self.quantization, {}, self.dtype)

    def check_fit(self, items: Sequence[Item]) -> None:
        """Refuse to fit a temperature on too few items.

        Raises:
            UserError: one is to be fitted, and there are fewer than MIN_FIT.
        """
        if self.answer.temperature == "fit" and len(items) < MIN_FIT:
            raise UserError(
                f"finetune.answer.temperature: fit needs {MIN_FIT} validation items that serve for nothing else; there "
                f"are {len(items)}, a quarter of all. Give more data, a larger data.validation_share, or a number."
            )

    def check_adapter(self, adapter: Path) -> None:
        """Refuse an adapter that was trained on another base model: it would load, and answer nonsense.

        Raises:
            ModelGoneError: the base model is not the one that it was trained on, by content.
        """
        found = base_model.identity(self.base)
        if self.identity != found:
            raise ModelGoneError(
                f"The adapter in {adapter} was trained on the base model {self.identity}, and {self.base} is {found} "
                "now. Put that one back, or fine-tune again."
            )

    def save(self, folder: Path) -> None:
        """Write the spec: all there is to keep of a model without adapter, whose base is found by its name again."""
        fields = {"base": self.base, "quantization": self.quantization, "device": self.device, "dtype": self.dtype}
        fields["identity"] = None if self.base == "." else base_model.identity(self.base)
        sections = {"prompt": self.prompt.model_dump(), "answer": self.answer.model_dump()}
        text = json.dumps({"predictor": "language", **fields, **sections}, indent=1)
        (folder / "predictor.json").write_text(text, encoding="utf-8")
        if self.comparables is not None:
            self.comparables.save(folder / COMPARABLES)
        if self.opinions is not None:
            self.opinions.save(folder / OPINIONS)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; a base of "." is the folder itself.

        Raises:
            UserError: it was written by a version that knows settings which this one does not.
        """
        fields = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
        try:
            sections = Prompt(**fields["prompt"]), Answer(**fields["answer"])
        except ValidationError as error:
            settings = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
            raise UserError(
                f"The model in {folder} was saved by another version of Pricewright: this one does not know its "
                f"settings ({settings}). Load it with that version, or fine-tune again with this one."
            ) from error
        base = str(folder) if fields["base"] == "." else fields["base"]
        options = {name: fields[name] for name in ("device", "dtype", "identity") if name in fields}
        if (file := folder / COMPARABLES).is_file():
            from tasks.models.language.retrieval import Comparables

            options["comparables"] = Comparables.load(file)
        if (place := folder / OPINIONS).is_dir():
            from tasks.models.language.opinions import Opinions

            options["opinions"] = Opinions.load(place)
        return cls(base, fields["quantization"], *sections, **options)


def untuned(finetune: Finetune) -> Finetune:
    """The conf of the base model beside a fine-tuned one: it answers in text, and is told what stands in words."""
    answer = finetune.answer.model_copy(update={"by": "text"})
    return finetune.model_copy(update={"prompt": in_words(finetune.prompt, finetune.answer), "answer": answer})


class LanguageModel:
    """A language model with its tokenizer, ready to price items: by its words, or by a head if it has one."""

    def __init__(
        self,
        spec: ModelSpec,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        head: PriceHead | None = None,
    ) -> None:
        self.spec, self.model, self.tokenizer, self.head = spec, model, tokenizer, head
        prompt = spec.prompt
        self.trie = build_trie(tokenizer, prompt.lowest, prompt.highest, prefix=prompt.prefix, suffix=prompt.suffix)
        self.prices = in_dollars(self.trie.prices, prompt.unit)

    def predict(self, items: Sequence[Item], what: str | None = None) -> Predictions:
        """Price the items by the estimate of the spec; `what` is how the progress is called.

        An estimate of the distribution comes with it and with its 10% and 90% quantiles, greedy text with neither.
        """
        if self.spec.answer.estimate == GREEDY:
            return self._read_text(items, what)
        probabilities, mass = self.distribution(items, what)
        answer = self.spec.answer
        assert answer.temperature != "fit", "a model whose temperature is to be fitted is asked after `calibrated`"
        probabilities = temper(probabilities, answer.temperature)
        price = ESTIMATORS[answer.estimate](probabilities, self.prices)
        low, high = (quantile(probabilities, self.prices, share) for share in (0.1, 0.9))
        return Predictions(price, low, high, mass, Distribution(self.prices, probabilities))

    def distribution(self, items: Sequence[Item], what: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The model's own probabilities [n, k] of `prices`, before any temperature, and their total mass [n]."""
        answer = self.spec.answer
        with Progress(what or self._what(), len(items), "items") as progress:
            if answer.by == "head":
                return self._read_head(items, progress), np.ones(len(items))
            return price_distribution(
                self.model,
                self.trie,
                self.prompts(items),
                batch_tokens=answer.batch_tokens,
                prune=answer.prune,
                closing=answer.closing,
                progress=progress.advance,
            )

    def texts(self, items: Sequence[Item], told: Told | None = None) -> list[str]:
        """Each item's prompt; what is told of the items is looked up unless it is given.

        Raises:
            ValueError: comparables or opinions belong into it, and the spec was made without training items.
        """
        words = in_words(self.spec.prompt, self.spec.answer)
        return render(items, words, self.tokenizer, told or self.spec.told(items, words))

    def numbers(self, told: Told, count: int) -> np.ndarray:
        """What a head is told of each of `count` items [count, k], as logarithms of prices: the opinions, then the
        comparables and the middle half of these."""
        prompt = self.spec.prompt
        columns = [np.log1p(each) for each in (told.opinions, told.prices) if each is not None]
        if prompt.spread and told.spread is not None:
            columns.append(np.log1p(told.spread))
        return np.concatenate([np.zeros((count, 0)), *columns], axis=1)

    def prompts(self, items: Sequence[Item], told: Told | None = None) -> list[list[int]]:
        """The token ids of each item's prompt."""
        return self.tokenizer(self.texts(items, told))["input_ids"] if items else []

    def states(self, prompts: Sequence[list[int]], advance: Callable[[int], None] = lambda _: None) -> torch.Tensor:
        """The hidden states [n, hidden] from which the first token after each of the prompts [n] is written; `advance`
        is told how many more are done."""
        import torch

        from tasks.models.language.price_head import last_states

        lengths, weight = np.array([len(ids) for ids in prompts], dtype=int), self.model.get_input_embeddings().weight
        found = torch.zeros((len(prompts), weight.shape[1]), device=weight.device)
        with evaluating(self.model), torch.inference_mode():
            for rows in batches(lengths, 0, self.spec.answer.batch_tokens, 1):
                batch = self.tokenizer.pad(
                    {"input_ids": [prompts[row] for row in rows]}, padding_side="right", return_tensors="pt"
                ).to(weight.device)
                last = batch["attention_mask"].sum(dim=1) - 1
                found[rows] = last_states(self.model, batch["input_ids"], batch["attention_mask"], last).float()
                advance(len(rows))
        return found

    def generate(self, items: Sequence[Item], what: str | None = None) -> list[str]:
        """The most probable continuation of each prompt, token by token, as long as the longest price is."""
        import torch

        prompts, prompt = self.prompts(items), self.spec.prompt
        longest = len(self.tokenizer(f"{prompt.highest}{prompt.suffix}", add_special_tokens=False)["input_ids"])
        lengths, vocabulary = np.array([len(ids) for ids in prompts], dtype=int), len(self.tokenizer)
        texts = [""] * len(prompts)
        with Progress(what or self._what(), len(items), "items") as progress, evaluating(self.model):
            for rows in batches(lengths, longest, self.spec.answer.batch_tokens, vocabulary):
                batch = self.tokenizer.pad(
                    {"input_ids": [prompts[row] for row in rows]}, padding_side="left", return_tensors="pt"
                ).to(self.model.get_input_embeddings().weight.device)
                with torch.inference_mode():
                    written = self.model.generate(
                        **batch,
                        max_new_tokens=longest,
                        **MOST_PROBABLE,
                        use_cache=True,
                        pad_token_id=self.tokenizer.pad_token_id,
                    )[:, batch["input_ids"].shape[1] :]
                for row, text in zip(rows, self.tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
                    texts[row] = text
                progress.advance(len(rows))
        return texts

    def calibrated(self, items: Sequence[Item]) -> LanguageModel:
        """This model with the temperature that fits the items' prices best, if its spec asks for one; else itself.

        Raises:
            UserError: there are too few items to tell.
        """
        if self.spec.answer.temperature != "fit":
            return self
        if self.spec.answer.estimate == GREEDY:
            temperature = 1.0  # the most probable text is the same at any temperature
        else:
            self.spec.check_fit(items)
            truth = np.array([item.price for item in items])
            probabilities, _ = self.distribution(items, "fitting the temperature")
            temperature = fit_temperature(probabilities, self.prices, truth)
        answer = self.spec.answer.model_copy(update={"temperature": temperature})
        return LanguageModel(dataclasses.replace(self.spec, answer=answer), self.model, self.tokenizer, self.head)

    def save(self, folder: Path) -> None:
        """Write the spec and, if there are, the adapter and the head."""
        self.spec.save(folder)
        if hasattr(self.model, "peft_config"):
            self.model.save_pretrained(folder / "adapter", save_embedding_layers=False)
        if self.head is not None:
            self.head.save(folder / "adapter")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the base model and put the adapter of `folder` on it, if it holds one."""
        adapter = folder / "adapter" if (folder / "adapter").is_dir() else None
        language = cls.of(ModelSpec.load(folder), adapter)
        if adapter is None:
            language.head = language._head_of(folder)  # of a model whose adapter was merged into it
        return language

    @classmethod
    def of(cls, spec: ModelSpec, adapter: Path | None = None, settings: Settings | None = None) -> Self:
        """Load the base model of a spec, with an adapter if given; `settings` are worked out here unless they are.

        Raises:
            UserError: the adapter belongs to another base model, or this one has changed since.
        """
        if adapter is not None:
            spec.check_adapter(adapter)
        tokenizer = base_model.load_tokenizer(spec.base)
        model = base_model.load_model(spec.base, settings or spec.settings())
        plain = cls(spec, model, tokenizer)
        return plain if adapter is None else plain.with_adapter(adapter)

    def with_adapter(self, adapter: Path) -> Self:
        """This model, which has none, with an adapter on its layers; `model.unload()` of what is returned takes it off.

        Raises:
            UserError: its layers are of other sizes.
        """
        from peft import PeftModel

        try:
            tuned: Any = PeftModel.from_pretrained(self.model, adapter).eval()
        except RuntimeError as error:
            raise UserError(f"The adapter in {adapter} does not fit {self.spec.base}: {error}") from error
        return type(self)(self.spec, tuned, self.tokenizer, self._head_of(adapter))

    def _head_of(self, folder: Path) -> PriceHead | None:
        if self.spec.answer.by == "text":
            return None
        from tasks.models.language.price_head import FILE, PriceHead

        if not (folder / FILE).is_file():
            raise UserError(f"{folder} has no {FILE}, by which this model answers. Fine-tune or export it again.")
        return PriceHead.load(folder).to(self.model.get_input_embeddings().weight.device)

    def _read_head(self, items: Sequence[Item], progress: Progress) -> np.ndarray:
        import torch

        assert self.head is not None, "a spec that answers by a head belongs to a model that was loaded with one"
        known = self.spec.told(items, self.spec.prompt)
        states = self.states(self.prompts(items, known), progress.advance)
        told = torch.from_numpy(self.numbers(known, len(items))).float().to(states.device)
        found = np.zeros((len(items), len(self.prices)))
        with torch.inference_mode():
            for start in range(0, len(items), READ):
                rows = slice(start, start + READ)
                found[rows] = self.head.read(states[rows], told[rows], self.prices)
        return found

    def _what(self) -> str:
        adapter = " and its adapter" if hasattr(self.model, "peft_config") else ""
        return f"pricing with {self.spec.base}{adapter}"

    def _read_text(self, items: Sequence[Item], what: str | None) -> Predictions:
        prompt = self.spec.prompt
        numbers = [parse(text) for text in self.generate(items, what)]
        unparsable = np.array([number is None for number in numbers], dtype=bool)
        price = np.array([np.nan if number is None else number for number in numbers], dtype=float)
        points = Predictions.points(prompt.unit * np.clip(price, prompt.lowest, prompt.highest))
        return dataclasses.replace(points, unparsable=unparsable)

"""The real embedded model, in 4 bits, as the default run uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.config.loading import load
from tasks.data.items import Item
from tasks.models.language.model import LanguageModel, ModelSpec, untuned
from tasks.models.language.price_distribution import price_distribution
from tasks.models.language.prompts import render


@pytest.mark.slow
def test_the_embedded_model_prices_exactly_in_4_bits(items: list[Item]) -> None:
    """Untuned, it puts most of its probability on prices; the tree gives each number the probability that the model
    gives its tokens one after the other."""
    import torch

    language = LanguageModel.of(ModelSpec.of(untuned(load("conf/laptop.yaml").finetune)))
    texts = render(items[:3], language.spec.prompt, language.tokenizer)
    prompts = language.tokenizer(texts)["input_ids"]
    probabilities, mass = price_distribution(language.model, language.trie, prompts, closing=0)
    assert ((mass > 0.5) & (mass <= 1)).all()

    def alone(prompt: list[int], number: int) -> float:
        # A number of three digits is ended by the range; a shorter one by the stop.
        answer = language.tokenizer(f"{number}." if number < 100 else str(number))["input_ids"]
        ids = torch.tensor([prompt + answer])
        with torch.inference_mode():
            logits = language.model(input_ids=ids).logits[0].double().log_softmax(-1)
        return float(np.exp(sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))))

    for row, prompt in enumerate(prompts):
        for number in (5, 20, 129):
            assert probabilities[row, number] * mass[row] == pytest.approx(alone(prompt, number), rel=2e-3, abs=1e-5)
    answer = language.predict(items[:3])
    assert ((answer.low <= answer.price) & (answer.price <= answer.high)).all()


def test_a_damaged_model_in_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that was changed, with the size as it was, or a file cut short: found by digest in the next process."""
    from tasks import cache
    from tasks.models.language import base_model

    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path))
    weights = Path(base_model.locate(base_model.TINY)) / "model.safetensors"
    good = weights.read_bytes()
    for damaged in (good[:-1] + bytes([good[-1] ^ 1]), good[:1000]):
        weights.write_bytes(damaged)
        cache._known_whole.clear()  # as in a new process
        base_model.locate(base_model.TINY)
        assert weights.read_bytes() == good

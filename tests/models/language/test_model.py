"""A language model answers by its distribution or by its words, in the unit it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.config.loading import load
from tasks.data.items import Item
from tasks.errors import UserError
from tasks.finetuning import check
from tasks.models.language.base_model import load_model
from tasks.models.language.estimators import TEMPERATURES, median
from tasks.models.language.hardware import Hardware, settings
from tasks.models.language.model import LanguageModel, ModelSpec
from tasks.models.predictor import Predictions
from tasks.scoring.predictions import from_table, to_table

SMOKE = "conf/smoke.yaml"


def language(*overrides: str) -> LanguageModel:
    return LanguageModel.of(ModelSpec.of(load(SMOKE, ["finetune.quantization=null", *overrides]).finetune))


def test_a_distribution_comes_with_its_answer(items: list[Item]) -> None:
    """Price and interval are quantiles of the distribution that is handed out with them."""
    answer = language().predict(items[:5])
    shown = answer.distribution
    assert shown.probabilities.shape == (5, 1000) and answer.mass.shape == (5,)
    np.testing.assert_allclose(answer.price, median(shown.probabilities, shown.prices))
    assert ((answer.low <= answer.price) & (answer.price <= answer.high)).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_computes_in_what_its_conf_said_wherever_it_is_loaded(
    items: list[Item], tmp_path: Path, dtype: str
) -> None:
    """Saved and loaded again it is of the same dtype, and gives the same prices."""
    model = language("finetune.device=cpu", f"finetune.dtype={dtype}")
    model.save(tmp_path)
    again = LanguageModel.load(tmp_path)
    for one in (model, again):
        assert {str(parameter.dtype) for parameter in one.model.parameters()} == {f"torch.{dtype}"}
    np.testing.assert_array_equal(again.predict(items[:3]).price, model.predict(items[:3]).price)


def test_four_bit_weights_do_not_depend_on_what_is_computed_in() -> None:
    """An adapter trained in bfloat16 on one machine finds the very same base model on another that takes float32."""
    import torch
    from bitsandbytes.nn import Linear4bit

    models = {
        dtype: load_model("tiny-random", settings(Hardware("cpu"), {"load_in_4bit": True}, {}, dtype))
        for dtype in ("float32", "bfloat16")
    }
    one, other = ([m.weight for m in model.modules() if isinstance(m, Linear4bit)] for model in models.values())
    for kept, same in zip(one, other, strict=True):
        torch.testing.assert_close(kept.data, same.data, rtol=0, atol=0)
        torch.testing.assert_close(kept.quant_state.absmax, same.quant_state.absmax, rtol=0, atol=0)
    for dtype, model in models.items():
        assert str(model(torch.tensor([[1]])).logits.dtype) == str(model.dtype) == f"torch.{dtype}"


def test_greedy_text_is_what_one_at_a_time_writes_and_never_crashes(items: list[Item]) -> None:
    """Batched and padded as alone; what is no price is counted and left open, and there is no interval."""
    import torch

    model = language("finetune.answer.estimate=greedy")
    texts = model.generate(items[:6])
    for ids, text in zip(model.prompts(items[:6]), texts, strict=True):
        with torch.inference_mode():
            written = model.model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert model.tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True) == text
    answer = model.predict(items[:6])
    assert (np.isnan(answer.price) == answer.unparsable).all()
    assert answer.distribution is None and np.isnan(answer.low).all()


def test_greedy_text_is_the_most_probable_whatever_penalties_a_base_model_brings(items: list[Item]) -> None:
    """They would fall on the prices that a prompt tells."""
    model = language("finetune.answer.estimate=greedy")
    plain = model.generate(items[:8])
    model.model.generation_config.update(repetition_penalty=5.0, num_beams=3, no_repeat_ngram_size=1)
    assert model.generate(items[:8]) == plain


def test_words_are_read_in_the_unit_of_the_prompt(items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cents become dollars, a number out of range the nearest in range, and a refusal no price at all."""
    model = language("finetune.answer.estimate=greedy", "finetune.prompt.unit=0.01", "finetune.prompt.highest=99999")
    said = ["1,250.00", "I cannot say", "9" * 12, ""]
    monkeypatch.setattr(model, "generate", lambda *_: said)
    answer = model.predict(items[:4])
    np.testing.assert_array_equal(answer.price, [12.5, np.nan, 999.99, np.nan])
    assert answer.unparsable.tolist() == [False, True, False, True]


def test_cents_are_a_matter_of_conf(items: list[Item]) -> None:
    """With a unit of a cent the same model answers the same numbers, a hundredth of a dollar each, to the last bit;
    so, too, when they are kept: an interval that ends at 1.13 holds an item that costs it."""
    dollars, cents = language(), language("finetune.prompt.unit=0.01")
    asked = items[:3]
    answer = cents.predict(asked)
    np.testing.assert_allclose(answer.price, dollars.predict(asked).price / 100)
    assert answer.distribution.prices.tolist() == [float(f"{number / 100:.2f}") for number in range(1000)]
    kept = from_table(to_table(asked, answer))
    assert [kept.low.tolist(), kept.high.tolist()] == [answer.low.tolist(), answer.high.tolist()]


def test_a_fitted_temperature_is_a_number_from_then_on(items: list[Item], tmp_path: Path) -> None:
    """It comes from the items given, is saved with the model, and changes the answer's width; too few are refused."""
    model = language("finetune.answer.temperature=fit")
    with pytest.raises(UserError, match="16 validation items"):
        model.calibrated(items[:3])
    fitted = model.calibrated(items[:20])
    temperature = fitted.spec.answer.temperature
    assert temperature in TEMPERATURES
    fitted.save(tmp_path)
    assert LanguageModel.load(tmp_path).spec.answer.temperature == temperature
    plain = language()
    assert plain.calibrated([]) is plain
    fixed, wide = language(f"finetune.answer.temperature={temperature}"), language("finetune.answer.temperature=3")
    np.testing.assert_array_equal(fitted.predict(items[:4]).price, fixed.predict(items[:4]).price)
    widths = [np.mean(answer.high - answer.low) for answer in (wide.predict(items[:4]), plain.predict(items[:4]))]
    assert widths[0] > widths[1]


def test_predictions_are_kept_whole(items: list[Item], tmp_path: Path) -> None:
    """Written and read again, a distribution gives the same CRPS to one part in a million, and points stay points."""
    from tasks.scoring.metrics import measure

    answer, truth = language().predict(items[:8]), [item.price for item in items[:8]]
    pq.write_table(to_table(items[:8], answer), tmp_path / "kept.parquet")
    again = from_table(pq.read_table(tmp_path / "kept.parquet"))
    assert measure(truth, again) == {
        key: value if value is None else pytest.approx(value, rel=1e-6) for key, value in measure(truth, answer).items()
    }
    points = from_table(to_table(items[:8], Predictions.points(np.arange(8))))
    assert points.distribution is None and points.unparsable is None and points.price.tolist() == list(range(8))


def test_a_head_that_cannot_answer_is_said(tmp_path: Path) -> None:
    """One that shall write text, in several processes, or whose file is gone; and settings of another version."""
    for wrong, said in (
        (["finetune.answer.estimate=greedy"], "a head writes no text"),
        (["finetune.prompt.opinions=[ridge]"], "no model 'ridge'"),
    ):
        with pytest.raises(UserError, match=said):
            ModelSpec.of(load(SMOKE, ["finetune.answer.by=head", *wrong]).finetune)
    with pytest.raises(UserError, match=r"a head is trained in one process alone"):
        check(load(SMOKE, ["finetune.answer.by=head", "finetune.processes=2"]))
    conf = load(SMOKE, ["finetune.quantization=null", "finetune.answer.by=head"]).finetune
    ModelSpec.of(conf).save(tmp_path)
    with pytest.raises(UserError, match=r"has no price_head\.safetensors"):
        LanguageModel.load(tmp_path)
    file = tmp_path / "predictor.json"
    file.write_text(file.read_text().replace('"by": "head"', '"by": "song", "verse": 2'))
    with pytest.raises(UserError, match=r"another version of Pricewright.*by, verse"):
        ModelSpec.load(tmp_path)

"""What a run ends with: plain sentences that its figures bear out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.config.experiment import Answer, Evaluate, Experiment, Finetune, Prompt
from tasks.data.items import Item
from tasks.data.splits import Dataset
from tasks.models.language.prompts import in_words
from tasks.models.predictor import Predictions
from tasks.report import conclusion as page
from tasks.report.conclusion import conclusion, told, tuning
from tasks.report.standings import Standings
from tasks.scoring.comparisons import compare
from tasks.scoring.record import PREDICTIONS, Record
from tasks.scoring.resampling import Comparison
from tasks.scoring.rows import Row, predictions_table
from tests.scoring.made import noisy, prices


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            Comparison(19.8, 10.8, 29.0, 0.0001, 200),
            "Fine-tuning took $19.80 off the error of its base model, from $93.75 to $73.91 "
            "(95% interval 10.80 to 29.00).",
        ),
        (
            Comparison(1.5, -2.0, 5.0, 0.4, 200),
            "Fine-tuning took $1.50 off the error of its base model, from $93.75 to $73.91 "
            "(95% interval -2.00 to 5.00), which chance alone can explain.",
        ),
        (
            Comparison(-4.0, -7.0, -1.0, 0.01, 200),
            "Fine-tuning added $4.00 to the error of its base model, from $93.75 to $73.91 "
            "(95% interval 1.00 to 7.00).",
        ),
        (Comparison(0.0, 0.0, 0.0, 1.0, 200), "Fine-tuning left the error of its base model as it was, $93.75."),
    ],
    ids=["less", "perhaps less", "more", "the same"],
)
def test_what_fine_tuning_brought_is_said_with_its_certainty(found: Comparison, said: str) -> None:
    """In dollars, with the direction in the verb and not in a sign."""
    assert tuning((93.75, 73.91 if found.difference else 93.75), found, "$") == said


def test_what_fine_tuning_brought_on_some_items_says_on_how_many() -> None:
    """Where the base model left items without a price, the errors of all that each priced say nothing together."""
    said = tuning((8.26, 5.06), Comparison(3.2, 2.0, 4.4, 0.001, 60), "$", whole=False)
    assert ", from $8.26 to $5.06 on the 60 items that both priced (95% interval 2.00 to 4.40)." in said


@pytest.mark.parametrize(
    ("prompt", "by", "found", "said"),
    [
        (
            Prompt(opinions=["network", "boosting"]),
            "head",
            Comparison(-2.35, -4.8, 0.12, 0.06, 200),
            "It is told what network and boosting say, and its base model is not: it is $2.35 worse than network alone "
            "(95% interval -0.12 to 4.80), which chance alone can explain.",
        ),
        (
            Prompt(opinions=["network"]),
            "text",
            Comparison(1.5, 0.5, 2.5, 0.01, 200),
            "It is told what network says, and so is its base model: it is $1.50 better than network alone "
            "(95% interval 0.50 to 2.50).",
        ),
        (
            Prompt(opinions=["network"]),
            "head",
            Comparison(0.0, 0.0, 0.0, 1.0, 200),
            "It is told what network says, and its base model is not: its error is that of network alone.",
        ),
        (
            Prompt(opinions=["network", "boosting"], comparables=8),
            "head",
            None,
            "It is told what network and boosting say, and its base model is not.",
        ),
        (
            Prompt(comparables=8),
            "head",
            None,
            "It is told what similar products cost, and its base model is not.",
        ),
        (Prompt(comparables=8), "text", None, ""),
        (Prompt(comparables=8, titles=8), "head", None, ""),
        (Prompt(), "head", None, ""),
    ],
)
def test_what_a_tuned_model_is_told_is_not_said_to_come_from_fine_tuning(
    prompt: Prompt, by: str, found: Comparison | None, said: str
) -> None:
    """Beside the gain over its base model stands how it fares against a model whose opinion it is told."""
    to_base = in_words(prompt, Answer.model_validate({"by": by}))
    assert told(prompt, to_base, None if found is None else ("network", found), "$") == said


class Kept:
    """A run that keeps what is logged with it, for whoever reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.logged = folder, {}

    def log_json(self, content: Any, name: str) -> None:
        self.logged[name] = content

    def read_json(self, name: str) -> Any:
        return self.logged[name]

    def artifact(self, name: str) -> Path:
        return self.folder / name


def test_figures_are_of_the_items_that_both_priced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base model left the dear ones unpriced; of two models whose opinions are told, validation names the best."""
    truth, random = prices(0, 100)
    guesses = {name: noisy(truth, random, 0.5) for name in ("base", "finetuned", "network", "boosting")}
    priced = truth < np.quantile(truth, 0.6)
    guesses["base"][~priced] = np.nan
    kinds = dict.fromkeys(guesses, "baseline") | {"base": "base", "finetuned": "finetuned"}
    found = compare(truth, guesses, kinds, seed=0, resamples=200)
    rows = [Row(name, kind).measured(found[name]) for name, kind in kinds.items()]
    items = [Item(f"{place:03}", "a", "b", price=price) for place, price in enumerate(truth)]
    pq.write_table(
        predictions_table(items, {name: Predictions.points(price) for name, price in guesses.items()}),
        tmp_path / PREDICTIONS,
    )
    run: Any = Kept(tmp_path)
    validation = {"network": 30.0, "boosting": 20.0, "finetuned": 10.0}
    Record(rows, [], validation, None, None, Dataset("made", "d", "", {}), "files", {}, []).keep(run)
    monkeypatch.setattr(page, "read_run", lambda *_: run)
    asked = Finetune(prompt=Prompt(opinions=["network", "boosting"]), answer=Answer(by="head"))
    experiment = Experiment(finetune=asked, evaluate=Evaluate(resamples=200))

    _, brought, source = conclusion(experiment, "id", Standings(rows, generated=False, commit=""))

    error = {name: np.abs(price - truth) for name, price in guesses.items()}
    ends = [f"${error[name][priced].mean():.2f}" for name in ("base", "finetuned")]
    assert f", from {ends[0]} to {ends[1]} on the 60 items that both priced (" in brought
    behind = error["finetuned"].mean() - error["boosting"].mean()
    assert f"it is ${abs(behind):.2f} {'worse' if behind > 0 else 'better'} than boosting alone" in source

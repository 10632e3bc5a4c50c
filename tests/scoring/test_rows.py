"""What a row says of a model's speed, however often that was measured, and of a blend's interval."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tasks import evaluation
from tasks.baselines import fit_baselines
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.items import Item
from tasks.data.splits import Dataset
from tasks.evaluation import evaluate
from tasks.export import export
from tasks.models.blend import MIN_ITEMS
from tasks.models.classic import Classic
from tasks.models.intervals import conformal
from tasks.models.predictor import Distribution, Predictions, Predictor
from tasks.promotion import promote
from tasks.scoring import predictions
from tasks.scoring.contest import truth
from tasks.scoring.predictions import recall
from tasks.scoring.record import Record, open_run
from tasks.scoring.roles import Roles
from tasks.scoring.rows import Row, last_metric, row_of
from tasks.scoring.wording import amount
from tasks.tracking.registry import CHAMPION
from tasks.tracking.runs import StageRun
from tasks.tracking.stages import stage
from tasks.tracking.store import model_folder

pytestmark = pytest.mark.usefixtures("without_prefect")


def test_the_last_measurement_counts_and_that_on_these_items_before_any_other(experiment: Experiment) -> None:
    """A model that several datasets share, or that was asked again, keeps every figure that was logged."""
    with stage(experiment, "evaluate", "d1", command="") as run:
        entry = run.log_absent("one", "api", "ran", None, external=True)
        for dataset, seconds in (("a", 1.0), ("b", 2.0), ("a", 3.0), ("b", 4.0)):
            on = {"dataset_name": "shop-test", "dataset_digest": dataset}
            run.log_metrics({"test_seconds_per_1000": seconds}, model_id=entry.model_id, **on)
        asked = {dataset: row_of(run, entry, None, None, dataset).predict_ms for dataset in "abc"}
        assert asked == {"a": 3.0, "b": 4.0, "c": 4.0}


def test_an_answer_is_worth_the_same_now_and_found_again_to_the_last_bit(experiment: Experiment) -> None:
    """Its probabilities are kept in 32 bits: an evaluation that was made again had another CRPS in its tenth digit."""
    random = np.random.default_rng(0)
    items = [Item(str(n), "thing", "", price=float(random.uniform(1, 900))) for n in range(20)]
    chances = Distribution(np.arange(1000.0), random.dirichlet(np.full(1000, 0.05), 20))
    dataset = Dataset("shop", "d1", "", {"test": 20})
    with stage(experiment, "evaluate", "d2", command="") as run:
        entry = run.log_absent("one", "base", "ran", None, external=True)
        made = Predictions(*np.full((3, 20), 9.0), distribution=chances)
        given: dict[str, Any] = {"dataset": dataset, "split": "test", "seed": 0, "resamples": 100}
        now, later = (predictions.score(run, entry.model_id, items, lambda: made, **given) for _ in range(2))
        assert now.distribution is not None and later.distribution is not None and later is not made
        assert (now.distribution.crps(truth(items)) == later.distribution.crps(truth(items))).all()
        crps = float(now.distribution.crps(truth(items)).mean())
        assert last_metric(run.client.get_logged_model(entry.model_id), "test_crps", "d1") == crps
        predictions.score(run, entry.model_id, items, lambda: made, **{**given, "split": "all"})
        measured = run.client.get_logged_model(entry.model_id).metrics or []
        names = {metric.dataset_name for metric in measured if metric.key.endswith("crps")}
        assert names == {"shop-test", "shop-validation-all"}


def test_loading_a_model_is_no_part_of_what_an_item_takes(
    tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is loaded to answer the test items first, too: a clock that loading moves by an hour, and an answer for
    one item by a millisecond."""
    words = ["finetune.enabled=false", "evaluate.api=[]", "baselines.models=[constant]"]
    experiment = load("conf/smoke.yaml", [*at(tmp_path), *words])
    dataset = curate(experiment)
    candidates, clock = fit_baselines(experiment, dataset), [0.0]
    fetch, ask = evaluation.load_predictor, Classic.predict

    def fetched(folder: Path) -> Predictor:
        clock[0] += 3600
        return fetch(folder)

    def asked(model: Classic, items: Sequence[Item]) -> Predictions:
        clock[0] += 0.001 * len(items)
        return ask(model, items)

    monkeypatch.setattr(evaluation, "load_predictor", fetched)
    monkeypatch.setattr(Classic, "predict", asked)
    monkeypatch.setattr(predictions, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    rows = Record.read(open_run(experiment, evaluate(experiment, dataset, candidates).run_id)).rows
    assert next(row.predict_ms for row in rows if row.model == "constant") == pytest.approx(1.0)


@pytest.fixture(scope="module")
def blended(tmp_path_factory: pytest.TempPathFactory, at: Callable) -> tuple[Experiment, Dataset, StageRun]:
    """An evaluation of two classic models and their blend that was made twice."""
    words = ["finetune.enabled=false", "evaluate.api=[]", "baselines.models=[tfidf_ridge,basic_features]"]
    experiment = load("conf/smoke.yaml", [*at(tmp_path_factory.mktemp("blended")), *words])
    dataset = curate(experiment)
    candidates = fit_baselines(experiment, dataset)
    evaluate(experiment, dataset, candidates)
    return experiment, dataset, open_run(experiment, evaluate(experiment, dataset, candidates, "again").run_id)


def test_a_blend_that_is_scored_again_takes_as_long_as_its_members(blended: tuple) -> None:
    """And not as long as they took the first time and this time together."""
    run = blended[-1]
    rows = {row.model: row for row in Record.read(run).rows}
    params = run.client.get_logged_model(rows["blend"].model_id).params
    members = [key.removeprefix("weight.") for key in params if key.startswith("weight.")]
    assert len(members) == 2 and rows["blend"].predict_ms == pytest.approx(sum(rows[n].predict_ms for n in members))


def test_the_interval_of_a_blend_is_that_of_its_answers_on_items_that_did_not_weigh_it(blended: tuple) -> None:
    """As it is served, too."""
    experiment, dataset, run = blended
    judged = Roles.of(experiment, dataset).selection
    model_id = next(row.model_id for row in Record.read(run).rows if row.model == "blend")
    answers, served = recall(run, model_id, "selection", judged), model_folder(run.client, model_id)
    assert answers is not None and len(judged) > MIN_ITEMS
    spread = json.loads((served / "predictor.json").read_text(encoding="utf-8"))["spread"]
    assert spread == pytest.approx(conformal(truth(judged), answers.price))


def test_an_error_has_one_interval_wherever_it_stands(blended: tuple, tmp_path: Path) -> None:
    """On the leaderboard, on the model, which other resamples may have scored before, and on an exported card."""
    experiment, dataset, run = blended
    fewer = experiment.evaluate.model_copy(update={"resamples": 300})
    again = experiment.model_copy(update={"evaluate": fewer})

    def check(run: StageRun) -> dict[str, Row]:
        rows = {row.model: row for row in Record.read(run).rows if row.mae_low is not None}
        for row in rows.values():
            model = run.client.get_logged_model(row.model_id)
            known = [last_metric(model, f"test_mae_{end}", dataset.digest) for end in ("low", "high")]
            assert known == pytest.approx([row.mae_low, row.mae_high]), row.model
        return rows

    before = check(run)
    run = open_run(again, evaluate(again, dataset, fit_baselines(again, dataset)).run_id)
    champion = check(run)[promote(again, run.id).model]
    assert champion.mae_high != before[champion.model].mae_high
    export(again, tmp_path / "taken", CHAMPION)
    ends = " to ".join(amount(end or 0.0, "$") for end in (champion.mae_low, champion.mae_high))
    assert f" | {ends} |" in (tmp_path / "taken" / "README.md").read_text()

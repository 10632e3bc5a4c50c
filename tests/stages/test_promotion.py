"""A champion is judged on what it does not know, at a level that thirty looks cannot wear out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import yaml

from flows.cli.serving import Limits, serve
from tasks import promotion
from tasks.baselines import fit_baselines
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.catalogue import generate
from tasks.data.items import Item
from tasks.data.splits import Part
from tasks.errors import ModelGoneError, UserError
from tasks.evaluation import evaluate
from tasks.export import export
from tasks.models.loading import load_rules
from tasks.promotion import MIN_UNSEEN, NUMBERS, Champion, Duel, spent_alpha
from tasks.report.board import read_leaderboard
from tasks.report.headline import headline
from tasks.report.standings import read_standings
from tasks.report.tables import as_markdown
from tasks.scoring.contest import Contest
from tasks.scoring.origin import Origin
from tasks.scoring.record import PREDICTIONS, open_run
from tasks.scoring.resampling import Comparison
from tasks.tracking.reading import latest_evaluation
from tasks.tracking.registry import CHALLENGER, CHAMPION, looks, version_of
from tasks.tracking.runs import MODEL_ID, Candidate, candidate
from tasks.tracking.store import connect, local_path
from tests.smoke import command
from tests.waiting import free_port

pytestmark = pytest.mark.usefixtures("without_prefect")
QUICK = ["finetune.enabled=false", "evaluate.api=[]", "evaluate.resamples=200", "data.source=files", "data.near=null"]


@pytest.fixture
def night(tmp_path: Path, at: Callable) -> Callable[..., tuple[Experiment, Champion]]:
    """One run of the classic models named, on so many products of one growing catalogue, whose fields may be called in
    another way."""
    rows = list(generate(900, seed=4))

    def run(models: str, count: int, *overrides: str, **called: str) -> tuple[Experiment, Champion]:
        named = [{called.get(key, key): value for key, value in row.items()} for row in rows[:count]]
        (tmp_path / "shop.jsonl").write_text("\n".join(map(json.dumps, named)))
        words = [*at(tmp_path), *QUICK, f"data.path={tmp_path}/shop.jsonl", f"baselines.models=[{models}]", *overrides]
        experiment = load("conf/smoke.yaml", words)
        dataset = curate(experiment)
        scores = evaluate(experiment, dataset, fit_baselines(experiment, dataset))
        return experiment, promotion.promote(experiment, scores.run_id)

    return run


def test_alpha_is_spent_over_all_looks_together() -> None:
    """However many nights: the levels add up to no more than alpha, and the first gets half."""
    assert spent_alpha(0.05, 1) == 0.025
    assert sum(spent_alpha(0.05, look) for look in range(1, 10_000)) <= 0.05


def test_the_incumbent_is_not_judged_on_items_it_was_trained_on(night: Callable) -> None:
    """Another seed moves items between the splits: nearly all test items are the incumbent's training items, on which
    nobody could beat it. The model of its name, fitted today, takes its place; another one does not."""
    _, first = night("neighbours", 700, "seed=1")
    assert first.decision == "no incumbent"
    _, other = night("random", 700, "seed=2")
    assert other.model == "neighbours" and f"and {MIN_UNSEEN} are needed to compare it with random" in other.decision
    experiment, again = night("neighbours", 700, "seed=2")
    assert "fitted on today's data" in again.decision
    assert "new to the incumbent" in version_of(experiment, CHAMPION).tags["decision"]


def test_a_card_has_figures_on_items_that_the_champion_never_learned_from(night: Callable, tmp_path: Path) -> None:
    """Also after it stayed on splits whose test items it was trained on; and it says how it became champion. In an
    evaluation that has it as a row, it has the figures of that one."""

    def exported() -> tuple[dict, str]:
        folder = tmp_path / f"taken-{len(list(tmp_path.glob('taken-*')))}"
        export(experiment, folder, CHAMPION)
        text = (folder / "README.md").read_text()
        return yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"][0], text

    experiment, _ = night("tfidf_ridge", 700)
    before = exported()
    _, after = night("random", 700, "data.test_share=0.4")
    assert after.model == "tfidf_ridge" and "more left out since the incumbent knows them" in after.decision
    assert exported() == before and "| how it came to be promoted | no incumbent |" in before[1]
    experiment, _ = night("tfidf_ridge", 700, "evaluate.resamples=300")
    results, text = exported()
    assert results == before[0] and text != before[1]


def test_grown_data_are_compared_on_the_items_that_are_new(night: Callable) -> None:
    """Items never move when data grow, so every test item is new to the incumbent; each comparison is a look of its
    own, at a lower level, and the same one asked again is the same look."""
    night("random", 600)
    experiment, second = night("constant", 900)
    assert "beats the incumbent" in second.decision and "at level 0.025 of look 1" in second.decision
    _, third = night("basic_features,constant", 900, "seed=42")
    looked = version_of(experiment, CHAMPION).tags
    assert third.decision.endswith("items") and looked["look"] == "2" and looked["alpha"] == "0.008333"
    assert night("basic_features,constant", 900)[1].model == third.model
    assert version_of(experiment, CHAMPION).tags["look"] == "2"
    _, fewer = night("random", 890)
    assert "of look 3" in fewer.decision  # test items that are nearly the same are no reason to count anew


def test_an_evaluation_whose_predictions_are_gone_takes_the_title_from_nobody(night: Callable) -> None:
    """What is missing there is not the incumbent's fault."""
    night("constant", 600)
    experiment, second = night("random", 900)
    assert second.model == "constant"
    run_id = latest_evaluation(experiment)
    assert run_id is not None
    open_run(experiment, run_id).artifact(PREDICTIONS).unlink()
    with pytest.raises(FileNotFoundError):
        promotion.promote(experiment, run_id)
    champion = version_of(experiment, CHAMPION)
    assert champion and candidate(connect(experiment).get_logged_model(champion.tags[MODEL_ID])).name == "constant"


@pytest.mark.parametrize(("step", "again"), [("register", "at level 0.025 of look 1"), ("describe", "is still the")])
def test_a_look_counts_although_the_process_dies_before_or_after_the_crown(
    night: Callable, monkeypatch: pytest.MonkeyPatch, step: str, again: str
) -> None:
    """Asked again, it is the same look with the same decision; the next comparison is the second one."""
    night("random", 600)

    def dies(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(promotion, step, dies)
        night("constant", 900)
    _, crowned = night("constant", 900)
    assert crowned.model == "constant" and again in crowned.decision
    _, following = night("basic_features,constant", 900, "seed=42")
    assert "at level 0.00833 of look 2" in following.decision


def test_a_test_that_cannot_decide_leaves_the_incumbent(night: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model left most items without a price, or where no p-value could be small enough after so many looks; the
    reason is said, and it is no look."""
    night("random", 600)
    answers = Duel.answers

    def few(duel: Duel, model_id: str, items: Sequence[Item], of: np.ndarray | None) -> np.ndarray:
        prices = answers(duel, model_id, items, of).copy()
        prices[MIN_UNSEEN - 1 :] = np.nan
        return prices

    with monkeypatch.context() as patch:
        patch.setattr(Duel, "answers", few)
        _, after = night("constant", 900)
    assert after.model == "random" and f"only {MIN_UNSEEN - 1} of the" in after.decision
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "looks", lambda *_: [str(look) for look in range(300)])
        _, worn = night("constant", 900)
    assert worn.model == "random" and "after 300 comparisons the significance level is 5.5e-07" in worn.decision
    assert "at level 0.025 of look 1" in night("constant", 900)[1].decision


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (ConnectionError("no route to the hub"), False),
        (OSError(28, "No space left on device"), False),
        (UserError("finetune.base: the hub is not reached"), False),
        (AttributeError("'Tree' object has no attribute 'of_old'"), False),
        (ModelGoneError("The base model is another one now"), True),
    ],
)
def test_only_a_champion_that_is_gone_gives_way_unasked(
    night: Callable, monkeypatch: pytest.MonkeyPatch, error: Exception, gone: bool
) -> None:
    """What may be there again tomorrow, or with another version, leaves it where it is, and the reason is said."""
    night("constant", 600)

    def fails(_: Path) -> None:
        raise error

    monkeypatch.setattr(promotion, "load_predictor", fails)
    _, after = night("tfidf_ridge", 900)
    assert after.model == ("tfidf_ridge" if gone else "constant") and str(error) in after.decision


def test_a_model_that_leaves_items_without_a_price_comes_behind(
    night: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However close its other prices are; among such models the closest comes first. It does not enter the blend."""
    whole = Contest.answer

    def gaps(*names: str) -> None:
        def answer(
            contest: Contest, entry: Candidate, part: Part, items: Sequence[Item], *rest: Any, **more: Any
        ) -> Any:
            found = whole(contest, entry, part, items, *rest, **more)
            if entry.name in names and part != "test":
                unpriced = (item.id for item in items if crc32(item.id.encode()) % 8 == 0)
                contest.validation[entry.name] |= dict.fromkeys(unpriced, np.nan)
            return found

        monkeypatch.setattr(Contest, "answer", answer)

    gaps("tfidf_ridge")
    assert night("tfidf_ridge,basic_features,constant", 700)[1].model == "basic_features"
    gaps("tfidf_ridge", "basic_features", "constant")
    assert night("tfidf_ridge,basic_features,constant", 720, "promote.name=other")[1].model == "tfidf_ridge"


def test_a_part_without_items_is_not_asked_about(night: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked about a blend of no items, also no language model that would be worth it."""
    monkeypatch.setattr(Contest, "promising", lambda *_: True)
    assert night("constant", 600, "evaluate.blend_items=0")[1].decision == "no incumbent"


@pytest.mark.parametrize("gone", ["files", "model"])
def test_a_champion_that_is_gone_does_not_block_promotion(night: Callable, gone: str) -> None:
    """From the disk or MLflow. It cannot be served either: the challenger takes its place, and the reason is said; the
    numbers of the comparison that this one lost before are gone from its version."""
    experiment, _ = night("tfidf_ridge", 600)
    night("constant", 600)
    lost = version_of(experiment, CHALLENGER).tags
    assert "does not beat" in lost["decision"] and lost.keys() >= set(NUMBERS)
    model_id = version_of(experiment, CHAMPION).tags[MODEL_ID]
    model = connect(experiment).get_logged_model(model_id)
    if gone == "files":
        shutil.rmtree(local_path(model.artifact_location))
    else:
        connect(experiment).delete_logged_model(model_id)
    _, after = night("constant", 600)
    assert after.model == "constant" and "can no longer be asked" in after.decision
    crowned = version_of(experiment, CHAMPION).tags
    assert candidate(connect(experiment).get_logged_model(crowned[MODEL_ID])).name == "constant"
    assert crowned["decision"] == after.decision and not crowned.keys() & set(NUMBERS)


def test_a_small_difference_keeps_its_digits() -> None:
    """Between models of screws, a tenth of a cent is no "-0.00"; dollars have their cents."""

    def told(*numbers: float) -> tuple[str, list[str]]:
        result = Comparison(*numbers, p_value=0.001, n=900)
        duel = SimpleNamespace(names={"c": "boosting"}, challenger="c")
        tags = promotion._numbers(result, 0.025, 1)
        return Duel._told(duel, result, True, 0.025, 1), [tags[name] for name in NUMBERS[:3]]

    said, tags = told(-0.0031, -0.00421, 0.000019)
    assert "the incumbent: -0.0031 (-0.00421 to +0.000019), p = 0.001, at level 0.025 of look 1; 900 items" in said
    assert tags == ["-0.0031", "-0.00421", "0.000019"]
    said, tags = told(-3.1, -12.3456, 0.5)
    assert "the incumbent: -3.10 (-12.35 to +0.50), p = 0.001" in said and tags == ["-3.1000", "-12.3456", "0.5000"]


def test_each_dataset_has_a_champion_of_its_own(night: Callable, tmp_path: Path) -> None:
    """A run on other products does not take the alias that prices these; a conf may name one for both."""
    experiment, mine = night("constant", 600)
    assert mine.name == "pricewright-shop"
    other = load("conf/smoke.yaml", [*QUICK, f"data.path={tmp_path}/Other Shop.v2.csv"])
    assert other.registered_model == "pricewright-Other-Shop-v2"
    assert load("conf/smoke.yaml").registered_model == "pricewright-sample"
    assert load("conf/smoke.yaml", ["promote.name=one"]).registered_model == "one"
    assert version_of(experiment, CHAMPION) is not None


def test_a_champion_goes_by_the_conf_that_gave_its_splits(
    night: Callable, at: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule or the name of a column may change without an effect on any item. Then nothing is fitted again, and texts
    and files are read as the conf says now, by `predict`, `serve` and `export`. A conf that gave no such splits, or
    has not been run, changes no cleaning; a file is read by its columns all the same."""
    served: list[Any] = []
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: None)
    monkeypatch.setattr("mlflow.pyfunc.scoring_server.init", served.append)
    file = tmp_path / "shop.jsonl"
    words = [*at(tmp_path), *QUICK, f"data.path={file}"]

    def prices(*overrides: str) -> list[float | None]:
        """Of a text that is a part number alone, and of a file."""
        asked = ["-c", "conf/smoke.yaml", *words, *overrides, "--file", str(file)]
        status, said = command("predict", "AB12345678X", *asked, "--json")
        assert status == 0, said
        return [row["price"] for row in json.loads(said)]

    before = ["data.columns.title=Artikel", "data.part_numbers=scrub"]
    _, first = night("tfidf_ridge", 300, *before, title="Artikel")
    part, *rest = prices(*before)
    assert part is None and len(rest) == 300 and None not in rest
    today = ["data.columns.title=Name", "data.part_numbers=keep"]
    file.write_text(file.read_text().replace('"Artikel":', '"Name":'))
    assert prices(*today) == [None, *rest]
    experiment, second = night("tfidf_ridge", 300, *today, title="Name")
    assert second.version == first.version
    part, *others = prices(*today)
    assert part is not None and others == rest
    serve(experiment, "127.0.0.1", free_port(), Limits())
    assert served[0].predict(["AB12345678X"])["price"].tolist() == [pytest.approx(part, abs=0.01)]
    export(experiment, tmp_path / "taken", CHAMPION)
    assert load_rules(tmp_path / "taken").part_numbers == "keep"
    assert prices("data.rows=9", "data.columns.title=Name")[0] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["data.source=sample", "data.rows=600", "data.path=null"], "was trained on products of shop"),
        (["data.currency=[€]"], "has prices in $, and these are in €"),
    ],
)
def test_a_champion_of_other_prices_gives_way(night: Callable, change: list[str], said: str) -> None:
    """Generated products or a shop's, dollars or euros: where one name is given to both, the one says nothing about the
    other, and no look at the test items is spent on it."""
    night("constant", 600, "promote.name=one")
    experiment, after = night("random", 600, "promote.name=one", *change)
    assert after.model == "random" and after.decision == f"the incumbent {said}, so random takes its place"
    assert looks(experiment) == []


def test_errors_are_shown_in_the_currency_of_the_data(night: Callable) -> None:
    """Where a champion comes from, in the report's sentences and in every table."""
    experiment, _ = night("constant", 600, "data.currency=[€, EUR]")
    assert "€" in str(Origin.read(version_of(experiment, CHAMPION).tags))
    run_id = latest_evaluation(experiment)
    assert run_id is not None
    standings, board = read_standings(experiment, run_id), read_leaderboard(experiment, run_id)
    for text in (headline(standings.rows, board.unit)[0], as_markdown(standings.rows, unit=standings.unit)):
        assert "€" in text and "$" not in text

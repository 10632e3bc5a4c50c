"""Who becomes champion, by which rule, and what of it is written down."""

from __future__ import annotations

import json

import pytest

from tasks.config.loading import load
from tasks.models.language.estimators import TEMPERATURES
from tasks.tracking.registry import BEST_CHECKPOINT, CHALLENGER, CHAMPION, version_of
from tasks.tracking.runs import MODEL_ID
from tasks.tracking.store import connect, experiment_id, model_folder
from tests.smoke import command


def ledger(conf: str) -> list:
    """All of MLflow that a promotion could touch."""
    experiment = load(conf)
    client = connect(experiment)
    where = experiment_id(experiment)
    versions = [(v.name, v.version, v.tags, v.aliases) for v in client.search_model_versions()]
    models = client.search_logged_models([where])
    kept = [sorted(info.path for info in client.list_logged_model_artifacts(m.model_id, "predictions")) for m in models]
    metrics = [sorted((x.key, x.value) for x in m.metrics or []) for m in models]
    runs = [(run.info.run_id, run.info.status, run.data.metrics) for run in client.search_runs([where])]
    return [sorted(map(str, versions)), kept, metrics, sorted(map(str, runs))]


def test_a_dry_run_says_who_would_win_and_changes_nothing(conf: str) -> None:
    """With no incumbent, with one that was evaluated elsewhere, and with the champion itself. An evaluation speaks of
    a champion only where there is one, and of no contest."""
    name = ("promote.name=dry", "finetune.enabled=false")
    assert command("baselines", "-c", conf, *name, "baselines.models=[random]")[0] == 0
    status, said = command("evaluate", "-c", conf, *name, "baselines.models=[random]")
    assert status == 0 and "from an earlier run" not in said
    before = ledger(conf)
    status, said = command("promote", "-c", conf, *name, "baselines.models=[random]", "--dry-run")
    assert status == 0 and "no incumbent" in said and "Nothing was changed" in said
    assert ledger(conf) == before
    assert command("promote", "-c", conf, *name, "baselines.models=[random]")[0] == 0
    status, said = command("evaluate", "-c", conf, *name)
    assert status == 0 and "The champion of dry is from an earlier run.\n" in said
    before = ledger(conf)
    status, said = command("promote", "-c", conf, *name, "--dry-run")
    assert status == 0 and "incumbent" in said
    assert ledger(conf) == before


def test_a_decision_and_its_numbers_are_tags_and_the_loser_is_challenger(conf: str) -> None:
    """Who did not beat the champion keeps an alias and the reason; who does beat it takes the champion's, not both."""
    words = ("-c", conf, "promote.name=duel", "finetune.enabled=false", "finetune.base=tiny-random")
    assert command("run", *words)[0] == 0
    experiment = load(conf, ["promote.name=duel"])
    first = version_of(experiment, CHAMPION)
    assert first.tags["decision"] == "no incumbent" and version_of(experiment, CHALLENGER) is None
    status, said = command("run", *words, "baselines.models=[random,constant]")
    champion, loser = version_of(experiment, CHAMPION), version_of(experiment, CHALLENGER)
    assert champion.version == first.version != loser.version
    assert champion.tags == first.tags  # how it became champion, and its figures
    assert status == 0 and f"The champion of duel is from an earlier run ({loser.tags['decision']})." in said
    assert "does not beat the incumbent" in loser.tags["decision"]
    assert float(loser.tags["difference_low"]) <= float(loser.tags["difference"])
    assert float(loser.tags["p_value"]) <= 1 and int(loser.tags["n"]) > 10
    assert loser.tags["alpha"] == "0.025" and loser.tags["look"] == "1"
    assert command("run", *words)[0] == 0  # the champion is the challenger again
    assert version_of(experiment, CHALLENGER) is None


def test_a_challenger_must_beat_the_champion_by_a_paired_test(conf: str) -> None:
    """With an incumbent, the alias moves only on evidence, and the decision is written on the version."""
    words = ("-c", conf, "promote.name=contest", "finetune.enabled=false")
    client = connect(load(conf))
    assert command("run", *words, "baselines.models=[random]")[0] == 0
    assert command("run", *words, "baselines.models=[random,constant,tfidf_ridge]")[0] == 0
    version = client.get_model_version_by_alias("contest", "champion")
    assert "beats the incumbent" in version.tags["decision"]
    assert float(version.tags["p_value"]) < 0.05
    assert command("run", *words, "baselines.models=[random]")[0] == 0
    kept = client.get_model_version_by_alias("contest", "champion")
    assert kept.version == version.version and kept.tags["decision"] == version.tags["decision"]
    loser = client.get_model_version_by_alias("contest", "challenger")
    assert "does not beat the incumbent" in loser.tags["decision"]


def test_a_fitted_temperature_goes_through_the_whole_pipeline(conf: str) -> None:
    """Each checkpoint keeps its own; with too few items left to fit on, the training does not even start."""
    words = ("-c", conf, "promote.name=fitted", "baselines.models=[random]", "finetune.answer.temperature=fit")
    few = (*words, "data.validation_share=0.05")
    assert command("curate", *few)[0] == 0
    status, said = command("finetune", *few)
    assert status == 2 and "Give more data" in said
    words = (*words, "data.validation_share=0.2")
    assert command("run", *words)[0] == 0
    experiment = load(conf, ["promote.name=fitted"])
    version = version_of(experiment, BEST_CHECKPOINT)
    fields = json.loads((model_folder(connect(experiment), version.tags[MODEL_ID]) / "predictor.json").read_text())
    assert fields["answer"]["temperature"] in TEMPERATURES
    rows = {row["model"]: row for row in json.loads(command("leaderboard", "--json", *words)[1])}
    assert rows["finetuned"]["crps"] > 0 and 0 <= rows["finetuned"]["coverage"] <= 1 and rows["random"]["crps"] is None


def test_greedy_answers_that_are_no_price_cannot_win(conf: str) -> None:
    """A model that says nothing readable keeps its row with the share of such answers, and another is champion."""
    words = ("-c", conf, "promote.name=greedy", "baselines.models=[random]", "finetune.answer.estimate=greedy")
    assert command("run", *words, "evaluate.machine_per_hour=2")[0] == 0
    told = command("leaderboard", "--json", *words, "evaluate.machine_per_hour=2")[1]
    rows = {row["model"]: row for row in json.loads(told)}
    assert rows["finetuned"]["unparsable"] == 1 - rows["finetuned"]["n"] / rows["random"]["n"] > 0
    assert rows["finetuned"]["cost_per_1000"] == pytest.approx(rows["finetuned"]["predict_ms"] * 2 / 3600)
    assert rows["random"]["champion"]

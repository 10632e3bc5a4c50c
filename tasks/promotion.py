"""Promote: the challenger becomes champion when there is none, or when it beats the one there is by a paired test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config.experiment import Experiment
from tasks.data.splits import Dataset, read_split
from tasks.digests import digest
from tasks.models.loading import load_predictor
from tasks.models.predictor import Predictions
from tasks.report.board import dataset_of, open_run
from tasks.scoring.comparisons import paired_comparison
from tasks.scoring.metrics import absolute_error
from tasks.scoring.predictions import kept_as, recall, score
from tasks.tracking.registry import BEST_CHECKPOINT, CHALLENGER, CHAMPION, register, registered, withdraw
from tasks.tracking.runs import StageRun, candidate
from tasks.tracking.stages import once
from tasks.tracking.store import model_folder


@dataclass(frozen=True)
class Champion:
    """The champion of the registered model, and how it came to be; `version` is None where nothing was registered."""

    name: str
    version: str | None
    model: str
    decision: str


@dataclass(frozen=True)
class Decision:
    """Which LoggedModel is to be champion and why, which one tried in vain, and what the test said, for the tags."""

    winner: str
    loser: str | None
    reason: str
    tags: dict[str, Any] = field(default_factory=dict)


@task(name="promote", cache_policy=NO_CACHE)
def promote(experiment: Experiment, run_id: str, dry_run: bool = False) -> Champion:
    """Decide between the challenger of an evaluation and the incumbent, and put the aliases where they belong.

    It takes no stage run of its own: asked again, it comes to the same decision and changes nothing. With `dry_run` it
    decides, and leaves MLflow as it is.
    """
    run = open_run(experiment, run_id)
    board = run.read_json("leaderboard.json")
    with once(digest({"promote": experiment.promote.name})):
        decision = _decide(run, experiment, board, keep=not dry_run)
        version = None if dry_run else _apply(experiment, board, decision, run_id)
    model = candidate(run.client.get_logged_model(decision.winner))
    name = model.name if model.step is None else f"{model.name} step {model.step}"
    return Champion(experiment.promote.name, version, name, decision.reason)


def _apply(experiment: Experiment, board: dict[str, Any], decision: Decision, run_id: str) -> str:
    tags = {"dataset": board["dataset"]["digest"], "evaluation": run_id}
    if board["best_checkpoint"]:
        register(experiment, board["best_checkpoint"], BEST_CHECKPOINT, tags)
    if decision.loser is None:
        withdraw(experiment, CHALLENGER)
    else:
        register(experiment, decision.loser, CHALLENGER, tags | decision.tags)
    return register(experiment, decision.winner, CHAMPION, tags | decision.tags)


def _decide(run: StageRun, experiment: Experiment, board: dict[str, Any], *, keep: bool) -> Decision:
    challenger, incumbent = board["challenger"], registered(experiment, CHAMPION)
    if incumbent is None:
        return Decision(challenger, None, "no incumbent", {"decision": "no incumbent"})
    if incumbent == challenger:  # how it came to be champion stays on its version
        return Decision(challenger, None, "the champion is still the challenger")
    dataset = dataset_of(experiment, board)
    truth = np.array([item.price for item in read_split(dataset, "test")])
    result = paired_comparison(
        absolute_error(truth, _answers(run, board, dataset, incumbent, keep=keep)),
        absolute_error(truth, _answers(run, board, dataset, challenger, keep=keep)),
        seed=experiment.seed,
        resamples=experiment.evaluate.resamples,
    )
    wins = result.difference < 0 and result.p_value < experiment.promote.alpha
    span = f"{result.difference:+.2f} ({result.low:+.2f} to {result.high:+.2f}), p = {result.p_value:.3g}"
    verb = "beats" if wins else "does not beat"
    reason = f"{_names(board)[challenger]} {verb} the incumbent: {span}, {result.n} items"
    numbers = {
        "difference": f"{result.difference:.4f}",
        "difference_low": f"{result.low:.4f}",
        "difference_high": f"{result.high:.4f}",
        "p_value": f"{result.p_value:.4g}",
        "alpha": experiment.promote.alpha,
        "n": result.n,
    }
    tags = {"decision": reason, "incumbent": incumbent, "challenger": challenger, **numbers}
    return Decision(challenger, None, reason, tags) if wins else Decision(incumbent, challenger, reason, tags)


def _answers(run: StageRun, board: dict[str, Any], dataset: Dataset, model_id: str, *, keep: bool) -> np.ndarray:
    """The test guesses [n] of a model: from this evaluation, from what it kept, or made now (and kept, if asked to)."""
    items = read_split(dataset, "test")
    names = _names(board)
    if model_id in names:
        frame = pq.read_table(run.artifact("predictions.parquet")).to_pandas()
        rows = frame[frame["model"] == names[model_id]].set_index("id")
        return rows.loc[[item.id for item in items], "price"].to_numpy()

    def ask() -> Predictions:
        return load_predictor(model_folder(run.client, model_id)).predict(items)

    if keep:
        return score(run, model_id, items, ask, dataset=dataset, split="test").price
    return (recall(run, model_id, kept_as("test", items)) or ask()).price


def _names(board: dict[str, Any]) -> dict[str, str]:
    return {row["model_id"]: row["model"] for row in board["rows"]}

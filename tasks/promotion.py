"""Promote: the challenger becomes champion when there is none, or when it beats the one there is by a paired test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config import Experiment
from tasks.leaderboard import open_run
from tasks.metrics import absolute_error, paired_comparison
from tasks.predictors import Predictions
from tasks.predictors.loading import load_predictor
from tasks.registry import BEST_CHECKPOINT, CHAMPION, register, registered
from tasks.scoring import score
from tasks.splits import Dataset, read_split
from tasks.tracking import StageRun, candidate, model_folder


@dataclass(frozen=True)
class Champion:
    """The champion of the registered model, and how it came to be."""

    name: str
    version: str
    model: str
    decision: str


@task(name="promote", cache_policy=NO_CACHE)
def promote(experiment: Experiment, run_id: str) -> Champion:
    """Decide between the challenger of an evaluation and the incumbent, and put the aliases where they belong.

    It takes no stage run of its own: asked again, it comes to the same decision and changes nothing.
    """
    run = open_run(experiment, run_id)
    board = run.read_json("leaderboard.json")
    challenger, incumbent = board["challenger"], registered(experiment, CHAMPION)
    tags = {"dataset": board["dataset"]["digest"], "evaluation": run_id}
    if board["best_checkpoint"]:
        register(experiment, board["best_checkpoint"], BEST_CHECKPOINT, tags)
    if incumbent is None or incumbent == challenger:
        winner, decision = challenger, "no incumbent" if incumbent is None else "the champion is still the challenger"
        tags |= {} if incumbent else {"decision": decision}
    else:
        winner, decision, numbers = _duel(run, experiment, board, challenger, incumbent)
        tags |= {"decision": decision, **numbers}
    version = register(experiment, winner, CHAMPION, tags)
    model = candidate(run.client.get_logged_model(winner))
    name = model.name if model.step is None else f"{model.name} step {model.step}"
    return Champion(experiment.promote.name, version, name, decision)


def _duel(
    run: StageRun, experiment: Experiment, board: dict[str, Any], challenger: str, incumbent: str
) -> tuple[str, str, dict[str, Any]]:
    dataset = Dataset(**{key: value for key, value in board["dataset"].items() if key != "source"})
    items = read_split(dataset, "test")
    truth = np.array([item.price for item in items])
    names = {row["model_id"]: row["model"] for row in board["rows"]}
    frame = pq.read_table(run.artifact("predictions.parquet")).to_pandas()

    def answers(model_id: str) -> np.ndarray:
        rows = frame[frame["model"] == names[model_id]].set_index("id")
        return rows.loc[[item.id for item in items], "price"].to_numpy()

    def ask() -> Predictions:
        return load_predictor(model_folder(run.client, incumbent)).predict(items)

    if incumbent in names:
        theirs = answers(incumbent)
    else:
        theirs = score(run, incumbent, items, ask, dataset=dataset, split="test").price
    result = paired_comparison(
        absolute_error(truth, theirs),
        absolute_error(truth, answers(challenger)),
        seed=experiment.seed,
        resamples=experiment.evaluate.resamples,
    )
    wins = result.difference < 0 and result.p_value < experiment.promote.alpha
    numbers = {"difference": f"{result.difference:.4f}", "p_value": f"{result.p_value:.4g}", "n": result.n}
    span = f"{result.difference:+.2f} ({result.low:+.2f} to {result.high:+.2f}), p = {result.p_value:.3g}"
    verb = "beats" if wins else "does not beat"
    decision = f"{names[challenger]} {verb} the incumbent: {span}, {result.n} items"
    return (challenger if wins else incumbent), decision, numbers

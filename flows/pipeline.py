"""The whole experiment, from raw rows to a champion."""

from __future__ import annotations

from prefect import State, flow
from prefect.states import Cancelled

from flows.artifacts import Report, show_leaderboard, watch_progress
from flows.schedule import drop_late, missed
from tasks.baselines import fit_baselines
from tasks.config.experiment import Experiment
from tasks.config.loading import DEFAULT_CONF, load
from tasks.curation import curate
from tasks.data.splits import Dataset
from tasks.evaluation import check_outside, evaluate
from tasks.finetuning import check as check_finetuning
from tasks.finetuning import finetune
from tasks.models.language.suitability import check_base
from tasks.promotion import promote
from tasks.tracking.runs import Candidate, Mode


@flow(name="pricewright", flow_run_name="run {conf}", on_running=[drop_late, watch_progress])
def pipeline(conf: str = DEFAULT_CONF, overrides: tuple[str, ...] = (), again: bool = False) -> Report | State:
    """Curate, fit, fine-tune, evaluate, promote; returns the evaluation's run and its report.

    Args:
        conf: the YAML of the experiment.
        overrides: `key=value` pairs that replace values of the conf, such as `data.rows=500`.
        again: run every stage again, even if it is finished.
    """
    experiment, mode = load(conf, overrides), mode_of(again)
    if reason := missed(experiment.schedule):
        return Cancelled(message=reason)
    check_outside(experiment)
    if experiment.finetune.enabled:
        check_finetuning(experiment)  # a misspelt setting should not wait for its stage
    else:
        check_base(experiment.finetune)  # it is scored all the same
    dataset = curate(experiment, mode)
    candidates = fit_candidates(experiment, dataset, mode)
    scores = evaluate(experiment, dataset, candidates, mode)
    promote(experiment, scores.run_id)
    return show_leaderboard(experiment, scores.run_id, conf, overrides)


def fit_candidates(experiment: Experiment, dataset: Dataset, mode: Mode) -> list[Candidate]:
    """The models that learn from the data, as far as the conf wants them."""
    fitted = fit_baselines(experiment, dataset, mode) if experiment.baselines.enabled else []
    tuned = finetune(experiment, dataset, mode) if experiment.finetune.enabled else []
    return [*fitted, *tuned]


def mode_of(again: bool) -> Mode:
    """How a stage treats what is done already."""
    return "again" if again else "reuse"

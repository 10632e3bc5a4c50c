"""The whole experiment, from raw rows to a champion."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import State, flow
from prefect.states import Cancelled

from flows.addresses import configured_server
from flows.artifacts import Report, show_leaderboard, watch_progress
from flows.schedule import drop_late, missed
from tasks.baselines import fit_baselines
from tasks.config.experiment import Experiment
from tasks.config.loading import DEFAULT_CONF, command_of, load
from tasks.curation import curate
from tasks.data.splits import Dataset
from tasks.errors import UserError
from tasks.evaluation import Scores, check_outside, evaluate, worth_another_try
from tasks.finetuning import check as check_finetuning
from tasks.finetuning import finetune
from tasks.models.language.model import ModelSpec, untuned
from tasks.models.language.suitability import check_base
from tasks.progress import outlook
from tasks.promotion import promote
from tasks.report.publishing import publish
from tasks.tracking.runs import Candidate, Mode
from tasks.tracking.stages import took


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
    scores = None if again else finished(experiment)
    if scores is None:
        check_language_model(experiment)
        outlook.expect(took(experiment, stages_of(experiment)))
        dataset = curate(experiment, mode)
        candidates = fit_candidates(experiment, dataset, mode)
        scores = evaluate(experiment, dataset, candidates, mode)
    promote(experiment, scores.run_id)
    return show_leaderboard(experiment, scores.run_id, conf, overrides)


def unchanged(experiment: Experiment, conf: str, overrides: Sequence[str]) -> Report | None:
    """The report of a pipeline in which nothing is to be done any more; None where there is work, or where somebody's
    Prefect server wants to see every run: a server of its own, for nothing, would take most of the time.

    Raises:
        UserError: a file of external predictions is not there.
    """
    check_outside(experiment)
    if configured_server() or (scores := finished(experiment)) is None:
        return None
    promote.fn(experiment, scores.run_id)
    report, _ = publish(experiment, scores.run_id, command_of(conf, overrides))
    return Report(scores.run_id, str(report))


def finished(experiment: Experiment) -> Scores | None:
    """The evaluation of this conf, data and code, if all that it is made of is still there; None if there is work."""
    try:
        scores = recall_scores(experiment)
    except UserError:
        return None
    return None if worth_another_try(experiment, scores.digest) else scores


def recall_scores(experiment: Experiment, mode: Mode = "recall") -> Scores:
    """The evaluation of this conf, data and code, if there is one; to be read, it need not have its models any more.

    Raises:
        UserError: a stage is not finished for it.
    """
    dataset = curate(experiment, mode)
    return evaluate(experiment, dataset, fit_candidates(experiment, dataset, mode), mode)


def check_language_model(experiment: Experiment) -> None:
    """Refuse a base model or a misspelt setting now, which should not wait for its stage.

    Raises:
        UserError: the base model or a setting is invalid.
    """
    if experiment.finetune.enabled:
        check_finetuning(experiment)
    else:  # the base model is scored all the same
        ModelSpec.of(untuned(experiment.finetune))
        check_base(experiment.finetune)


def stages_of(experiment: Experiment) -> list[str]:
    """The stages that the conf asks for, in their order."""
    fitted = ["baselines"] * experiment.baselines.enabled + ["finetune"] * experiment.finetune.enabled
    return ["curate", *fitted, "evaluate"]


def fit_candidates(experiment: Experiment, dataset: Dataset, mode: Mode) -> list[Candidate]:
    """The models that learn from the data, as far as the conf wants them."""
    fitted = fit_baselines(experiment, dataset, mode) if experiment.baselines.enabled else []
    tuned = finetune(experiment, dataset, mode) if experiment.finetune.enabled else []
    return [*fitted, *tuned]


def mode_of(again: bool) -> Mode:
    """How a stage treats what is done already."""
    return "again" if again else "reuse"

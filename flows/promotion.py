"""The registry's champion by itself, from the evaluation that is there."""

from __future__ import annotations

from prefect import flow

from flows.artifacts import show_leaderboard
from flows.pipeline import fit_candidates
from flows.schedule import drop_late
from tasks.config.experiment import Experiment
from tasks.config.loading import DEFAULT_CONF, load
from tasks.curation import curate
from tasks.evaluation import Scores, evaluate
from tasks.promotion import promote
from tasks.tracking.runs import Mode


@flow(name="promote", flow_run_name="promote {conf}", on_running=[drop_late])
def promotion(conf: str = DEFAULT_CONF, overrides: tuple[str, ...] = (), dry_run: bool = False) -> str:
    """Let the challenger meet the champion; returns who holds the alias now, and why.

    Args:
        conf: the YAML of the experiment.
        overrides: `key=value` pairs that replace values of the conf, such as `data.rows=500`.
        dry_run: say what would happen, and change nothing.
    """
    experiment = load(conf, overrides)
    scores = recall_scores(experiment)
    champion = promote(experiment, scores.run_id, dry_run)
    if dry_run:
        return f"{champion.name}: champion would be {champion.model} ({champion.decision}). Nothing was changed."
    show_leaderboard(experiment, scores.run_id, conf, overrides)
    return f"{champion.name} version {champion.version}: {champion.model} ({champion.decision})"


def recall_scores(experiment: Experiment, mode: Mode = "recall") -> Scores:
    """The evaluation of this conf, data and code, if there is one; to be read, it need not have its models any more."""
    dataset = curate(experiment, mode)
    return evaluate(experiment, dataset, fit_candidates(experiment, dataset, mode), mode)

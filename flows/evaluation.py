"""The leaderboard by itself, over the models that the other stages left."""

from __future__ import annotations

from prefect import flow

from flows.artifacts import Report, show_leaderboard, watch_progress
from flows.pipeline import fit_candidates, mode_of
from flows.schedule import drop_late
from tasks.config.loading import DEFAULT_CONF, load
from tasks.curation import curate
from tasks.evaluation import evaluate


@flow(name="evaluate", flow_run_name="evaluate {conf}", on_running=[drop_late, watch_progress])
def evaluation(conf: str = DEFAULT_CONF, overrides: tuple[str, ...] = (), again: bool = False) -> Report:
    """Score every model and compare them; returns the evaluation's run and its report.

    Args:
        conf: the YAML of the experiment.
        overrides: `key=value` pairs that replace values of the conf, such as `data.rows=500`.
        again: run it again, even if it is finished.
    """
    experiment = load(conf, overrides)
    dataset = curate(experiment, "recall")
    candidates = fit_candidates(experiment, dataset, "recall")
    scores = evaluate(experiment, dataset, candidates, mode_of(again))
    return show_leaderboard(experiment, scores.run_id, conf, overrides)

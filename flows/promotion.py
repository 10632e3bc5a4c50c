"""The registry's champion by itself, from the evaluation that is there."""

from __future__ import annotations

from prefect import flow

from flows.artifacts import show_leaderboard
from flows.pipeline import recall_scores
from flows.schedule import drop_late
from tasks.config.loading import DEFAULT_CONF, load
from tasks.promotion import promote


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

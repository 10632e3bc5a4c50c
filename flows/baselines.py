"""The classic models by themselves, on the data that curation left."""

from __future__ import annotations

from prefect import flow

from flows.artifacts import watch_progress
from flows.pipeline import mode_of
from flows.schedule import drop_late
from tasks.baselines import fit_baselines
from tasks.config.loading import DEFAULT_CONF, load
from tasks.curation import curate


@flow(name="baselines", flow_run_name="baselines {conf}", on_running=[drop_late, watch_progress])
def baselines(conf: str = DEFAULT_CONF, overrides: tuple[str, ...] = (), again: bool = False) -> list[str]:
    """Fit every classic model; returns the ids of their LoggedModels.

    Args:
        conf: the YAML of the experiment.
        overrides: `key=value` pairs that replace values of the conf, such as `data.rows=500`.
        again: run it again, even if it is finished.
    """
    experiment = load(conf, overrides)
    dataset = curate(experiment, "recall")
    return [candidate.model_id for candidate in fit_baselines(experiment, dataset, mode_of(again))]

"""The first stage by itself."""

from __future__ import annotations

from prefect import flow

from flows.artifacts import watch_progress
from flows.pipeline import mode_of
from flows.schedule import drop_late
from tasks.config.loading import DEFAULT_CONF, load
from tasks.curation import curate
from tasks.tracking.store import fetch


@flow(name="curate", flow_run_name="curate {conf}", on_running=[drop_late, watch_progress])
def curation(conf: str = DEFAULT_CONF, overrides: tuple[str, ...] = (), again: bool = False) -> str:
    """Turn raw rows into three frozen splits; returns the folder they lie in.

    Args:
        conf: the YAML of the experiment.
        overrides: `key=value` pairs that replace values of the conf, such as `data.rows=500`.
        again: run it again, even if it is finished.
    """
    return str(fetch(curate(load(conf, overrides), mode_of(again)).path))

"""The first stage by itself."""

from __future__ import annotations

from prefect import flow

from flows.artifacts import watch_progress
from flows.pipeline import mode_of
from tasks.config import DEFAULT_CONF, load
from tasks.curation import curate
from tasks.store import fetch


@flow(name="curate", flow_run_name="curate {conf}", on_running=[watch_progress])
def curation(conf: str = DEFAULT_CONF, overrides: list[str] | None = None, again: bool = False) -> str:
    """Turn raw rows into three frozen splits; returns the folder they lie in.

    Args:
        conf: the experiment's YAML.
        overrides: `key=value` pairs that go over it.
        again: do it even if it is done.
    """
    return str(fetch(curate(load(conf, overrides), mode_of(again)).path))

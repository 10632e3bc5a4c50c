"""QLoRA by itself, on the data that curation left."""

from __future__ import annotations

from prefect import flow

from flows.artifacts import watch_progress
from flows.pipeline import mode_of
from flows.schedule import drop_late
from tasks.config.loading import DEFAULT_CONF, load
from tasks.curation import curate
from tasks.finetuning import check as check_finetuning
from tasks.finetuning import finetune


@flow(name="finetune", flow_run_name="finetune {conf}", on_running=[drop_late, watch_progress])
def finetuning(conf: str = DEFAULT_CONF, overrides: tuple[str, ...] = (), again: bool = False) -> list[str]:
    """Fine-tune the language model; returns the ids of its checkpoints' LoggedModels.

    Args:
        conf: the YAML of the experiment.
        overrides: `key=value` pairs that replace values of the conf, such as `data.rows=500`.
        again: run it again, even if it is finished.
    """
    experiment = load(conf, overrides)
    check_finetuning(experiment)
    dataset = curate(experiment, "recall")
    return [candidate.model_id for candidate in finetune(experiment, dataset, mode_of(again))]

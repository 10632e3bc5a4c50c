"""The registered model of the conf: whose aliases it knows, and how a model comes by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tasks.config import Experiment
from tasks.tracking import MODEL_ID, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, BEST_CHECKPOINT = "champion", "best-checkpoint"


def registered(experiment: Experiment, alias: str) -> str | None:
    """The id of the LoggedModel that has an alias of the registered model of the conf; None if nobody has it."""
    version = _version(connect(experiment), experiment.promote.name, alias)
    return version.tags.get(MODEL_ID) if version else None


def register(experiment: Experiment, model_id: str, alias: str, tags: Mapping[str, Any]) -> str:
    """Give an alias to a model, registering it as a version first if it is none yet; returns the version."""
    client, name = connect(experiment), experiment.promote.name
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}'")
    known = next((version for version in versions if version.tags.get(MODEL_ID) == model_id), None)
    if known is None:
        known = client.create_model_version(name, f"models:/{model_id}", model_id=model_id, tags={MODEL_ID: model_id})
    for key, value in tags.items():
        client.set_model_version_tag(name, known.version, key, str(value))
    client.set_registered_model_alias(name, alias, known.version)
    return str(known.version)


def _version(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException:
        return None

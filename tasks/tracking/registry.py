"""The registered model of the conf: whose aliases it knows, and how a model comes by one."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tasks.config.experiment import Experiment
from tasks.errors import UserError
from tasks.tracking.reading import reader, version_with
from tasks.tracking.runs import MODEL_ID
from tasks.tracking.store import LAYOUT, LAYOUT_TAG, connect, experiment_id, listing, model_address

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, BEST_CHECKPOINT = "champion", "best-checkpoint"
LOOK = "pricewright.look."  # tag of the registered model, for each comparison at test items
CHALLENGER = "challenger"  # the one that last met the champion and did not beat it


def registered(experiment: Experiment, alias: str) -> str | None:
    """The id of the LoggedModel that has an alias of the registered model of the conf; None if nobody has it."""
    version = version_of(experiment, alias)
    return version.tags.get(MODEL_ID) if version else None


def expected(experiment: Experiment, alias: str) -> ModelVersion | SimpleNamespace:
    """The version that has an alias of the registered model of the conf.

    Raises:
        UserError: nobody has it, or its model or the files of that are gone.
    """
    version, remedy = version_of(experiment, alias), "Run: pricewright run, with the same -c and key=value."
    if version is None:
        experiment_id(experiment)  # refuses a store of another layout, which a run would refuse too
        raise UserError(f"{experiment.registered_model} has no {alias} yet. {remedy}")
    asked: Any = reader(experiment)
    named = f"{version.name} version {version.version}, the {alias},"
    try:
        where = model_address(asked, version.tags[MODEL_ID])
    except FileNotFoundError:
        raise UserError(f"The model of {named} was deleted in MLflow. {remedy} It makes another one.") from None
    if not listing(where):
        raise UserError(f"The files of {named} are gone from {where}. {remedy} It makes another one.")
    return version


def register(experiment: Experiment, model_id: str, alias: str, tags: Mapping[str, Any]) -> str:
    """Give an alias to a model, registering it as a version first if it is none yet; returns the version. A tag that is
    None is taken away."""
    client, name = connect(experiment), experiment.registered_model
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    versions = filter(_is_ours, client.search_model_versions(f"name = '{name}'"))
    known = next((version for version in versions if version.tags.get(MODEL_ID) == model_id), None)
    if known is None:
        marks = {MODEL_ID: model_id, LAYOUT_TAG: LAYOUT}
        known = client.create_model_version(name, f"models:/{model_id}", model_id=model_id, tags=marks)
    for key, value in tags.items():
        if value is not None:
            client.set_model_version_tag(name, known.version, key, str(value))
        elif key in known.tags:
            client.delete_model_version_tag(name, known.version, key)
    client.set_registered_model_alias(name, alias, known.version)
    return str(known.version)


def describe(experiment: Experiment, version: str, text: str, *, headline: bool = False) -> None:
    """What MLflow shows at the head of a version, and with `headline` of the registered model too."""
    client, name = connect(experiment), experiment.registered_model
    client.update_model_version(name, version, description=text)
    if headline:
        client.update_registered_model(name, description=text)


def withdraw(experiment: Experiment, alias: str) -> None:
    """Take an alias away, if anybody has it."""
    if version_of(experiment, alias) is not None:
        connect(experiment).delete_registered_model_alias(experiment.registered_model, alias)


def version_of(experiment: Experiment, alias: str) -> ModelVersion | SimpleNamespace | None:
    """The version that has an alias of the registered model of the conf; None if nobody has it, or one that another
    version of Pricewright laid out."""
    found = version_with(experiment, alias)
    return found if found and _is_ours(found) else None


def _is_ours(version: ModelVersion | SimpleNamespace) -> bool:
    return version.tags.get(LAYOUT_TAG) == LAYOUT


def looks(experiment: Experiment) -> list[str]:
    """The names of the comparisons with the champion at test items, in the order they were made."""
    found = connect(experiment).search_registered_models(f"name = '{experiment.registered_model}'")
    tags = dict(found[0].tags) if found else {}
    made = {key.removeprefix(LOOK): int(number) for key, number in tags.items() if key.startswith(LOOK)}
    return sorted(made, key=made.__getitem__)


def note_look(experiment: Experiment, look: str) -> None:
    """Remember a comparison, so that the next one knows of it."""
    before = looks(experiment)
    if look not in before:
        client = connect(experiment)
        client.set_registered_model_tag(experiment.registered_model, f"{LOOK}{look}", str(len(before) + 1))

"""What all sections of an experiment share."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


# Keys are for the environment: a conf is logged, shown and sent on. Known by their end: services name headers freely.
KEY = re.compile(r"(token|key|secret|password|cookie|auth|authorization|credentials?)$", re.IGNORECASE)
NO_KEYS = ("eos_token", "pad_token", "prompt_cache_key")  # of TRL and of OpenAI: they end so, and are none
FROM_ENVIRONMENT = r"\$(\w+|\{\w+\})"
PASSWORD = r"://[^:/@]*:([^@]*)@|[?&](?:password|token)=([^&]*)"  # in an address, with the user beside it


def _without_keys(tree: dict[str, Any]) -> dict[str, Any]:
    for name, value in tree.items():
        if KEY.search(str(name)) and name not in NO_KEYS:
            raise ValueError(f"{name} is a key, and a conf is logged and shown: set it in the environment instead")
        if isinstance(value, dict):
            _without_keys(value)
    return tree


def _without_password(address: str) -> str:
    if re.search(r"://[^:/@]*:[^@/]*@|(?i:https?)://[^/?#@]*@", address):  # a token may stand in the user's place
        raise ValueError(
            "Expected an address without a password, as a conf is logged and shown. Give the store's library "
            "its keys in the environment"
        )
    return address


Options = Annotated[dict[str, Any], AfterValidator(_without_keys)]  # they go straight to a library
Listed = BeforeValidator(lambda one: [one] if isinstance(one, str) else one)  # a list of one may be that one
Place = Annotated[str, AfterValidator(_without_password)]  # a path or an address


def shown(tree: Any) -> Any:
    """A conf as it may be kept and shown: addresses of the web without their query, which may be a signature."""
    if isinstance(tree, dict):
        return {name: shown(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [shown(value) for value in tree]
    return re.sub(r"(?i)^((?:\w+::)*https?://[^?]*)\?.*", r"\1", tree) if isinstance(tree, str) else tree


class Section(BaseModel):
    """A part of the experiment: unknown keys are refused and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

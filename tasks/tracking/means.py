"""By what means a stage was done: libraries, code, device. Where only these differ, it is said why it is done again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.digests import digest

if TYPE_CHECKING:
    from mlflow.entities import Run

MEANS = ("libraries", "code", "computing")  # of what a stage depends on, what no user asks for
MEANS_TAG, ASKED_TAG = "pricewright.means", "pricewright.asked"


def noted(inputs: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a run by which another machine can tell what differs: what was asked for, and by what it was done."""
    means = {key: inputs[key] for key in MEANS if key in inputs}
    asked = {key: value for key, value in inputs.items() if key not in MEANS}
    return {ASKED_TAG: digest(asked), MEANS_TAG: json.dumps(means, sort_keys=True)}


def difference(inputs: Mapping[str, Any], finished: Sequence[Run]) -> str | None:
    """By what other means the same was done last, by name; None if it was not done at all."""
    here = noted(inputs)
    same = [run for run in finished if run.data.tags.get(ASKED_TAG) == here[ASKED_TAG]]
    if not same:
        return None
    before, now = json.loads(same[0].data.tags[MEANS_TAG]), json.loads(here[MEANS_TAG])
    told = []
    for key in MEANS:
        there, wanted = before.get(key), now.get(key)
        if isinstance(there, dict) and isinstance(wanted, dict):
            names = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
            told += [f"{name} {there.get(name)} (here {wanted.get(name)})" for name in names]
        elif there != wanted:
            told.append("other code of this package" if key == "code" else f"{there} (here {wanted})")
    return ", ".join(told) or None

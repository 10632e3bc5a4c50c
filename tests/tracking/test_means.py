"""A worker with another version of a library, or of this package, is told so: nothing is done again in silence."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.config.experiment import Experiment
from tasks.digests import digest
from tasks.errors import UserError
from tasks.tracking.stages import stage

INPUTS = {"models": ["constant"], "seed": 42, "code": "c1", "libraries": {"scipy": "1.17", "torch": "2.13"}}


def done(experiment: Experiment, mode: Any = "reuse", **changed: Any) -> bool:
    """Whether a stage was done already; else it is by then."""
    inputs = INPUTS | changed
    with stage(
        experiment, "baselines", digest(inputs), command="pricewright baselines", mode=mode, inputs=inputs
    ) as run:
        return run.done


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"libraries": {"scipy": "1.18", "torch": "2.13"}}, "the same was done by scipy 1.17 (here 1.18), so it is"),
        ({"code": "c2"}, "the same was done by other code of this package, so it is"),
        ({"libraries": {"torch": "2.13"}, "code": "c2"}, "done by scipy 1.17 (here None), other code of this package"),
        ({"computing": "cuda in bfloat16"}, "the same was done by None (here cuda in bfloat16)"),
    ],
)
def test_other_means_are_named(
    experiment: Experiment, capsys: pytest.CaptureFixture, changed: dict[str, Any], said: str
) -> None:
    """Before the work begins, and in the message of a stage whose inputs are missing."""
    assert not done(experiment)
    with pytest.raises(UserError) as error:
        done(experiment, "recall", **changed)
    assert said.removesuffix(", so it is") in str(error.value) and "pricewright baselines" in str(error.value)
    assert not done(experiment, **changed)
    assert said in capsys.readouterr().err
    assert done(experiment) and done(experiment, **changed)
    assert capsys.readouterr().err == ""


def test_whoever_asks_for_something_else_is_told_nothing(experiment: Experiment, capsys: pytest.CaptureFixture) -> None:
    """Nor whoever wants it done again."""
    assert not done(experiment)
    assert not done(experiment, seed=43, code="c2") and not done(experiment, "again")
    assert capsys.readouterr().err == ""

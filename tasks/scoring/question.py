"""What an evaluation was asked: a conf and its data, whatever machine, libraries and code answered.

The digest of a stage holds all of these, since it says what need not be done again. To read a leaderboard is another
matter: what a machine with a GPU found out is right on a laptop too, which can compute none of those digests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.config.experiment import Experiment, Prompt
from tasks.data.sources import list_files, source_of
from tasks.digests import data_digest, digest, folder_content
from tasks.errors import UserError
from tasks.models.external import contents
from tasks.tracking.reading import latest_evaluation
from tasks.tracking.runs import ASKED, StageRun

# Settings that do not change any figure: paths, device, scheduling.
DATA: Any = {"path": True, "test_path": True, "runner": True}
CALLS: Any = {"human": True, "recorded": True, "api": {"__all__": {"concurrency", "timeout", "retries"}}}
TUNING: Any = dict.fromkeys(("device", "busy", "oversize", "checkpoints_in"), True) | {"answer": {"batch_tokens"}}
UNTUNED = {"enabled", "base", "prompt", "answer", "quantization", "score_items", "dtype"}  # all that counts without it


def question(experiment: Experiment) -> str:
    """The digest of what decides the figures of a leaderboard, as far as the conf and the data do.

    Raises:
        UserError: a file that the conf names is not there.
    """
    data, conf = experiment.data, experiment.finetune
    tuned = conf.model_dump(mode="json", include=None if conf.enabled else UNTUNED, exclude=TUNING)
    return digest(
        {
            "seed": experiment.seed,
            **_encoder(conf.prompt),
            "data": data.model_dump(mode="json", exclude=DATA),
            "source": source_of(data).identity(data, experiment.seed),
            "test": [data_digest(file) for file in list_files(data.test_path)] if data.test_path else None,
            "baselines": experiment.baselines.model_dump(mode="json"),
            "finetune": tuned,
            "base": folder_content(Path(conf.base)) if Path(conf.base).is_dir() else None,
            "evaluate": experiment.evaluate.model_dump(mode="json", exclude=CALLS),
            "external": contents(experiment.evaluate),
        }
    )


def _encoder(prompt: Prompt) -> dict[str, str]:
    """What the folder of a prompt's encoder holds; nothing where there is none, and nothing is loaded for it."""
    if not Path(prompt.encoder).is_dir():
        return {}
    from tasks.models.language.encoder import asked_for

    return {"encoder": folder_content(Path(prompt.encoder))} if asked_for(prompt) else {}


def note(run: StageRun, experiment: Experiment) -> None:
    """Note on an evaluation that it answers the question of this conf; the same one may answer several."""
    tag = f"{ASKED}{question(experiment)}"
    if tag not in run.run.data.tags:
        run.client.set_tag(run.id, tag, "true")


def answered(experiment: Experiment) -> str | None:
    """The id of the newest evaluation that answers the question of this conf; None if there is none."""
    return latest_evaluation(experiment, f"{ASKED}{question(experiment)}")


def expected_answer(experiment: Experiment) -> str:
    """The same, where it must be there.

    Raises:
        UserError: there is none.
    """
    found = answered(experiment)
    if found is None:
        raise UserError(
            "There is no leaderboard for this conf and these data yet. Run `pricewright run` first, with the same -c "
            "and key=value."
        )
    return found

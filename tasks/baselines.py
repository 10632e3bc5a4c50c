"""Baselines: every classic rung fitted on train, scored on validation and kept as a LoggedModel."""

from __future__ import annotations

import difflib
import time

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config import Experiment
from tasks.digests import code_digest, digest
from tasks.errors import UserError
from tasks.predictors.classic import BASELINES, Classic
from tasks.progress import Progress
from tasks.scoring import score
from tasks.splits import Dataset, read_split, sample
from tasks.tracking import Candidate, Mode, StageRun, stage


def fit_baselines(experiment: Experiment, dataset: Dataset, mode: Mode = "reuse") -> list[Candidate]:
    """The classic rungs of the conf; one that fails keeps its row with the reason, and the others stand.

    Raises:
        UserError: a rung has no entry in BASELINES.
    """
    names = experiment.baselines.rungs or list(BASELINES)
    for name in names:
        if name not in BASELINES:
            near = difflib.get_close_matches(name, BASELINES, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Expected names of {', '.join(BASELINES)}."
            raise UserError(f"baselines.rungs: there is no rung {name!r}. {hint}")
    key = digest(
        {
            "stage": "baselines",
            "rungs": names,
            "choice": experiment.finetune.score_items,
            "seed": experiment.seed,
            "dataset": dataset.digest,
            "code": code_digest("tasks.baselines"),
        }
    )
    with stage(experiment, "baselines", key, command="pricewright baselines", mode=mode) as run:
        if not run.done:
            run.log_params({"dataset": dataset.digest, "seed": experiment.seed, "rungs": ", ".join(names)})
            with Progress("fitting baselines", len(names)) as progress:
                for name in names:
                    fit_one(run, name, dataset, experiment)
                    progress.advance()
        return run.candidates()


@task(task_run_name="fit {name}", cache_policy=NO_CACHE)
def fit_one(run: StageRun, name: str, dataset: Dataset, experiment: Experiment) -> None:
    """Fit one rung, keep it, and score it on the validation items that all rungs are chosen on."""
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    start = time.perf_counter()
    try:
        fitted = Classic.fit(name, train, validation, experiment.seed)
    except Exception as error:  # a rung that does not converge or fit into memory must not take the others along
        run.log_absent(name, "baseline", "failed", f"{type(error).__name__}: {error}")
        return
    seconds = time.perf_counter() - start
    params = {"n_train": len(train), "fit_seconds": f"{seconds:.3f}"}
    candidate = run.log_model(fitted.save, name, "baseline", params=params)
    chosen_on = sample(validation, experiment.finetune.score_items, experiment.seed)
    score(run, candidate.model_id, chosen_on, lambda: fitted.predict(chosen_on), dataset=dataset, split="validation")

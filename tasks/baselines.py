"""Baselines: every classic model fitted on train, scored on validation and kept as a LoggedModel."""

from __future__ import annotations

import difflib
import functools
import shutil
import tempfile
import time
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config.experiment import Experiment
from tasks.data.splits import Dataset, read_split
from tasks.digests import code_digest, digest, versions
from tasks.errors import UserError
from tasks.models.classic import BASELINES, Classic
from tasks.progress import Progress
from tasks.scoring.predictions import score
from tasks.tracking.runs import Candidate, Mode, StageRun
from tasks.tracking.stages import stage


def fit_baselines(experiment: Experiment, dataset: Dataset, mode: Mode = "reuse") -> list[Candidate]:
    """The classic models of the conf; one that fails keeps its row with the reason, and the others stand.

    Raises:
        UserError: a model has no entry in BASELINES.
    """
    names = experiment.baselines.models or list(BASELINES)
    for name in names:
        if name not in BASELINES:
            near = difflib.get_close_matches(name, BASELINES, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Expected names of {', '.join(BASELINES)}."
            raise UserError(f"baselines.models: there is no model {name!r}. {hint}")
    inputs = {
        "stage": "baselines",
        "models": names,
        "seed": experiment.seed,
        "near": experiment.data.near,
        "dataset": dataset.digest,
        "libraries": versions("gensim", "numpy", "rensa", "scikit-learn", "scipy", "torch"),
        "code": code_digest("tasks.baselines"),
    }
    command = "pricewright baselines"
    with stage(experiment, "baselines", digest(inputs), command=command, mode=mode, inputs=inputs) as run:
        if not run.done:
            run.log_params({"dataset": dataset.digest, "seed": experiment.seed, "models": ", ".join(names)})
            with Progress("fitting baselines", len(names)) as progress:
                for name in names:
                    fit_one(run, name, dataset, experiment)
                    progress.advance()
        return run.candidates()


@task(task_run_name="fit {name}", cache_policy=NO_CACHE)
def fit_one(run: StageRun, name: str, dataset: Dataset, experiment: Experiment) -> None:
    """Fit one model, keep it, and score it on all validation items."""
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        try:
            fitted = Classic.fit(name, train, validation, experiment.seed, experiment.data.near)
            seconds = time.perf_counter() - start
            # Apart from MLflow: what cannot be written is the model's own fault, and a server that is down is not.
            fitted.save(Path(folder))
        except Exception as error:  # a model that does not converge or fit into memory must not take the others along
            # The stage is done all the same; on another day there may be the memory or the disk.
            again = ". `pricewright baselines --again` tries it again"
            remedy = again if isinstance(error, MemoryError | OSError) else ""
            run.log_absent(name, "baseline", "failed", f"{type(error).__name__}: {error}{remedy}")
            return
        params = {"n_train": len(train), "fit_seconds": f"{seconds:.3f}"}
        save = functools.partial(shutil.copytree, folder, dirs_exist_ok=True)
        candidate = run.log_model(save, name, "baseline", params=params)
    score(
        run,
        candidate.model_id,
        validation,
        lambda: fitted.predict(validation),
        dataset=dataset,
        split="all",
        seed=experiment.seed,
        resamples=experiment.evaluate.resamples,
    )

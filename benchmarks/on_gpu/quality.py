"""How good: the language model learns all of `amazon_course_like` and answers the recipe's own test items, beside
classic models and with them in a blend. `key=value` on the command line changes its conf.

The store keeps what is done: the same command again goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.finetune_quality import CONF, compared, options
from benchmarks.on_gpu.results import Task
from tasks import baselines, curation, evaluation, finetuning
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.scoring.metrics import absolute_error
from tasks.training.candidates import Candidates

DEFAULTS = (
    "finetune.train_items=null",
    "finetune.sft.num_train_epochs=5",
    "finetune.sft.per_device_train_batch_size=64",
    "finetune.sft.learning_rate=1e-3",
    "finetune.checkpoints=6",
    "finetune.prompt.text_tokens=160",
    "finetune.prompt.opinions=[tfidf_ridge]",  # the others' take minutes on the CPU, in which the GPU would wait
    "finetune.answer.batch_tokens=32768",
    "baselines.models=[constant_median,tfidf_ridge,boosting,network]",
)


def measure(task: Task) -> None:
    """Curate, fine-tune while another process fits the classic models, evaluate."""
    without_prefect()
    experiment = experiment_of(task)
    task.results.keep(conf=experiment.finetune.model_dump(mode="json"), overrides=list(task.overrides))
    dataset = curation.curate(experiment)
    task.results.keep(rows=dataset.rows)
    keep_checkpoints(task)
    command = [sys.executable, "-c", "import sys; from benchmarks.on_gpu.quality import fit; fit(sys.argv[1:])"]
    confs = ["conf/smoke.yaml" if task.dry else CONF, *words(task)]
    with subprocess.Popen([*command, *confs], stdout=sys.stderr) as fitting:
        tuned = finetuning.finetune(experiment, dataset)
        task.results.keep(fine_tuned=[vars(candidate) for candidate in tuned])
        assert fitting.wait() == 0, "the classic models could not be fitted; why stands in the log"
    classic = baselines.fit_baselines(experiment, dataset)
    scores = evaluation.evaluate(experiment, dataset, [*classic, *tuned])
    found = compared(experiment, dataset, scores.run_id)
    task.results.keep(
        models=[
            {**asdict(figure), "model": name, **trained_on(found.rows.get(name))}
            for name, figure in sorted(found.figures.items(), key=lambda pair: pair[1].mae)
        ],
        differences=[{"pair": f"{one} against {other}", "said": said} for one, other, said in found.differences()],
    )


def without_prefect() -> None:
    """Have the stages' tasks be plain functions here, which need no server."""
    from prefect import Task as PrefectTask

    for stage in (curation, baselines, finetuning, evaluation):
        for name, value in list(vars(stage).items()):
            if isinstance(value, PrefectTask):
                setattr(stage, name, value.fn)


def words(task: Task) -> list[str]:
    """The overrides of the conf."""
    if task.dry:
        store = task.store.absolute()
        store.mkdir(parents=True, exist_ok=True)
        tracking = [f"tracking.uri=sqlite:///{store}/mlflow.db", f"tracking.artifacts={store}/artifacts"]
        return ["baselines.models=[constant_median,tfidf_ridge]", *tracking, *task.overrides]
    assert task.data is not None, "the quality is that on real products: --data"
    os.environ["PRICEWRIGHT_DATA"] = str(task.data)
    return options(task.store, [*DEFAULTS, *task.overrides])


def experiment_of(task: Task) -> Experiment:
    """The experiment."""
    return load("conf/smoke.yaml" if task.dry else CONF, words(task))


def fit(arguments: list[str]) -> None:
    """What the other process does; the fitted models are found in the store."""
    without_prefect()
    experiment = load(arguments[0], arguments[1:])
    baselines.fit_baselines(experiment, curation.curate(experiment, "recall"))


def keep_checkpoints(task: Task) -> None:
    """Write down the error of every checkpoint as soon as it is scored: the validation curve so far."""
    score = Candidates.score

    def scored(self: Candidates, tuned: Any, model_id: str, step: int | None) -> Any:
        answer = score(self, tuned, model_id, step)
        errors = absolute_error(self.truth, answer.price)
        task.results.add("curve", step=step, items=len(errors), mae=float(np.nanmean(errors)))
        return answer

    Candidates.score = scored


def trained_on(row: Any) -> dict[str, Any]:
    """What is known of a row besides its figures."""
    return {} if row is None else {key: getattr(row, key) for key in ("n_train", "fit_seconds", "predict_ms", "step")}

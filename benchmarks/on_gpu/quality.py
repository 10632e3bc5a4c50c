"""How good: the language model learns all of `amazon_course_like` and answers the recipe's own test items, beside
classic models and with them in a blend. `key=value` on the command line changes its conf.

    python -m benchmarks.on_gpu.quality DATA FILE.npz [key=value ...]

asks the classic models beforehand, on any machine, for the opinions that the language model is told: they are fitted
on a CPU, for minutes in which a GPU would wait. `benchmarks.gpu --opinions FILE.npz` then takes them.

The store keeps what is done: the same command again goes on.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.finetune_quality import CONF, compared, options
from benchmarks.on_gpu.results import Results, Task
from tasks import baselines, curation, evaluation, finetuning
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.data.items import Item
from tasks.data.splits import Dataset, item_digest, read_split
from tasks.errors import UserError
from tasks.models.language.opinions import Opinions
from tasks.scoring.metrics import absolute_error
from tasks.tracking.runs import Candidate
from tasks.training.candidates import Candidates

DRY_MODELS = "[constant_median,tfidf_ridge]"
DEFAULTS = (
    "finetune.train_items=null",
    "finetune.sft.num_train_epochs=3",
    "finetune.sft.per_device_train_batch_size=64",
    "finetune.sft.learning_rate=1e-3",
    "finetune.checkpoints=6",
    "finetune.score_items=354",  # a quarter of the validation items, the most that one role gets
    "evaluate.blend_items=354",
    "finetune.prompt.text_tokens=160",
    "data.validation_items=null",
    "finetune.answer.batch_tokens=32768",
    "baselines.models=[constant_median,tfidf_ridge,boosting,network]",
)


def measure(task: Task) -> None:
    """Curate, fine-tune while another process fits the classic models, evaluate; in the way that was best on
    validation, if the phase `ways` has tried some."""
    without_prefect()
    tried = Results.read(task.results.file.with_name("ways.json")).known.get("ways", [])
    best = min(tried, key=lambda row: row["mae"], default=None)
    task = replace(task, overrides=(*task.overrides, *(best["overrides"] if best else ())))
    experiment, dataset = ready(task)
    with fitting(task, experiment, dataset):
        tuned = trained(task, experiment, dataset)
        task.results.keep(fine_tuned=[vars(candidate) for candidate in tuned])
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


def ready(task: Task) -> tuple[Experiment, Dataset]:
    """The experiment and its data; written down, and the opinions taken that were asked beforehand."""
    experiment = experiment_of(task)
    task.results.keep(conf=experiment.finetune.model_dump(mode="json"), overrides=list(task.overrides))
    dataset = curation.curate(experiment)
    task.results.keep(rows=dataset.rows)
    if task.opinions is not None:
        take_opinions(task.opinions)
    return experiment, dataset


@contextlib.contextmanager
def fitting(task: Task, experiment: Experiment, dataset: Dataset) -> Iterator[None]:
    """Have the classic models fitted by another process, unless they are; at the end they are in the store."""
    try:
        baselines.fit_baselines(experiment, dataset, "recall")
        known = True
    except UserError:
        known = False
    if known:
        yield
        return
    command = [sys.executable, "-c", "import sys; from benchmarks.on_gpu.quality import fit; fit(sys.argv[1:])"]
    confs = ["conf/smoke.yaml" if task.dry else CONF, *words(task)]
    with subprocess.Popen([*command, *confs], stdout=sys.stderr) as process:
        yield
        assert process.wait() == 0, "the classic models could not be fitted; why stands in the log"


def trained(task: Task, experiment: Experiment, dataset: Dataset, **way: str) -> list[Candidate]:
    """Fine-tune; the error of every checkpoint is written down as soon as it is known: the validation curve so far."""
    score = Candidates.score

    def scored(self: Candidates, tuned: Any, model_id: str, step: int | None) -> Any:
        answer = score(self, tuned, model_id, step)
        errors = absolute_error(self.truth, answer.price)
        task.results.add("curve", **way, step=step, items=len(errors), mae=float(np.nanmean(errors)))
        return answer

    Candidates.score = scored
    try:
        return finetuning.finetune(experiment, dataset)
    finally:
        Candidates.score = score


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
        few = [f"baselines.models={DRY_MODELS}", "finetune.answer.by=head", "finetune.prompt.opinions=[tfidf_ridge]"]
        store = task.store.absolute()
        store.mkdir(parents=True, exist_ok=True)
        tracking = [f"tracking.uri=sqlite:///{store}/mlflow.db", f"tracking.artifacts={store}/artifacts"]
        return [*few, *tracking, *task.overrides]
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


def ask_beforehand(data: Path, file: Path, overrides: Sequence[str]) -> None:
    """Write what the classic models of the conf say of every product: of training items by folds."""
    without_prefect()
    with tempfile.TemporaryDirectory() as store:
        results = Results(Path(store) / "unread.json")
        experiment = experiment_of(Task(results, data, Path(store) / "store", overrides=tuple(overrides)))
        dataset = curation.curate(experiment)
        items = [item for split in dataset.rows for item in read_split(dataset, split)]
        names = experiment.finetune.prompt.opinions
        said = Opinions.fit(names, read_split(dataset, "train"), experiment.seed, experiment.data.near).ask(items)
    np.savez(file, names=names, known=[item_digest(item) for item in items], said=said)


def take_opinions(file: Path) -> None:
    """Have opinions that were asked for beforehand told in place of fitted ones."""
    kept = np.load(file)

    def found(names: Sequence[str], train: Sequence[Item], *_: object) -> Opinions:
        assert list(names) == kept["names"].tolist(), f"{file} holds the opinions of {kept['names'].tolist()}"
        missing = {item_digest(item) for item in train}.difference(kept["known"].tolist())
        assert not missing, f"{file} holds none of {len(missing)} training items"
        return Opinions({}, kept["known"], kept["said"])

    Opinions.of = found


def trained_on(row: Any) -> dict[str, Any]:
    """What is known of a row besides its figures."""
    return {} if row is None else {key: getattr(row, key) for key in ("n_train", "fit_seconds", "predict_ms", "step")}


if __name__ == "__main__":
    ask_beforehand(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])

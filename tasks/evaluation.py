"""Evaluate: the checkpoint is chosen on validation; it and every other rung are scored on test, once, and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import basemodel
from tasks.config import Experiment
from tasks.digests import code_digest, digest
from tasks.errors import UserError
from tasks.guesses import Guesses, beside_person, check_files, contents, read_recorded, read_sheet
from tasks.items import Item
from tasks.leaderboard import provenance
from tasks.metrics import compare, crps_per_item, level_of_truth
from tasks.predictors import Predictions, Predictor
from tasks.predictors.api import Inquiry, forbidden
from tasks.predictors.calls import Budget
from tasks.predictors.classic import BASELINES
from tasks.predictors.language import LanguageModel, Recipe
from tasks.predictors.loading import load_predictor
from tasks.scoring import score
from tasks.sources import source_of
from tasks.splits import Dataset, Split, read_split, sample, set_apart
from tasks.tracking import MADE_FROM, Candidate, Mode, StageRun, model_folder, stage

SPENT = ("input_tokens", "output_tokens", "cost")  # on the answers of an API, the cost in dollars
OWN = ("base", "finetuned", "blend", "human", "floor")  # rows whose names no model behind an API may have
SERVABLE = ("baseline", "base", "finetuned")  # what can be loaded in another process and price a text


@dataclass(frozen=True)
class Scores:
    """The handle of an evaluation: its run holds the leaderboard and every prediction; `digest` names its inputs."""

    run_id: str
    digest: str


def evaluate(experiment: Experiment, dataset: Dataset, candidates: Sequence[Candidate], mode: Mode = "reuse") -> Scores:
    """Score every rung and keep the leaderboard.

    Raises:
        UserError: a file of guesses is not there, or two rows would have the same name.
    """
    check_outside(experiment)
    key = digest(
        {
            "stage": "evaluate",
            "conf": experiment.evaluate.model_dump(
                exclude={"human": True, "recorded": True, "api": {"__all__": {"concurrency", "timeout", "retries"}}}
            ),
            "guesses": contents(experiment.evaluate),
            "baselines": experiment.baselines.enabled,
            "finetune": experiment.finetune.model_dump(
                mode="json",
                include={"enabled", "base", "prompt", "answer", "quantization", "score_items"},
                exclude={"answer": {"batch_tokens"}},
            ),
            "base": basemodel.identity(experiment.finetune.base),
            "seed": experiment.seed,
            "dataset": dataset.digest,
            "candidates": sorted(candidate.model_id for candidate in candidates),
            "code": code_digest("tasks.evaluation"),
        }
    )
    opened: Mode = "again" if mode == "reuse" and _worth_another_try(experiment, key) else mode
    with stage(experiment, "evaluate", key, command="pricewright evaluate", mode=opened) as run:
        if not run.done:
            run.log_params({"dataset": dataset.digest, "seed": experiment.seed})
            evaluation = Evaluation(run, experiment, dataset, mode)
            rungs = evaluation.rungs(candidates)
            for rung in rungs:
                if rung.status == "ran":
                    score_rung(evaluation, rung)
            evaluation.keep(rungs)
        return Scores(run.id, key)


def check_outside(experiment: Experiment) -> None:
    """Look at what comes from outside, before hours of other work.

    Raises:
        UserError: a file of guesses is not there, or two rows would have the same name.
    """
    check_files(experiment.evaluate)
    for model in experiment.evaluate.api:
        if model.name in (*BASELINES, *OWN) or model.name.startswith("recorded/"):
            raise UserError(f"evaluate.api: {model.name} is the name of another row. Give the model a name of its own.")


def _worth_another_try(experiment: Experiment, key: str) -> bool:
    """Whether the evaluation that is there misses answers of an API for a reason that may be gone: a key, a server."""
    conf = experiment.evaluate
    allowed = {model.name for model in conf.api if forbidden(model, conf.budget) is None}
    if not allowed:
        return False
    try:
        with stage(experiment, "evaluate", key, command="", mode="recall") as run:
            return not allowed.isdisjoint(run.read_json("leaderboard.json")["unfinished"])
    except UserError:
        return False


@task(task_run_name="ask {inquiry.model.name}", cache_policy=NO_CACHE)
def ask_model(inquiry: Inquiry, budget: Budget) -> Guesses:
    """Ask a model behind an API about the test items that it has not answered before."""
    return inquiry.ask(budget)


@task(task_run_name="score {rung.name}", cache_policy=NO_CACHE)
def score_rung(evaluation: Evaluation, rung: Candidate) -> None:
    """Predict the items that all rungs are chosen on, and the test items."""
    evaluation.score(rung)


class Evaluation:
    """One evaluation: the items, the rungs and what they answered."""

    def __init__(self, run: StageRun, experiment: Experiment, dataset: Dataset, mode: Mode) -> None:
        self.run, self.experiment, self.dataset, self.mode = run, experiment, dataset, mode
        self.source = source_of(experiment.data)
        chosen_on = sample(read_split(dataset, "validation"), experiment.finetune.score_items, experiment.seed)
        self.items: dict[Split, list[Item]] = {"validation": chosen_on, "test": read_split(dataset, "test")}
        self.truth = {split: np.array([item.price for item in items]) for split, items in self.items.items()}
        self.answers: dict[tuple[str, Split], Predictions] = {}
        self.curve: list[dict[str, Any]] = []
        self.outside: dict[str, Guesses] = {}

    def rungs(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """What goes on the leaderboard: the baselines, the base model, the chosen checkpoint, guesses made elsewhere,
        and the floor."""
        rungs = [candidate for candidate in candidates if candidate.kind == "baseline"]
        if not self.experiment.baselines.enabled:
            rungs += [self.run.log_absent(n, "baseline", "skipped", "baselines.enabled is false") for n in BASELINES]
        rungs.append(self.base())
        checkpoints = [candidate for candidate in candidates if candidate.kind == "finetuned"]
        if checkpoints:
            rungs.append(self.choose(checkpoints))
        else:
            rungs.append(self.run.log_absent("finetuned", "finetuned", "skipped", "finetune.enabled is false"))
        rungs += self.guessed()
        if self.source.floor is not None:
            rungs.append(
                self.run.log_absent("floor", "floor", "ran", "the best possible guess: the data are generated")
            )
        return rungs

    def guessed(self) -> list[Candidate]:
        """A person, the models behind an API, and what others recorded, over the test items."""
        conf, items = self.experiment.evaluate, self.items["test"]
        inquiries = [Inquiry(model, items) for model in conf.api]
        budget = Budget(conf.budget, sum(inquiry.cost for inquiry in inquiries))
        rows = [read_sheet(conf.human, items)]
        rows += [ask_model(inquiry, budget) for inquiry in inquiries]
        rows += read_recorded(conf.recorded, items)
        self.outside = {row.name: row for row in rows}
        return [self.keep_outside(row) for row in rows]

    def keep_outside(self, row: Guesses) -> Candidate:
        """The rung of a row from outside, with the figures that only its maker knows."""
        rung = self.run.log_absent(row.name, row.kind, row.status, row.reason, external=True, params=row.params)
        measured_on = {"dataset_name": f"{self.dataset.name}-test", "dataset_digest": self.dataset.digest}
        figures = {f"test_{key}": value for key, value in row.figures.items()}
        self.run.log_metrics(figures, model_id=rung.model_id, **measured_on)
        return rung

    def base(self) -> Candidate:
        """The untuned model: the same LoggedModel, with the predictions it made, for as long as nothing about how it is
        loaded, asked and read has changed."""
        recipe, seed = Recipe.of(self.experiment.finetune), self.experiment.seed
        fitted_on = [self.dataset.digest, seed, len(self.items["validation"])]
        fields = {**vars(recipe), "answer": recipe.answer.model_dump(exclude={"batch_tokens"})}
        made_from = digest(
            {
                "recipe": {**fields, "prompt": recipe.prompt.model_dump()},
                "base": basemodel.identity(recipe.base),
                "fitted_on": fitted_on if recipe.answer.temperature == "fit" else None,
                "code": code_digest("tasks.predictors.language"),
            }
        )
        known = self.run.known_model(made_from)
        if known is None and recipe.answer.temperature == "fit":
            apart = set_apart(read_split(self.dataset, "validation"), len(self.items["validation"]), seed)
            recipe = LanguageModel.of(recipe).calibrated(apart).recipe
        return known or self.run.log_model(recipe.save, "base", "base", tags={MADE_FROM: made_from})

    def choose(self, checkpoints: Sequence[Candidate]) -> Candidate:
        """The checkpoint with the lowest error on validation; of equals the earliest."""
        answers = {checkpoint.step: self.predict(checkpoint, "validation") for checkpoint in checkpoints}
        figures = compare(
            self.truth["validation"],
            {str(step): answer for step, answer in answers.items()},
            {str(step): "finetuned" for step in answers},
            seed=self.experiment.seed,
            resamples=self.experiment.evaluate.resamples,
        )
        best = min(checkpoints, key=lambda one: (*_merit(figures[str(one.step)]), one.step))
        for checkpoint in sorted(checkpoints, key=lambda checkpoint: checkpoint.step):
            metrics = self.run.client.get_logged_model(checkpoint.model_id).metrics or []
            losses = [metric.value for metric in metrics if metric.key == "train_loss"]
            row = {"step": checkpoint.step, "train_loss": losses[-1] if losses else None}
            row |= {key: figures[str(checkpoint.step)][key] for key in ("mae", "mae_low", "mae_high", "n")}
            self.curve.append({**row, "chosen": checkpoint is best, "model_id": checkpoint.model_id})
        return best

    def predict(self, rung: Candidate, split: Split, predictor: Predictor | None = None) -> Predictions:
        """The answers of a rung: those it gave before, or new ones."""
        items = self.items[split]

        def answer() -> Predictions:
            return (predictor or self.load(rung)).predict(items)

        # A checkpoint was scored on validation as it was made; asking it again would cost as much as it did then.
        mode = "reuse" if rung.kind == "finetuned" and split == "validation" else self.mode
        return score(
            self.run, rung.model_id, items, answer, dataset=self.dataset, split=split, step=rung.step or 0, mode=mode
        )

    def load(self, rung: Candidate) -> Predictor:
        """The predictor behind a rung."""
        return load_predictor(model_folder(self.run.client, rung.model_id))

    def score(self, rung: Candidate) -> None:
        """Answer both splits with one loading of the model; from outside come answers for test alone."""
        if rung.name in self.outside:
            guesses = self.outside[rung.name]
            self.answers[rung.name, "test"] = score(
                self.run,
                rung.model_id,
                self.items["test"],
                lambda: guesses.predictions,
                dataset=self.dataset,
                split="test",
                timed=False,
            )
            return
        loaded: list[Predictor] = []
        for split in ("validation", "test"):
            if rung.kind == "floor":
                self.answers[rung.name, split] = self.floor(rung, split)
                continue
            lazy = _Lazy(lambda: self.load(rung), loaded)
            self.answers[rung.name, split] = self.predict(rung, split, lazy)

    def floor(self, rung: Candidate, split: Split) -> Predictions:
        """The best possible guesses, known because the catalogue is generated."""
        best = self.source.floor(self.experiment.data, self.experiment.seed)
        answers = np.array([best[item.id] for item in self.items[split]])
        return score(
            self.run,
            rung.model_id,
            self.items[split],
            lambda: Predictions(*answers.T),
            dataset=self.dataset,
            split=split,
        )

    def keep(self, rungs: Sequence[Candidate]) -> None:
        """Compare the rungs on test, name the challenger by validation, and keep it all with the run."""
        ran = [rung for rung in rungs if rung.status == "ran"]
        figures = {
            split: compare(
                self.truth[split],
                {rung.name: self.answers[rung.name, split] for rung in ran if (rung.name, split) in self.answers},
                {rung.name: rung.kind for rung in ran},
                seed=self.experiment.seed,
                resamples=self.experiment.evaluate.resamples,
            )
            for split in ("validation", "test")
        }
        prices = {rung.name: self.answers[rung.name, "test"].price for rung in ran}
        for name, beside in beside_person(self.truth["test"], prices, self.experiment).items():
            figures["test"][name] |= beside
        servable = [rung for rung in ran if rung.kind in SERVABLE]
        challenger = min(servable, key=lambda rung: _merit(figures["validation"][rung.name]))
        board = {
            "rows": [self.row(rung, figures["test"].get(rung.name, {})) for rung in rungs],
            "validation": {name: {k: f[k] for k in ("mae", "n")} for name, f in figures["validation"].items()},
            "unfinished": [row.name for row in self.outside.values() if row.unfinished],
            "curve": self.curve,
            "challenger": challenger.model_id,
            "best_checkpoint": next((row["model_id"] for row in self.curve if row["chosen"]), None),
            "dataset": {**vars(self.dataset), "source": self.experiment.data.source},
            "provenance": provenance(self.experiment),
        }
        self.run.log_json(board, "leaderboard.json")
        with tempfile.TemporaryDirectory() as folder:
            pq.write_table(self.table(ran), Path(folder) / "predictions.parquet")
            self.run.log_folder(Path(folder))
        for rung in ran:
            self.run.log_metrics({f"test_mae.{rung.name}": figures["test"][rung.name]["mae"]})

    def row(self, rung: Candidate, figures: dict[str, Any]) -> dict[str, Any]:
        """A rung's line of the leaderboard, before the registry's marks are put on it."""
        model = self.run.client.get_logged_model(rung.model_id)
        metrics = {metric.key: metric.value for metric in model.metrics or []}
        params = model.params or {}
        seconds = metrics.get("test_seconds_per_1000") if rung.kind != "floor" else None
        hourly = self.experiment.evaluate.machine_per_hour
        return {
            "model": rung.name,
            "kind": rung.kind,
            "step": rung.step,
            "status": rung.status,
            "reason": rung.reason,
            "split": "test",
            "n_train": int(params["n_train"]) if "n_train" in params else None,
            "fit_seconds": float(params["fit_seconds"]) if "fit_seconds" in params else None,
            "predict_ms": seconds,  # milliseconds an item takes are the seconds a thousand take
            "cost_per_1000": metrics.get("test_cost_per_1000", seconds and hourly and seconds / 3600 * hourly),
            "size_mb": self.size(rung),
            **{key: metrics[f"test_{key}"] for key in SPENT if f"test_{key}" in metrics},
            "model_id": rung.model_id,
            **figures,
        }

    def size(self, rung: Candidate) -> float | None:
        """Megabytes on disk of what is kept of a model; of a language model, its adapter."""
        if rung.kind not in SERVABLE or rung.status != "ran":
            return None
        files = model_folder(self.run.client, rung.model_id).rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file()) / 1e6

    def table(self, ran: Sequence[Candidate]) -> pa.Table:
        """Every test prediction: one row for each rung and item, prices in US dollars.

        `crps`, and `level`, where the truth lies in the distribution, are NaN where there is none.
        """
        tables = []
        for rung in ran:
            answer = self.answers[rung.name, "test"]
            columns = {"model": [rung.name] * len(answer.price), "id": [item.id for item in self.items["test"]]}
            columns |= {"truth": self.truth["test"], "price": answer.price, "low": answer.low, "high": answer.high}
            scores = np.full((2, len(answer.price)), np.nan)
            if answer.distribution is not None:
                truth = self.truth["test"], answer.distribution
                scores[:] = crps_per_item(*truth), level_of_truth(*truth)
            columns |= {"crps": scores[0], "level": scores[1]}
            tables.append(pa.table(columns))
        return pa.concat_tables(tables)


def _merit(figures: dict[str, Any]) -> tuple[float, float]:
    """What models are chosen by, the least first: more items answered before a lower error on those."""
    return -figures["n"], np.inf if figures["mae"] is None else figures["mae"]


class _Lazy:
    """A predictor that is loaded when it is first asked, and then kept in `loaded`."""

    def __init__(self, load: Any, loaded: list[Predictor]) -> None:
        self.load, self.loaded = load, loaded

    def predict(self, items: Sequence[Item]) -> Predictions:
        if not self.loaded:
            self.loaded.append(self.load())
        return self.loaded[0].predict(items)

"""Evaluate: the checkpoint is chosen on validation; it and every other model are scored on test, once, and compared."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config.experiment import Experiment
from tasks.data.items import Item
from tasks.data.sources import source_of
from tasks.data.splits import Dataset, Part, calibration_sample, items_digest, read_split, sample
from tasks.digests import code_digest, digest
from tasks.errors import UserError
from tasks.models.api import Inquiry, forbidden
from tasks.models.api_calls import Budget
from tasks.models.blend import Blend
from tasks.models.classic import BASELINES
from tasks.models.external import ExternalPredictions, check_files, contents, read_recorded, read_sheet
from tasks.models.language import base_model
from tasks.models.language.model import LanguageModel, ModelSpec
from tasks.models.loading import load_predictor
from tasks.models.predictor import Predictions, Predictor
from tasks.report.board import provenance
from tasks.scoring.checkpoint_choice import curve
from tasks.scoring.comparisons import beside_person, compare, selection_key
from tasks.scoring.metrics import absolute_error
from tasks.scoring.predictions import score
from tasks.scoring.rows import leaderboard_row, predictions_table
from tasks.tracking.runs import MADE_FROM, SERVABLE, Candidate, Mode, StageRun
from tasks.tracking.stages import stage
from tasks.tracking.store import model_folder

OWN = ("base", "finetuned", "blend", "human", "floor")  # rows whose names no model behind an API may have
MIN_BLEND = 16  # items: fewer say nothing about the weights of several models


@dataclass(frozen=True)
class Scores:
    """The handle of an evaluation: its run holds the leaderboard and every prediction; `digest` names its inputs."""

    run_id: str
    digest: str


def evaluate(experiment: Experiment, dataset: Dataset, candidates: Sequence[Candidate], mode: Mode = "reuse") -> Scores:
    """Score every model and keep the leaderboard.

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
            "base": base_model.identity(experiment.finetune.base),
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
            entries = evaluation.entries(candidates)
            for entry in entries:
                if entry.status == "ran":
                    score_entry(evaluation, entry)
            evaluation.keep([*entries, evaluation.blend(entries)])
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
def ask_model(inquiry: Inquiry, budget: Budget) -> ExternalPredictions:
    """Ask a model behind an API about the test items that it has not answered before."""
    return inquiry.ask(budget)


@task(task_run_name="score {entry.name}", cache_policy=NO_CACHE)
def score_entry(evaluation: Evaluation, entry: Candidate) -> None:
    """Predict the items that models are chosen on, those that they are blended on, and the test items."""
    evaluation.score(entry)


class Evaluation:
    """One evaluation: the items, the models and what they answered."""

    def __init__(self, run: StageRun, experiment: Experiment, dataset: Dataset, mode: Mode) -> None:
        self.run, self.experiment, self.dataset, self.mode = run, experiment, dataset, mode
        self.source = source_of(experiment.data)
        validation, count = read_split(dataset, "validation"), experiment.finetune.score_items
        self.items: dict[Part, list[Item]] = {
            "validation": sample(validation, count, experiment.seed),
            "calibration": calibration_sample(validation, count, experiment.seed, most=experiment.evaluate.blend_items),
            "test": read_split(dataset, "test"),
        }
        self.truth = {part: np.array([item.price for item in items]) for part, items in self.items.items()}
        self.answers: dict[tuple[str, Part], Predictions] = {}
        self.curve: list[dict[str, Any]] = []
        self.outside: dict[str, ExternalPredictions] = {}

    def entries(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """What goes on the leaderboard: the baselines, the base model, the chosen checkpoint, guesses made elsewhere,
        and the floor."""
        entries = [candidate for candidate in candidates if candidate.kind == "baseline"]
        if not self.experiment.baselines.enabled:
            entries += [self.run.log_absent(n, "baseline", "skipped", "baselines.enabled is false") for n in BASELINES]
        entries.append(self.base())
        checkpoints = [candidate for candidate in candidates if candidate.kind == "finetuned"]
        if checkpoints:
            entries.append(self.choose(checkpoints))
        else:
            entries.append(self.run.log_absent("finetuned", "finetuned", "skipped", "finetune.enabled is false"))
        entries += self.guessed()
        if self.source.floor is not None:
            entries.append(
                self.run.log_absent("floor", "floor", "ran", "the best possible guess: the data are generated")
            )
        return entries

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

    def keep_outside(self, row: ExternalPredictions) -> Candidate:
        """The model of a row from outside, with the figures that only its maker knows."""
        entry = self.run.log_absent(row.name, row.kind, row.status, row.reason, external=True, params=row.params)
        measured_on = {"dataset_name": f"{self.dataset.name}-test", "dataset_digest": self.dataset.digest}
        figures = {f"test_{key}": value for key, value in row.figures.items()}
        self.run.log_metrics(figures, model_id=entry.model_id, **measured_on)
        return entry

    def base(self) -> Candidate:
        """The untuned model: the same LoggedModel, with the predictions it made, for as long as nothing about how it is
        loaded, asked and read has changed."""
        conf, seed = self.experiment.finetune, self.experiment.seed
        spec = ModelSpec.of(conf)
        fitted_on = [self.dataset.digest, seed, len(self.items["validation"])]
        fields = {**vars(spec), "answer": spec.answer.model_dump(exclude={"batch_tokens"})}
        fields["comparables"] = self.dataset.digest if conf.prompt.comparables else None
        made_from = digest(
            {
                "recipe": {**fields, "prompt": spec.prompt.model_dump()},
                "base": base_model.identity(spec.base),
                "fitted_on": fitted_on if spec.answer.temperature == "fit" else None,
                "code": code_digest("tasks.models.language.model"),
            }
        )
        known = self.run.known_model(made_from)
        if known is not None:
            return known
        if conf.prompt.comparables:
            spec = ModelSpec.of(conf, read_split(self.dataset, "train"))
        if spec.answer.temperature == "fit":
            calibration = calibration_sample(
                read_split(self.dataset, "validation"), len(self.items["validation"]), seed
            )
            spec = LanguageModel.of(spec).calibrated(calibration).spec
        return self.run.log_model(spec.save, "base", "base", tags={MADE_FROM: made_from})

    def choose(self, checkpoints: Sequence[Candidate]) -> Candidate:
        """The checkpoint with the lowest error on validation; of equals the earliest."""
        answers = {checkpoint.model_id: self.predict(checkpoint, "validation") for checkpoint in checkpoints}
        seed, resamples = self.experiment.seed, self.experiment.evaluate.resamples
        self.curve = curve(checkpoints, answers, self.truth["validation"], seed=seed, resamples=resamples)
        for row in self.curve:
            metrics = self.run.client.get_logged_model(row["model_id"]).metrics or []
            losses = [metric.value for metric in metrics if metric.key == "train_loss"]
            row["train_loss"] = losses[-1] if losses else None
        best = next(row["model_id"] for row in self.curve if row["chosen"])
        return next(checkpoint for checkpoint in checkpoints if checkpoint.model_id == best)

    def predict(self, entry: Candidate, split: Part, predictor: Predictor | None = None) -> Predictions:
        """The answers of a model: those it gave before, or new ones."""
        items = self.items[split]

        def answer() -> Predictions:
            return (predictor or self.load(entry)).predict(items)

        # A checkpoint was scored on validation as it was made; asking it again would cost as much as it did then.
        mode = "reuse" if entry.kind == "finetuned" and split == "validation" else self.mode
        return score(
            self.run, entry.model_id, items, answer, dataset=self.dataset, split=split, step=entry.step or 0, mode=mode
        )

    def load(self, entry: Candidate) -> Predictor:
        """The predictor behind a model."""
        return load_predictor(model_folder(self.run.client, entry.model_id))

    def score(self, entry: Candidate) -> None:
        """Answer all parts with one loading of the model; from outside come answers for test alone."""
        if entry.name in self.outside:
            guesses = self.outside[entry.name]
            self.answers[entry.name, "test"] = score(
                self.run,
                entry.model_id,
                self.items["test"],
                lambda: guesses.predictions,
                dataset=self.dataset,
                split="test",
                timed=False,
            )
            return
        if entry.kind == "floor":
            for part in ("validation", "test"):
                self.answers[entry.name, part] = self.floor(entry, part)
            return
        lazy = _Lazy(lambda: self.load(entry))
        self.answers[entry.name, "validation"] = self.predict(entry, "validation", lazy)
        if self.worth_blending(entry):
            self.answers[entry.name, "calibration"] = self.predict(entry, "calibration", lazy)
        self.answers[entry.name, "test"] = self.predict(entry, "test", lazy)

    def worth_blending(self, entry: Candidate) -> bool:
        """Whether a model answers every item, and better than one and the same price would: others only cost time."""
        if len(self.items["calibration"]) < MIN_BLEND:
            return False
        truth, price = self.truth["validation"], self.answers[entry.name, "validation"].price
        constant = np.abs(truth - np.median(truth)).mean()
        return bool(absolute_error(truth, price).mean() < constant)  # false as well where an answer is missing, NaN

    def blend(self, entries: Sequence[Candidate]) -> Candidate:
        """The weighted mean of the models that are worth it, weighed on items that no model is chosen on."""
        members = {entry.name: entry for entry in entries if (entry.name, "calibration") in self.answers}
        if len(members) < 2:
            reason = f"it takes two models that beat a constant price and {MIN_BLEND} calibration items; "
            reason += f"there are {len(members)} and {len(self.items['calibration'])}"
            return self.run.log_absent("blend", "blend", "skipped", reason)
        blend = Blend.fit(
            self.truth["calibration"], {name: self.answers[name, "calibration"].price for name in members}
        )
        if len(blend.weights) < 2:
            return self.run.log_absent("blend", "blend", "skipped", f"all of its weight is on {min(blend.weights)}")
        blend.folders = {name: model_folder(self.run.client, members[name].model_id) for name in blend.weights}
        weights = {name: f"{weight:.3f}" for name, weight in blend.weights.items()}
        made_from = digest(
            {
                "members": {name: members[name].model_id for name in weights},
                "fitted_on": items_digest(self.items["calibration"]),
                "code": code_digest("tasks.models.blend"),
            }
        )
        entry = self.run.known_model(made_from) or self.run.log_model(
            blend.save, "blend", "blend", tags={MADE_FROM: made_from}, params={"weight": weights}
        )
        for part in ("validation", "test"):
            prices = {name: self.answers[name, part].price for name in blend.weights}
            self.answers["blend", part] = score(
                self.run,
                entry.model_id,
                self.items[part],
                lambda prices=prices: blend.answer(prices),
                dataset=self.dataset,
                split=part,
                timed=False,
            )
        # It is worked out from its members' answers here; asked by itself it takes as long as all of them.
        models = (self.run.client.get_logged_model(members[name].model_id) for name in blend.weights)
        took = [metric.value for model in models for metric in model.metrics if metric.key == "test_seconds_per_1000"]
        self.run.log_metrics({"test_seconds_per_1000": sum(took)}, model_id=entry.model_id)
        return entry

    def floor(self, entry: Candidate, split: Part) -> Predictions:
        """The best possible guesses, known because the catalogue is generated."""
        best = self.source.floor(self.experiment.data, self.experiment.seed)
        answers = np.array([best[item.id] for item in self.items[split]])
        return score(
            self.run,
            entry.model_id,
            self.items[split],
            lambda: Predictions(*answers.T),
            dataset=self.dataset,
            split=split,
        )

    def keep(self, entries: Sequence[Candidate]) -> None:
        """Compare the models on test, name the challenger by validation, and keep it all with the run."""
        ran = [entry for entry in entries if entry.status == "ran"]
        figures = {
            split: compare(
                self.truth[split],
                {entry.name: self.answers[entry.name, split] for entry in ran if (entry.name, split) in self.answers},
                {entry.name: entry.kind for entry in ran},
                seed=self.experiment.seed,
                resamples=self.experiment.evaluate.resamples,
            )
            for split in ("validation", "test")
        }
        answers = {entry.name: self.answers[entry.name, "test"] for entry in ran}
        prices = {name: answer.price for name, answer in answers.items()}
        for name, beside in beside_person(self.truth["test"], prices, self.experiment).items():
            figures["test"][name] |= beside
        servable = [entry for entry in ran if entry.kind in SERVABLE]
        challenger = min(servable, key=lambda entry: selection_key(figures["validation"][entry.name]))
        hourly = self.experiment.evaluate.machine_per_hour
        board = {
            "rows": [
                leaderboard_row(self.run, entry, figures["test"].get(entry.name, {}), hourly) for entry in entries
            ],
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
            pq.write_table(predictions_table(self.items["test"], answers), Path(folder) / "predictions.parquet")
            self.run.log_folder(Path(folder))
        for entry in ran:
            self.run.log_metrics({f"test_mae.{entry.name}": figures["test"][entry.name]["mae"]})


class _Lazy:
    """A predictor that is loaded when it is first asked, and then kept."""

    def __init__(self, load: Callable[[], Predictor]) -> None:
        self.load = functools.cache(load)

    def predict(self, items: Sequence[Item]) -> Predictions:
        return self.load().predict(items)

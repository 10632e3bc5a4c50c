"""Evaluate: the checkpoint is chosen on validation; it and every other model answer the test items once."""

from __future__ import annotations

import functools
import math
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config.experiment import Experiment
from tasks.data.items import Item
from tasks.data.sources import source_of
from tasks.data.splits import Dataset, Part, items_digest, read_split
from tasks.digests import code_digest, digest, versions
from tasks.errors import UserError
from tasks.models.api import Inquiry, forbidden
from tasks.models.api_calls import Budget
from tasks.models.blend import MIN_ITEMS, Blend
from tasks.models.classic import BASELINES
from tasks.models.external import ExternalPredictions, check_files, contents, read_recorded, read_sheet
from tasks.models.language import base_model, encoder
from tasks.models.language.model import LanguageModel, ModelSpec, untuned
from tasks.models.language.prompts import TOLD_LIBRARIES, beyond_range
from tasks.models.loading import load_predictor
from tasks.models.predictor import Predictions, Predictor
from tasks.report.board import provenance
from tasks.scoring import question
from tasks.scoring.checkpoint_choice import chosen, curve, with_losses
from tasks.scoring.comparisons import FLOOR, beside_person, compare
from tasks.scoring.contest import Contest, truth
from tasks.scoring.record import PREDICTIONS, Record
from tasks.scoring.roles import estimated_errors, mean_error
from tasks.scoring.rows import Row, last_metric, predictions_table, row_of
from tasks.tracking.runs import MADE_FROM, SERVABLE, Candidate, Mode
from tasks.tracking.stages import stage, whole_model
from tasks.tracking.store import model_folder

OWN = ("base", "finetuned", "blend", "human", FLOOR)  # rows whose names no model behind an API may have


@dataclass(frozen=True)
class Scores:
    """The handle of an evaluation: its run holds the leaderboard and every prediction; `digest` names its inputs."""

    run_id: str
    digest: str


def evaluate(experiment: Experiment, dataset: Dataset, candidates: Sequence[Candidate], mode: Mode = "reuse") -> Scores:
    """Score every model and keep the leaderboard.

    Raises:
        UserError: a file of external predictions is not there, or two rows would have the same name.
    """
    check_outside(experiment)
    key = _digest(experiment, dataset, candidates)
    opened: Mode = "again" if mode == "reuse" and worth_another_try(experiment, key) else mode
    with stage(experiment, "evaluate", key, command="pricewright evaluate", mode=opened) as run:
        if not run.done:
            run.log_params({"dataset": dataset.digest, "seed": experiment.seed})
            run.log_models_read([candidate.model_id for candidate in candidates])
            contest = Contest.of(run, experiment, dataset, mode)
            entries = collect(contest, candidates)
            for entry in entries:
                if entry.status == "ran":
                    predict(contest, entry)
            entries.append(blend(contest, entries))
            keep(contest, compare_all(contest, entries), entries)
        if mode != "read":
            question.note(run, experiment)
        return Scores(run.id, key)


def _digest(experiment: Experiment, dataset: Dataset, candidates: Sequence[Candidate]) -> str:
    conf = experiment.evaluate.model_dump(
        exclude={"human": True, "recorded": True, "api": {"__all__": {"concurrency", "timeout", "retries"}}}
    )
    guessed = experiment.evaluate.human or experiment.evaluate.recorded or experiment.evaluate.api
    wanted = {"enabled", "base", "prompt", "answer", "quantization", "score_items"}
    language = experiment.finetune.model_dump(mode="json", include=wanted, exclude={"answer": {"batch_tokens"}})
    return digest(
        {
            "stage": "evaluate",
            "conf": conf,
            "external": contents(experiment.evaluate),
            "currency": experiment.data.currency if guessed else None,
            "baselines": experiment.baselines.enabled,
            "finetune": language,
            "base": base_model.base_model_digest_parts(experiment.finetune),
            "encoder": encoder.identity_for(experiment.finetune.prompt),
            "near": experiment.data.near if experiment.finetune.prompt.tells_more or dataset.test_products else None,
            "test_products": dataset.test_products,
            "seed": experiment.seed,
            "dataset": [dataset.name, dataset.digest],
            "candidates": sorted(candidate.model_id for candidate in candidates),
            "code": code_digest("tasks.evaluation"),
        }
    )


def check_outside(experiment: Experiment) -> None:
    """Look at what comes from outside, before hours of other work.

    Raises:
        UserError: a file of external predictions is not there, or two rows would have the same name.
    """
    check_files(experiment.evaluate)
    for model in experiment.evaluate.api:
        if model.name in (*BASELINES, *OWN) or model.name.startswith("recorded/"):
            raise UserError(f"evaluate.api: {model.name} is the name of another row. Give the model a name of its own.")


def worth_another_try(experiment: Experiment, key: str) -> bool:
    """Whether the evaluation that is there misses answers of an API for a reason that may be gone: a key, a server."""
    conf = experiment.evaluate
    allowed = {model.name for model in conf.api if forbidden(model, conf.budget) is None}
    if not allowed:
        return False
    try:
        with stage(experiment, "evaluate", key, command="", mode="recall") as run:
            return not allowed.isdisjoint(Record.read(run).unfinished)
    except UserError:
        return False


def collect(contest: Contest, candidates: Sequence[Candidate]) -> list[Candidate]:
    """What goes on the leaderboard: the baselines, the base model, the chosen checkpoint, what was answered elsewhere,
    and the floor."""
    run, experiment = contest.run, contest.experiment
    entries = [candidate for candidate in candidates if candidate.kind == "baseline"]
    if not experiment.baselines.enabled:
        entries += [run.log_absent(n, "baseline", "skipped", "baselines.enabled is false") for n in BASELINES]
    entries.append(_base(contest))
    checkpoints = [candidate for candidate in candidates if candidate.kind == "finetuned"]
    if checkpoints:
        entries.append(_choose(contest, checkpoints))
    else:
        entries.append(run.log_absent("finetuned", "finetuned", "skipped", "finetune.enabled is false"))
    entries += _from_outside(contest)
    if source_of(experiment.data).floor is not None:
        reason = "the best possible answer: the data are generated"
        entries.append(run.log_absent(FLOOR, FLOOR, "ran", reason))
    return entries


def _base(contest: Contest) -> Candidate:
    """The untuned model: the same LoggedModel, with the predictions it made, for as long as nothing about how it is
    loaded, asked and read has changed."""
    conf, dataset, run = contest.experiment.finetune, contest.dataset, contest.run
    spec = ModelSpec.of(untuned(conf))
    fields = {**vars(spec), "answer": spec.answer.model_dump(exclude={"batch_tokens"})}
    told = spec.prompt.tells_more
    fields |= {"comparables": dataset.digest if told else None, "opinions": contest.experiment.seed if told else None}
    fields |= {"near": contest.experiment.data.near if told else None}
    fitted = spec.answer.temperature == "fit"
    made_from = digest(
        {
            "spec": {**fields, "prompt": spec.prompt.model_dump()},
            "base": base_model.base_model_digest_parts(conf),
            "encoder": encoder.identity_for(spec.prompt),
            "libraries": versions(*TOLD_LIBRARIES) if told else None,
            "fitted_on": items_digest(contest.roles.temperature) if fitted else None,
            "code": code_digest("tasks.models.language.model"),
        }
    )
    known = whole_model(run, made_from)
    if known is not None:
        return known
    if told:
        train, near = read_split(dataset, "train"), contest.experiment.data.near
        spec = ModelSpec.of(untuned(conf), train, contest.experiment.seed, near)
    if fitted:
        spec = LanguageModel.of(spec).calibrated(contest.roles.temperature).spec
    return run.log_model(spec.save, "base", "base", tags={MADE_FROM: made_from})


def _choose(contest: Contest, checkpoints: Sequence[Candidate]) -> Candidate:
    """The checkpoint with the lowest error on the first validation items; of equals the earliest."""
    items, experiment, run = contest.roles.first, contest.experiment, contest.run
    answers = {}
    for one in checkpoints:
        load = functools.cache(functools.partial(_load, contest, one))
        ask = functools.partial(_ask, load, items)
        answers[one.model_id] = contest.answer(one, "validation", items, ask, ready=load)
    logged = {one.model_id: last_metric(run.client.get_logged_model(one.model_id), "train_loss") for one in checkpoints}
    losses = {model_id: loss for model_id, loss in logged.items() if loss is not None}
    found = curve(checkpoints, answers, truth(items), seed=experiment.seed, resamples=experiment.evaluate.resamples)
    contest.curve = with_losses(found, losses)
    best = next(one for one in checkpoints if one.model_id == chosen(found).model_id)
    contest.validation[best.name] = dict(
        zip((item.id for item in items), answers[best.model_id].price.tolist(), strict=True)
    )
    return best


def _load(contest: Contest, entry: Candidate) -> Predictor:
    return load_predictor(model_folder(contest.run.client, entry.model_id))


def _from_outside(contest: Contest) -> list[Candidate]:
    """A person, the models behind an API, and what others recorded, over the test items."""
    conf, items, run = contest.experiment.evaluate, contest.test_items, contest.run
    currency = contest.experiment.data.currency
    inquiries = [Inquiry(model, items, currency) for model in conf.api]
    budget = Budget(conf.budget, sum(inquiry.cost for inquiry in inquiries))
    rows = [read_sheet(conf.human, items, currency)]
    rows += [ask_model(inquiry, budget) for inquiry in inquiries]
    rows += read_recorded(conf.recorded, items, currency)
    contest.external = {row.name: row for row in rows}
    entries = []
    for row in rows:
        entry = run.log_absent(row.name, row.kind, row.status, row.reason, external=True, params=row.params)
        figures = {f"test_{key}": value for key, value in row.figures.items()}
        run.log_metrics(
            figures,
            model_id=entry.model_id,
            dataset_name=f"{contest.dataset.name}-test",
            dataset_digest=contest.dataset.digest,
        )
        entries.append(entry)
    return entries


@task(task_run_name="ask {inquiry.model.name}", cache_policy=NO_CACHE)
def ask_model(inquiry: Inquiry, budget: Budget) -> ExternalPredictions:
    """Ask a model behind an API about the test items that it has not answered before."""
    return inquiry.ask(budget)


@task(task_run_name="score {entry.name}", cache_policy=NO_CACHE)
def predict(contest: Contest, entry: Candidate) -> None:
    """Let a model answer the validation items that it is needed for, and the test items; it is loaded once."""
    if entry.name in contest.external:
        answers = contest.external[entry.name].predictions
        assert answers is not None, "a row that ran has predictions"
        contest.answer(entry, "test", contest.test_items, lambda: answers, timed=False)
        return
    load, roles = functools.cache(lambda: _load(contest, entry)), contest.roles
    parts: list[tuple[Part, list[Item]]] = [("all", read_split(contest.dataset, "validation"))]
    if entry.kind in ("base", "finetuned"):
        parts = [("validation", roles.first), ("blend", roles.blend), ("sampled", roles.sampled)]
    parts.append(("test", contest.test_items))
    for part, items in parts:
        if items and (part in ("validation", "all", "test") or contest.promising(entry.name)):
            if entry.kind == FLOOR:
                contest.answer(entry, part, items, functools.partial(_best_possible, contest, items))
            else:
                contest.answer(entry, part, items, functools.partial(_ask, load, items), ready=load)


def _ask(load: Callable[[], Predictor], items: Sequence[Item]) -> Predictions:
    return load().predict(items)


def _best_possible(contest: Contest, items: Sequence[Item]) -> Predictions:
    """The best possible answers, known because the catalogue is generated."""
    floor = source_of(contest.experiment.data).floor
    assert floor is not None
    best = floor(contest.experiment.data, contest.experiment.seed)
    return Predictions(*np.array([best[item.id] for item in items]).T)


def blend(contest: Contest, entries: Sequence[Candidate]) -> Candidate:
    """The weighted mean of the models that are worth it, weighed on items that serve for nothing else."""
    run, roles = contest.run, contest.roles
    members = {
        entry.name: entry
        for entry in entries
        if entry.kind in SERVABLE
        and contest.promising(entry.name)
        and (errors := contest.errors(entry.name, roles.blend)) is not None
        and not np.isnan(errors).any()
    }
    if len(members) < 2 or len(roles.blend) < MIN_ITEMS:
        reason = f"a blend needs two models that beat a constant price and {MIN_ITEMS} validation items to weigh them; "
        return run.log_absent("blend", "blend", "skipped", f"{reason}found {len(members)} and {len(roles.blend)}")

    def prices(items: Sequence[Item], names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: np.array([contest.validation[name][item.id] for item in items]) for name in names}

    fitted = Blend.fit(truth(roles.blend), prices(roles.blend, list(members)))
    if len(fitted.weights) < 2:
        return run.log_absent("blend", "blend", "skipped", f"all of its weight is on {min(fitted.weights)}")
    names = list(fitted.weights)
    fitted.folders = {name: model_folder(run.client, members[name].model_id) for name in names}
    whole = all(contest.errors(name, roles.selection) is not None for name in names)
    judged = roles.selection if whole else roles.sampled
    fitted.judge(truth(judged), prices(judged, names))
    entry = _blend_model(contest, fitted, members, judged)
    contest.answer(
        entry, "selection" if whole else "sampled", judged, lambda: fitted.answer(prices(judged, names)), timed=False
    )
    tested = {name: contest.test[name].price for name in names}
    contest.answer(entry, "test", contest.test_items, lambda: fitted.answer(tested), timed=False)
    # It is worked out from its members' answers here; asked by itself it takes as long as all of them.
    models = (run.client.get_logged_model(members[name].model_id) for name in names)
    took = (last_metric(model, "test_seconds_per_1000", contest.dataset.digest) for model in models)
    run.log_metrics({"test_seconds_per_1000": sum(filter(None, took))}, model_id=entry.model_id)
    return entry


def _blend_model(contest: Contest, fitted: Blend, members: dict[str, Candidate], judged: Sequence[Item]) -> Candidate:
    weights = {name: f"{weight:.3f}" for name, weight in fitted.weights.items()}
    made_from = digest(
        {
            "members": {name: members[name].model_id for name in weights},
            "fitted_on": items_digest(contest.roles.blend),
            "judged_on": items_digest(judged),
            "code": code_digest("tasks.models.blend"),
        }
    )
    known = whole_model(contest.run, made_from)
    return known or contest.run.log_model(
        fitted.save, "blend", "blend", tags={MADE_FROM: made_from}, params={"weight": weights}
    )


def compare_all(contest: Contest, entries: Sequence[Candidate]) -> list[Row]:
    """The rows of the leaderboard: every model compared on the test items."""
    experiment, kinds = contest.experiment, {entry.name: entry.kind for entry in entries}
    judged = {"seed": experiment.seed, "resamples": experiment.evaluate.resamples}
    figures = compare(truth(contest.test_items), contest.test, kinds, **judged, families=contest.families)
    prices = {name: answers.price for name, answers in contest.test.items()}
    beside = beside_person(truth(contest.test_items), prices, experiment, contest.families)
    rows = []
    for entry in entries:
        hourly = experiment.evaluate.machine_per_hour
        row = row_of(contest.run, entry, figures.get(entry.name), hourly, contest.dataset.digest)
        if entry.kind in ("base", "finetuned") and entry.status == "ran" and not entry.reason:
            row = replace(row, reason=beyond_range(truth(contest.test_items), experiment.finetune.prompt))
        rows.append(row.beside(beside.get(entry.name, {})))
    return rows


def _estimates(
    contest: Contest, entries: Sequence[Candidate], items: Sequence[Item], sampled_items: Sequence[Item]
) -> dict[str, tuple[int, float]]:
    """Of each model that may be the challenger: the validation items it left without a price, and its error on them;
    that of one which answered only a sample of them is estimated."""

    def errors_of(names: Sequence[str], items: Sequence[Item]) -> dict[str, np.ndarray]:
        return {name: errors for name in names if (errors := contest.errors(name, items)) is not None and len(errors)}

    names = [entry.name for entry in entries if entry.kind in SERVABLE and entry.status == "ran"]
    whole = errors_of(names, items)
    sampled = errors_of([name for name in names if name not in whole], sampled_items)
    unpriced = {name: int(np.isnan(errors).sum()) for name, errors in (whole | sampled).items()}
    return {name: (unpriced[name], error) for name, error in estimated_errors(whole, sampled).items()}


def keep(contest: Contest, rows: list[Row], entries: Sequence[Candidate]) -> None:
    """Name the challenger by validation, and keep it all with the run."""
    roles = contest.roles
    selected = _estimates(contest, entries, roles.selection, roles.sampled)
    estimates = selected or _estimates(contest, entries, [], roles.first)
    best = min(estimates, key=estimates.__getitem__, default=None)
    answered = {row.model: contest.errors(row.model, roles.first) for row in rows}
    first = _finite({name: mean_error(found) for name, found in answered.items() if found is not None and len(found)})
    judged, selection = (_finite({name: e for name, (_, e) in found.items()}) for found in (estimates, selected))
    record = Record(
        rows=rows,
        curve=contest.curve,
        validation=first | judged,
        challenger=next((row.model_id for row in rows if row.model == best), None),
        best_checkpoint=chosen(contest.curve).model_id if contest.curve else None,
        dataset=contest.dataset,
        source=contest.experiment.data.source,
        provenance=provenance(contest.experiment),
        unfinished=[row.name for row in contest.external.values() if row.unfinished],
        by_role={"first": first, "selection": selection},
    )
    record.keep(contest.run)
    for row in rows:
        contest.note_interval(row)
    with tempfile.TemporaryDirectory() as folder:
        table = predictions_table(contest.test_items, contest.test, contest.families)
        pq.write_table(table, Path(folder) / PREDICTIONS)
        contest.run.log_folder(Path(folder))
    contest.run.log_metrics({metric_name(row.model): row.mae for row in rows})


def _finite(errors: dict[str, float]) -> dict[str, float]:
    return {name: error for name, error in errors.items() if math.isfinite(error)}


def metric_name(model: str) -> str:
    """The metric that holds a model's error beside those of all others. A model from outside has any name, and MLflow
    takes that of a metric for a path: it refuses brackets, parts that are empty or lead elsewhere, and long ones."""
    parts = re.sub(r"[^/\w.: -]+", "-", model).split("/")
    return f"test_mae.{'/'.join(part for part in parts if part.strip('.'))}"[:250].rstrip("/")

"""Promote: the challenger becomes champion when there is none, or when it beats the one there is by a paired test."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config.experiment import Experiment
from tasks.data.items import Item
from tasks.data.prices import same_currency
from tasks.data.splits import Dataset, items_digest, read_split
from tasks.digests import digest
from tasks.errors import ModelGoneError, UserError
from tasks.models.language.model import untuned
from tasks.models.loading import load_predictor
from tasks.models.predictor import Predictions, Predictor
from tasks.scoring.lineage import known_from_training
from tasks.scoring.metrics import absolute_error
from tasks.scoring.origin import Origin
from tasks.scoring.predictions import recall, score
from tasks.scoring.record import Record, open_run, products, read_predictions
from tasks.scoring.resampling import Comparison, count_of, of_those, paired_comparison
from tasks.scoring.wording import figure, interval
from tasks.tracking.registry import (
    BEST_CHECKPOINT,
    CHALLENGER,
    CHAMPION,
    describe,
    looks,
    note_look,
    register,
    registered,
    version_of,
    withdraw,
)
from tasks.tracking.runs import StageRun, candidate
from tasks.tracking.stages import alone, trained_on, whole_splits
from tasks.tracking.store import model_folder

if TYPE_CHECKING:
    import pandas as pd

MIN_UNSEEN = 50  # test items, or products, that the incumbent does not know from its training: fewer cannot tell
MOST_RESAMPLES = 1_000_000  # the least p-value is one in a million
NUMBERS = ("difference", "difference_low", "difference_high", "p_value", "alpha", "look", "n")
DECIDED = ("decision", "incumbent", "challenger", *NUMBERS)  # tags that belong together


@dataclass(frozen=True)
class Champion:
    """The champion of the registered model, and how it came to be; `version` is None where nothing was registered."""

    name: str
    version: str | None
    model: str
    decision: str


@dataclass(frozen=True)
class Decision:
    """Which LoggedModel is to be champion and why, which one tried in vain, and what the test said, for the tags."""

    winner: str
    loser: str | None
    reason: str
    tags: dict[str, Any] = field(default_factory=dict)
    look: str | None = None  # the name of the look at the test items that was taken


@task(name="promote", cache_policy=NO_CACHE)
def promote(experiment: Experiment, run_id: str, dry_run: bool = False) -> Champion:
    """Decide between the challenger of an evaluation and the incumbent, and put the aliases where they belong.

    It takes no stage run of its own: asked again, it comes to the same decision and changes nothing. With `dry_run` it
    decides, and leaves MLflow as it is.

    Raises:
        UserError: no model of the evaluation can be served.
    """
    run = open_run(experiment, run_id)
    record = Record.read(run)
    if record.challenger is None:
        raise UserError("No model of this evaluation can be served, so there is nothing to promote.")
    with alone(experiment, digest({"promote": experiment.registered_model})):
        decision = Duel(run, experiment, record, record.challenger, keep=not dry_run).decide()
        version = None if dry_run else _apply(experiment, record, decision, run_id)
    model = candidate(run.client.get_logged_model(decision.winner))
    name = model.name if model.step is None else f"{model.name} step {model.step}"
    return Champion(experiment.registered_model, version, name, decision.reason)


def _apply(experiment: Experiment, record: Record, decision: Decision, run_id: str) -> str:
    give = functools.partial(_register, experiment, record, run_id)
    if decision.look is not None:
        # Before an alias moves: after a kill the same pair meets again, and by its name that is the same look.
        note_look(experiment, decision.look)
    if record.best_checkpoint:
        give(record.best_checkpoint, BEST_CHECKPOINT, {})
    if decision.loser is None:
        withdraw(experiment, CHALLENGER)
        return give(decision.winner, CHAMPION, decision.tags)
    give(decision.loser, CHALLENGER, decision.tags)
    return give(decision.winner, CHAMPION, {})  # an incumbent that stays keeps the decision that made it champion


def _register(
    experiment: Experiment, record: Record, run_id: str, model_id: str, alias: str, tags: Mapping[str, Any]
) -> str:
    """Give an alias to a model, and say on its page what it learned from and how far off it is, as `predict` says it.

    An incumbent that is not among the rows of this evaluation keeps what an earlier one said: it may have learned from
    these test items. A new decision takes away the numbers of the one before: a model that once lost, and is champion
    now since the incumbent is gone, was not compared.
    """
    if "decision" in tags:
        tags = {**dict.fromkeys(DECIDED), **tags}
    if any(row.model_id == model_id for row in record.rows):
        tags = {**tags, "dataset": record.dataset.digest, "evaluation": run_id}
    prompts = {"finetuned": experiment.finetune.prompt, "base": untuned(experiment.finetune).prompt}
    told = [kind for kind, prompt in prompts.items() if prompt.tells_more]
    origin = Origin.of(record, model_id, experiment.data.unit, told)
    version = register(experiment, model_id, alias, {**tags, **(origin.tags() if origin else {})})
    if origin:
        describe(experiment, version, f"{origin}.", headline=alias == CHAMPION)
    return version


def spent_alpha(alpha: float, look: int) -> float:
    """The level of the look of this number, 1 and up: all looks together err with at most `alpha`.

    Test items that are looked at every night would crown a false champion some night. The levels alpha / (k (k + 1))
    add up to alpha over any number of looks (alpha spending, Lan and DeMets 1983, with Bonferroni's bound).
    """
    return alpha / (look * (look + 1))


class Duel:
    """The challenger of an evaluation against the incumbent, on test items that the incumbent was not trained on."""

    def __init__(self, run: StageRun, experiment: Experiment, record: Record, challenger: str, *, keep: bool) -> None:
        self.run, self.experiment, self.record, self.keep = run, experiment, record, keep
        self.challenger, self.incumbent = challenger, registered(experiment, CHAMPION)
        self.names = {row.model_id: row.model for row in record.rows}

    @functools.cached_property
    def predictions(self) -> pd.DataFrame:
        """Every test prediction of the evaluation."""
        return read_predictions(self.run)

    def decide(self) -> Decision:
        """Who is champion."""
        challenger, incumbent = self.challenger, self.incumbent
        if incumbent is None:
            return Decision(challenger, None, "no incumbent", {"decision": "no incumbent"})
        if incumbent == challenger:  # how it came to be champion stays on its version
            return Decision(challenger, None, "the champion is still the challenger")
        if foreign := self._foreign():
            return self._crowned(f"the incumbent {foreign}, so {self.names[challenger]} takes its place")
        items = read_split(self.record.whole_dataset(self.experiment), "test")
        # Read before the incumbent is asked: if they are gone, that is not its fault.
        of = products(self.predictions, [item.id for item in items])
        try:
            theirs = self.answers(incumbent, items, of)
        except (FileNotFoundError, ModelGoneError) as error:
            gone = f"the incumbent can no longer be asked ({str(error).splitlines()[0]})"
            return self._crowned(f"{gone}, so {self.names[challenger]} takes its place")
        except (OSError, UserError) as error:  # a full disk, a server that is down: tomorrow it may be there again
            return self._undecided(f"it cannot be asked now ({str(error).splitlines()[0]})")
        unseen = self._unseen(items)
        if unseen is None:
            return self._undecided("what it was trained on is gone, so it is not known which test items are new to it")
        return self._tested(items, theirs, unseen, of)

    def _foreign(self) -> str | None:
        """Why the prices of the incumbent are no answer for these products; None if they are, or if nobody noted it.

        Two datasets of one name have one registered model, and a figure of dollars is no guess at one of euros.
        """
        version, unit = version_of(self.experiment, CHAMPION), self.experiment.data.unit
        origin = Origin.read(version.tags) if version else None
        if origin is None:
            return None
        if origin.generated != self.record.dataset.generated:
            return f"was trained on {'generated products' if origin.generated else f'products of {origin.dataset}'}"
        return None if same_currency(origin.unit, unit) else f"has prices in {origin.unit}, and these are in {unit}"

    def _unseen(self, items: Sequence[Item]) -> np.ndarray | None:
        """Which test items [n] the incumbent does not know from its training; None where that cannot be found out."""
        source = trained_on(self.experiment, str(self.incumbent))
        if source is None:
            return None
        if source == self.record.dataset.digest:  # no near duplicate crosses the splits of one dataset
            return np.ones(len(items), dtype=bool)
        folder = whole_splits(self.experiment, source)
        if folder is None:
            return None
        theirs = Dataset("", source, folder, {})
        training = [*read_split(theirs, "train"), *read_split(theirs, "validation")]  # fitted on, or chosen on
        return ~known_from_training(items, training, self.experiment.data.near)

    def _too_few(self, told: str) -> Decision:
        """The incumbent knows nearly all test items: the model of its name, fitted on today's data, stands for it."""
        name = candidate(self.run.client.get_logged_model(str(self.incumbent))).name
        if self.names[self.challenger] == name:
            return self._crowned(f"{told}; {name} fitted on today's data, which is the challenger, takes its place")
        return self._undecided(f"{told}, and {MIN_UNSEEN} are needed to compare it with {self.names[self.challenger]}")

    def _tested(self, items: Sequence[Item], theirs: np.ndarray, unseen: np.ndarray, of: np.ndarray | None) -> Decision:
        what = "test items" if of is None else "test products"
        new = count_of(int(unseen.sum()), of_those(of, unseen))
        if new < MIN_UNSEEN:
            return self._too_few(f"only {new} of the {what} are new to the incumbent")
        prices = theirs, self.answers(self.challenger, items, of)
        both = unseen & ~np.isnan(prices).any(axis=0)
        priced = count_of(int(both.sum()), of_those(of, both))
        if priced < MIN_UNSEEN:
            told = f"only {priced} of the {new} {what} that are new to it have a price from both"
            return self._undecided(f"{told} models, and {MIN_UNSEEN} are needed")
        number, look = self._look([item for item, kept in zip(items, both, strict=True) if kept])
        alpha = spent_alpha(self.experiment.promote.alpha, number)
        needed = math.ceil(20 / alpha)  # resamples, so that the test can reach so small a level
        resamples = min(max(self.experiment.evaluate.resamples, needed), MOST_RESAMPLES)
        if 1 / (1 + resamples) >= alpha:
            return self._undecided(
                f"after {number - 1} comparisons the significance level is {alpha:.2g}; no test can reach it. Set "
                "promote.name to a new name and use new test items"
            )
        truth = np.array([item.price for item in items])
        losses = [absolute_error(truth, answers)[both] for answers in prices]
        judged: dict[str, Any] = {"seed": self.experiment.seed, "families": of_those(of, both)}
        result = paired_comparison(*losses, resamples=resamples, **judged)
        wins = result.difference < 0 and result.p_value < alpha
        reason = self._told(result, wins, alpha, number) + _left_out(unseen, both)
        tags = {"decision": reason, "incumbent": self.incumbent, "challenger": self.challenger}
        tags |= _numbers(result, alpha, number)
        if wins:
            return Decision(self.challenger, None, reason, tags, look)
        return Decision(str(self.incumbent), self.challenger, reason, tags, look)

    def _look(self, items: Sequence[Item]) -> tuple[int, str]:
        """The number of this look and its name; asked again, it is the same look.

        All looks for one registered model count, whatever they looked at: test items that grow by one a night are
        nearly the same items, and would else be looked at for the first time every night.
        """
        name = digest([items_digest(items), self.incumbent, self.challenger])
        before = looks(self.experiment)
        return (before.index(name) if name in before else len(before)) + 1, name

    def _told(self, result: Comparison, wins: bool, alpha: float, number: int) -> str:
        span = f"{figure(result.difference, '+.2f')} ({interval(result.low, result.high, sign='+', digits=2)})"
        verb = "beats" if wins else "does not beat"
        return (
            f"{self.names[self.challenger]} {verb} the incumbent: {span}, p = {result.p_value:.3g}, "
            f"at level {alpha:.3g} of look {number}; {result.n} items"
        )

    def _crowned(self, reason: str) -> Decision:
        tags = {"decision": reason, "incumbent": self.incumbent, "challenger": self.challenger}
        return Decision(self.challenger, None, reason, tags)

    def _undecided(self, reason: str) -> Decision:
        told = f"the incumbent stays: {reason}"
        tags = {"decision": told, "incumbent": self.incumbent, "challenger": self.challenger}
        return Decision(str(self.incumbent), self.challenger, told, tags)

    def answers(self, model_id: str, items: Sequence[Item], of: np.ndarray | None) -> np.ndarray:
        """The test prices [n] of a model for items `of` these products: from this evaluation, from what it kept, or
        made now (and kept, if asked to).

        Raises:
            FileNotFoundError: its files are gone.
            ModelGoneError: its base model is gone or has changed.
            UserError: its base model cannot be reached, or this version cannot read it.
        """
        if model_id in self.names:
            frame = self.predictions
            rows = frame[frame["model"] == self.names[model_id]].set_index("id")
            return rows.loc[[item.id for item in items], "price"].to_numpy()
        folder = model_folder(self.run.client, model_id)  # looked at first: a champion must be there to be served

        @functools.cache
        def load() -> Predictor:
            with _by_this_version():
                return load_predictor(folder)

        def ask() -> Predictions:
            with _by_this_version():
                return load().predict(items)

        if self.keep:
            given: dict[str, Any] = {"seed": self.experiment.seed, "resamples": self.experiment.evaluate.resamples}
            given |= {"dataset": self.record.dataset, "split": "test", "ready": load, "families": of}
            return score(self.run, model_id, items, ask, **given).price
        return (recall(self.run, model_id, "test", items) or ask()).price


@contextmanager
def _by_this_version() -> Iterator[None]:
    """Within it, what this code or a library makes of the file of another version is a UserError: it must not end every
    night's run before its report."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise UserError(f"loading or asking it fails here: {type(error).__name__}: {said}") from error


def _left_out(unseen: np.ndarray, both: np.ndarray) -> str:
    known, unpriced = int((~unseen).sum()), int((unseen & ~both).sum())
    told = f", {known} more left out since the incumbent knows them" if known else ""
    return told + (f", {unpriced} since one of the two gave them no price" if unpriced else "")


def _numbers(result: Comparison, alpha: float, look: int) -> dict[str, Any]:
    dollars = [figure(value, ".4f") for value in (result.difference, result.low, result.high)]
    return dict(zip(NUMBERS, (*dollars, f"{result.p_value:.4g}", f"{alpha:.4g}", look, result.n), strict=True))

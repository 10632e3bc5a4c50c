"""What a run ends with, in plain English: who is best, what fine-tuning brought, and what to do next."""

from __future__ import annotations

import math

from tasks.config.experiment import Experiment, Prompt
from tasks.models.language.prompts import in_words
from tasks.report.headline import headline
from tasks.report.standings import Standings
from tasks.report.tables import in_order
from tasks.scoring.metrics import absolute_error
from tasks.scoring.record import Record, products, read_predictions, read_run
from tasks.scoring.resampling import SIGNIFICANCE, Comparison, of_those, paired_comparison
from tasks.scoring.wording import amount, interval


def conclusion(experiment: Experiment, run_id: str, standings: Standings) -> list[str]:
    """Who is best and whether that is certain, what fine-tuning took off the error of its base model, if both ran, and
    how much of that it was told.

    Raises:
        FileNotFoundError: the predictions of the evaluation are gone.
    """
    first, sentences = headline(in_order(standings.rows), standings.unit, standings.test_products)
    first = " ".join([first, *sentences[:1]])  # which says how certain that is
    ran = {row.kind: row.model for row in standings.rows if row.mae is not None}
    if "base" not in ran or "finetuned" not in ran:
        return [first]
    run = read_run(experiment, run_id)
    frame = read_predictions(run)
    frame["error"] = absolute_error(frame["truth"], frame["price"])
    errors = frame.pivot(index="id", columns="model", values="error")
    base, tuned = errors[ran["base"]], errors[ran["finetuned"]]
    both = base.notna() & tuned.notna()
    of = products(frame, list(errors.index))
    judged = {"seed": experiment.seed, "resamples": experiment.evaluate.resamples}
    found = paired_comparison(tuned[both], base[both], **judged, families=of_those(of, both.to_numpy()))
    if math.isnan(found.low):  # so few that nothing can be said
        return [first]
    ends = base[both].mean(), tuned[both].mean()
    brought = tuning(ends, found, standings.unit, whole=bool(both.all()))
    prompt, validation = experiment.finetune.prompt, Record.read(run).validation
    known = [name for name in prompt.opinions if name in errors]
    rival = min(known, key=lambda name: validation.get(name, math.inf), default=None)
    beside = None if rival is None else (rival, paired_comparison(tuned, errors[rival], **judged, families=of))
    said = told(prompt, in_words(prompt, experiment.finetune.answer), beside, standings.unit)
    return [first, brought, *([said] if said else [])]


def tuning(ends: tuple[float, float], found: Comparison, unit: str, *, whole: bool = True) -> str:
    """What fine-tuning brought, in a sentence: `found` is the error of the base model less that of the tuned one, whose
    `ends` these are, on the items that both priced; `whole`: which are all."""
    on = "" if whole else f" on the {found.n:,} items that both priced"
    if found.difference == 0:
        return f"Fine-tuning left the error of its base model as it was, {amount(ends[0], unit)}{on}."
    verb, to = ("took", "off the error") if found.difference > 0 else ("added", "to the error")
    change = f"Fine-tuning {verb} {amount(abs(found.difference), unit)} {to} of its base model"
    return f"{change}, from {amount(ends[0], unit)} to {amount(ends[1], unit)}{on} {_certainty(found)}."


def told(prompt: Prompt, to_base: Prompt, beside: tuple[str, Comparison] | None, unit: str) -> str:
    """What a tuned model knows that is not from fine-tuning, in a sentence: a gain over its base model may be all what
    other models say, which stand on the leaderboard by themselves.

    `prompt` is what it is told, `to_base` what its base model is; `beside` is one of the models whose opinions it is
    told, and the error of that one less its own.
    """
    if not prompt.tells_more:
        return ""
    *others, last = prompt.opinions or [""]
    says = f"{', '.join(others)} and {last} say" if others else f"{last} says"
    what = f"what {says}" if prompt.opinions else "what similar products cost"
    alike = to_base.opinions == prompt.opinions and to_base.comparables == prompt.comparables
    known = f"It is told {what}, and {'so is its base model' if alike else 'its base model is not'}"
    if beside is None:
        return "" if alike else f"{known}."
    name, found = beside
    if found.difference == 0:
        return f"{known}: its error is that of {name} alone."
    direction = "better" if found.difference > 0 else "worse"
    return f"{known}: it is {amount(abs(found.difference), unit)} {direction} than {name} alone {_certainty(found)}."


def _certainty(found: Comparison) -> str:
    """How certain a difference is that is told without its sign."""
    ends = (found.low, found.high) if found.difference > 0 else (-found.high, -found.low)
    certain = "" if found.p_value < SIGNIFICANCE else ", which chance alone can explain"
    return f"(95% interval {interval(*ends, digits=2)}){certain}"

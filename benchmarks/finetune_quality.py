"""How good fine-tuning is on real products, and what in it matters.

    PRICEWRIGHT_DATA=folder python -m benchmarks.finetune_quality run STORE [key=value ...]
    PRICEWRIGHT_DATA=folder python -m benchmarks.finetune_quality ablations STORE [key=value ...]
    PRICEWRIGHT_DATA=folder python -m benchmarks.finetune_quality classic STORE [key=value ...]

`run` is the whole pipeline on `amazon_course_like`, with the recipe's own test items (`course_test`) as the fixed test
set. Beside it stand a blend of the same models without the language model, and what the language model is told.
`ablations` trains an adapter for each row and seed and compares, seed by seed, what they answer on the same validation
items; the test items are not looked at.
`classic` fits classic models on no more than the language model is given, so many items and so much of each text, and
compares them on validation: what of its distance to them is what it was not given. Each prints a table for
docs/benchmarks.md.
STORE is a folder that keeps what is done: the same command again goes on, after hours or after a power cut.

On a CPU: about eight seconds a step of sixteen items. On a GPU, the whole corpus for three epochs:
`run STORE finetune.train_items=null finetune.sft.num_train_epochs=3 finetune.sft.per_device_train_batch_size=64`.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import datetime
import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from mlflow import MlflowClient

from benchmarks.quality import data_paths
from tasks.config.experiment import Experiment, Finetune
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.items import Item
from tasks.data.splits import Dataset, read_split, sample
from tasks.finetuning import finetune
from tasks.models.blend import Blend
from tasks.models.classic import Classic
from tasks.models.language.base_model import load_tokenizer
from tasks.models.language.estimators import ESTIMATORS
from tasks.models.language.model import GREEDY, LanguageModel, ModelSpec
from tasks.models.language.prompts import render
from tasks.scoring.comparisons import FLOOR, Figures, compare
from tasks.scoring.metrics import absolute_error
from tasks.scoring.predictions import recall
from tasks.scoring.record import PREDICTIONS, Record
from tasks.scoring.resampling import bootstrap_interval, paired_comparison
from tasks.scoring.roles import Roles
from tasks.scoring.rows import Row
from tasks.tracking.reading import latest_evaluation
from tasks.tracking.runs import Candidate, StageRun
from tasks.tracking.store import connect, model_folder

CONF = "conf/files.yaml"
BLEND = "blend of the classic models"
TOLD, LEVEL = "the opinions' mean", "the opinions' mean, at the level of the fine-tuned model"
CLASSIC = ("tfidf_ridge", "network")
NOTHING = ["finetune.prompt.opinions=[]", "finetune.answer.rate=1e-3"]  # a head that is told less has more to learn
EIGHT = [*NOTHING, "finetune.prompt.comparables=8"]
TITLES = [*EIGHT, "finetune.prompt.titles=8"]
ALL = [
    "finetune.prompt.comparables=8",
    *(f"finetune.prompt.{told}" for told in ("titles=8", "spread=true", "sizes=true")),
]
SEEDS = (42, 43, 44)  # of the splits, the items and the trainings: two trainings of one kind differ, too
ABLATIONS = {
    "as in conf/files.yaml": [],
    "told nothing": NOTHING,
    "told what 8 similar items cost": EIGHT,
    "8 similar by both, with titles": [*TITLES, "finetune.prompt.nearest=both"],
    "told ridge's opinion alone": ["finetune.prompt.opinions=[tfidf_ridge]"],
    "told what 8 similar items cost, and the spread": [*EIGHT, "finetune.prompt.spread=true"],
    "told sizes in words": [*NOTHING, "finetune.prompt.sizes=true"],
    "in text": ["finetune.answer.by=text"],
    "8 similar by words, with titles": TITLES,
    "8 similar by meaning, with titles": [*TITLES, "finetune.prompt.nearest=meaning"],
    "4 similar by both, with titles": [*TITLES, "finetune.prompt.nearest=both", "finetune.prompt.comparables=4"],
    "16 similar by both, with titles": [*TITLES, "finetune.prompt.nearest=both", "finetune.prompt.comparables=16"],
    "told all of it, by both": [*ALL, "finetune.prompt.nearest=both"],
    "a head with a rate of 1e-3": ["finetune.answer.rate=1e-3"],
    "in text, told nothing": ["finetune.answer.by=text", *NOTHING],
    "in text, told 8 similar by both, with titles": [
        "finetune.answer.by=text",
        *TITLES,
        "finetune.prompt.nearest=both",
    ],
    "in float32": ["finetune.dtype=float32"],
    "rank 4": ["finetune.lora.r=4", "finetune.lora.lora_alpha=8"],
    "rank 64": ["finetune.lora.r=64", "finetune.lora.lora_alpha=128"],
    "attention alone": ["finetune.lora.target_modules=[q_proj,k_proj,v_proj,o_proj]"],
    "160 tokens of text": ["finetune.prompt.text_tokens=160"],
    "96 tokens of text": ["finetune.prompt.text_tokens=96"],
}


def options(store: Path, overrides: list[str]) -> list[str]:
    """The overrides of every command: the data, and where MLflow keeps what is done."""
    store = store.absolute()
    store.mkdir(parents=True, exist_ok=True)
    tracking = [f"tracking.uri=sqlite:///{store}/mlflow.db", f"tracking.artifacts={store}/artifacts"]
    return [*data_paths("fixed", store), "data.name=amazon_course_like", "data.test_items=null", *tracking, *overrides]


@dataclass(frozen=True)
class Compared:
    """A leaderboard with a blend of its classic models beside it: rows, test prices [n] and figures by name, and which
    classic model is best on validation."""

    rows: dict[str, Row]
    classic: str
    truth: np.ndarray
    prices: dict[str, np.ndarray]
    figures: dict[str, Figures]

    def differences(self) -> list[tuple[str, str, str]]:
        """Pairs of models that were picked beforehand, each with how much worse the first is than the second."""
        pairs = [("finetuned", "base"), ("finetuned", self.classic)]
        if "blend" in self.prices:  # there is none of models that do not beat a constant
            pairs += [("blend", self.classic), ("blend", BLEND)]
        if TOLD in self.prices:
            pairs += [("finetuned", TOLD), ("finetuned", LEVEL)]
        return [(one, other, difference(self.truth, self.prices[one], self.prices[other])) for one, other in pairs]


def compared(experiment: Experiment, dataset: Dataset, run_id: str) -> Compared:
    """What an evaluation found, and the blend without the language model."""
    client = connect(experiment)
    run = StageRun(client, client.get_run(run_id), "evaluate", done=True)
    rows = {row.model: row for row in Record.read(run).rows if row.status == "ran" and row.kind != FLOOR}
    frame = pq.read_table(run.artifact(PREDICTIONS)).to_pandas()
    truth = frame[frame["model"] == "finetuned"]["truth"].to_numpy()
    prices = {name: frame[frame["model"] == name]["price"].to_numpy() for name in rows}
    prices[BLEND] = classic_blend(run, experiment, dataset, rows, prices)
    prices |= opinions_alone(model_folder(client, rows["finetuned"].model_id), dataset, prices["finetuned"])
    figures = compare(truth, prices, dict.fromkeys(prices, "baseline"), seed=experiment.seed)
    return Compared(rows, best_classic(run, dataset, rows), truth, prices, figures)


def pipeline(store: Path, overrides: list[str]) -> None:
    """The whole pipeline, and the table of what matters in its leaderboard."""
    words = options(store, overrides)
    subprocess.run([sys.executable, "-m", "flows.cli", "run", "-c", CONF, *words], check=True, stdout=sys.stderr)
    experiment = load(CONF, words)
    run_id = latest_evaluation(experiment)
    assert run_id is not None, "the run has left an evaluation"
    found = compared(experiment, curate(experiment, "recall"), run_id)
    heading(f"run STORE {' '.join(overrides)}".strip())
    print("| model | test | 95% interval | trained on | fit | an item |\n|---|---|---|---|---|---|")
    for name in sorted(found.figures, key=lambda name: found.figures[name].mae):
        row, figure = found.rows.get(name, Row(name, "blend")), found.figures[name]
        trained = f"{row.n_train:,}" if row.n_train else ""
        fit = f"{row.fit_seconds:.0f} s" if row.fit_seconds else ""
        each = f"{row.predict_ms:.1f} ms" if row.predict_ms else ""
        ends = f"{figure.mae_low:.2f} to {figure.mae_high:.2f}"
        print(f"| {name} | {figure.mae:.2f} | {ends} | {trained} | {fit} | {each} |")
    print()
    for one, other, said in found.differences():
        print(f"- {one} against {other}: {said}")


def best_classic(run: StageRun, dataset: Dataset, rows: dict[str, Row]) -> str:
    """The classic model with the lowest error on validation."""
    items = read_split(dataset, "validation")
    truth, errors = np.array([item.price for item in items]), {}
    for name, row in rows.items():
        answer = recall(run, row.model_id, "all", items) if row.kind == "baseline" else None
        if answer is not None:
            errors[name] = absolute_error(truth, answer.price).mean()
    return min(errors, key=lambda name: errors[name])


def classic_blend(
    run: StageRun, experiment: Experiment, dataset: Dataset, rows: dict[str, Row], prices: dict[str, np.ndarray]
) -> np.ndarray:
    """The test prices of a blend fitted as the pipeline's, on its items, of those of its members that are no language
    model and beat a constant there."""
    validation, items = read_split(dataset, "validation"), Roles.of(experiment, dataset).blend
    place = {item.id: row for row, item in enumerate(validation)}
    chosen = [place[item.id] for item in items]
    truth, members = np.array([item.price for item in items]), {}
    for name, row in rows.items():
        answer = recall(run, row.model_id, "all", validation) if row.kind == "baseline" else None
        if answer is not None and worse(truth, answer.price[chosen], np.full(len(truth), np.median(truth))) < 0:
            members[name] = answer.price[chosen]
    return Blend.fit(truth, members).answer(prices).price


def opinions_alone(folder: Path, dataset: Dataset, tuned: np.ndarray) -> dict[str, np.ndarray]:
    """The test prices that a fine-tuned model would give if it had learned nothing but what it is told: the mean of the
    logarithms of the opinions, as they are and multiplied by the median of its own prices' ratios to them. What it is
    better by than the second is what it reads in the texts. No truth is used. None if it is told no opinions."""
    told = ModelSpec.load(folder).opinions
    if told is None:
        return {}
    mean = np.expm1(np.log1p(told.ask(read_split(dataset, "test"))).mean(axis=1))
    return {TOLD: mean, LEVEL: mean * np.median(tuned / mean)}


def ablations(store: Path, overrides: list[str]) -> None:
    """The adapters of every row compared with those of the first, seed by seed; what is done is not done again."""
    heading(f"ablations STORE {' '.join(overrides)}".strip())
    print("| what | error | 95% interval | difference to the first | for each seed |\n|---|---|---|---|---|")
    first: list[np.ndarray] = []
    for name, changes in ABLATIONS.items():
        answers = [ablation(store, [*overrides, *changes, f"seed={seed}"], ways=not changes) for seed in SEEDS]
        truths = [truth for truth, _ in answers]
        for way in answers[0][1]:
            prices = [rows[way] for _, rows in answers]
            first = first or prices
            beside, each = "", ""
            if prices is not first:
                beside = difference(*map(np.concatenate, (truths, prices, first)))
                each = ", ".join(f"{worse(*three):+.2f}" for three in zip(truths, prices, first, strict=True))
            shown = error_of(np.concatenate(truths), np.concatenate(prices))
            print(f"| {name}, {way} | {shown} | {beside} | {each} |", flush=True)
    print(f"\n{len(SEEDS)} adapters a row, each asked for {len(truths[0])} validation items.")


def ablation(store: Path, overrides: list[str], ways: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The validation prices and what one adapter answers: its median, and in all other `ways` too if asked to."""
    experiment = load(CONF, options(store, ["finetune.checkpoints=1", *overrides]))
    dataset = curate(experiment)
    (adapter,) = finetune(experiment, dataset)
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what a training freed: of eight, 7 GB
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    items = Roles.of(experiment, dataset).first
    client = connect(experiment)
    answer = recall(run_of(client, adapter), adapter.model_id, "validation", items)
    rows = {"median": answer.price}
    if ways:
        known = answer.distribution
        rows |= {name: way(known.probabilities, known.prices) for name, way in ESTIMATORS.items() if name != "median"}
    if ways and experiment.finetune.answer.by == "text":
        rows["greedy text"] = greedy(model_folder(client, adapter.model_id), items)
    return np.array([item.price for item in items]), rows


def run_of(client: MlflowClient, checkpoint: Candidate) -> StageRun:
    """The finished run of a training that made a checkpoint."""
    made_in = client.get_logged_model(checkpoint.model_id).source_run_id
    return StageRun(client, client.get_run(made_in), "finetune", done=True)


def classic(store: Path, overrides: list[str]) -> None:
    """Two classic models on all there is, and on the items and the words that the language model of the conf gets."""
    experiment = load(CONF, options(store, overrides))
    conf, dataset = experiment.finetune, curate(experiment)
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    fewer = sample(train, conf.train_items, experiment.seed)
    truth = np.array([item.price for item in validation])
    heading(f"classic STORE {' '.join(overrides)}".strip())
    print(f"{len(validation)} validation items.\n")
    print("| model | items | text | error | 95% interval | difference to the first |\n|---|---|---|---|---|---|")
    for entry in CLASSIC:
        first = None
        for items, told in itertools.product((train, fewer), ("whole", f"{conf.prompt.text_tokens} tokens")):
            given = [column if told == "whole" else as_asked(column, conf) for column in (items, validation)]
            price = Classic.fit(entry, *given, experiment.seed).predict(given[1]).price
            first = price if first is None else first
            beside = "" if price is first else difference(truth, price, first)
            print(f"| {entry} | {len(items):,} | {told} | {error_of(truth, price)} | {beside} |", flush=True)


def as_asked(items: Sequence[Item], conf: Finetune) -> list[Item]:
    """The items as a language model is shown them: no category, no details but those in the text, and that cut."""
    prompt = conf.prompt.model_copy(update={"question": "", "prefix": "", "comparables": 0})
    shown = [Item.from_text(text) for text in render(items, prompt, load_tokenizer(conf.base))]
    return [dataclasses.replace(one, id=item.id, price=item.price) for one, item in zip(shown, items, strict=True)]


def error_of(truth: np.ndarray, price: np.ndarray) -> str:
    """Two cells: the mean absolute error and its interval."""
    errors = absolute_error(truth, price)
    low, high = bootstrap_interval(errors[None], seed=0)
    return f"{errors.mean():.2f} | {low[0]:.2f} to {high[0]:.2f}"


def greedy(folder: Path, items: Sequence[Item]) -> np.ndarray:
    """The prices in the most probable texts of an adapter; 0 where a text holds none, as the recipe has it."""
    tuned = LanguageModel.load(folder)
    answer = tuned.spec.answer.model_copy(update={"estimate": GREEDY})
    spec = dataclasses.replace(tuned.spec, answer=answer)
    return np.nan_to_num(LanguageModel(spec, tuned.model, tuned.tokenizer).predict(items).price)


def worse(truth: np.ndarray, price: np.ndarray, other: np.ndarray) -> float:
    """How much larger the error of the first is than that of the second."""
    return float((absolute_error(truth, price) - absolute_error(truth, other)).mean())


def difference(truth: np.ndarray, price: np.ndarray, other: np.ndarray) -> str:
    """How much larger the error of the first is than that of the second, by the paired test."""
    result = paired_comparison(absolute_error(truth, other), absolute_error(truth, price), seed=0)
    return f"{result.difference:+.2f} ({result.low:+.2f} to {result.high:+.2f}), p = {result.p_value:.4f}"


def heading(words: str, module: str = "finetune_quality") -> None:
    """When, where and by which command."""
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}: "
          f"`python -m benchmarks.{module} {words}`\n")  # fmt: skip


if __name__ == "__main__":
    commands = {"run": pipeline, "ablations": ablations, "classic": classic}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])

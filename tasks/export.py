"""A registered model as a folder to take away: a merged 16-bit model, an adapter or a classic model, with its card."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.config.experiment import Data, Experiment
from tasks.data.items import Item
from tasks.data.splits import Dataset, read_split, sample
from tasks.errors import UserError, writing_to
from tasks.models.language.base_model import EMBEDDED, load_config
from tasks.models.language.model import ModelSpec
from tasks.models.language.prompts import example, in_words
from tasks.models.loading import current_rules, load_predictor, load_rules
from tasks.models.predictor import Predictions
from tasks.scoring.metrics import HIT_SHARE, absolute_error, hit_dollars, is_hit, measure
from tasks.scoring.origin import Origin
from tasks.scoring.predictions import recall
from tasks.scoring.record import Record, open_run, products, read_predictions
from tasks.scoring.resampling import bootstrap_interval
from tasks.scoring.rows import Row
from tasks.scoring.wording import amount
from tasks.tracking.registry import expected
from tasks.tracking.runs import MODEL_ID, RULES, Candidate, candidate
from tasks.tracking.store import connect, model_folder

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData
    from mlflow.entities.model_registry import ModelVersion

CARD = Path(__file__).parent / "report" / "templates" / "model_card.md.j2"
# The base models that come with this project: what they are called on the hub, and their licences.
ORIGINS = {
    "smollm2-135m": (EMBEDDED["smollm2-135m"].hub_id, "apache-2.0"),
    "tiny-random": ("tiny-random", "mit"),
}


@dataclasses.dataclass(frozen=True)
class Exported:
    """What is exported: the model, the rules that clean texts for it, its row in the evaluation that promoted it, and
    what it answered there, in `unit`. Intervals that the row has not are `judged` by the seed and the resamples of the
    conf, and the families of the items."""

    version: ModelVersion | SimpleNamespace
    model: Candidate
    source: Path
    dataset: Dataset
    items: list[Item]
    answers: Predictions
    provenance: dict[str, str]
    unit: str
    row: Row
    judged: dict[str, Any]
    rules: Data | None = None


def export(experiment: Experiment, folder: Path, alias: str, *, adapter: bool = False, items: int = 100) -> list[str]:
    """Write the model with an alias into a new or empty folder, whole or not at all; returns what there is to say.

    A language model is merged into the 16-bit weights of its base, unless only its `adapter` is wanted: merging into
    the 4-bit ones would change its answers more (peft#2321). It is then scored again on so many test items.

    Raises:
        UserError: the folder holds something or cannot be replaced, nobody has the alias, or there is no adapter.
    """
    if items < 1:
        raise UserError(f"-n {items}: a merged model is scored on 1 test item or more.")
    with writing_to(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty. Give a new folder, so that nothing is overwritten.")
    place = folder.resolve()
    if place.is_mount() or place == Path.cwd():
        kind = "a mounted folder" if place.is_mount() else "the current folder"
        raise UserError(f"{folder} is {kind}, and the finished model is moved into its place. Give a new folder.")
    found = _find(experiment, alias)
    has_adapter = (found.source / "adapter").is_dir()
    if adapter and not has_adapter:
        raise UserError(f"The {alias}, {found.model.name}, has no adapter. Leave --adapter out.")
    is_language = json.loads((found.source / "predictor.json").read_text(encoding="utf-8"))["predictor"] == "language"
    form = "adapter" if adapter else "merged" if is_language else "saved"
    part = place.with_name(f".{os.getpid()}.part")  # whose name is not too long where the folder's is just not
    with writing_to(folder):
        part.mkdir(parents=True)
    try:
        again = ""
        if form == "merged":
            _merge(found.source, part)
            again = _score_again(found, part, sample(found.items, items, experiment.seed))
        else:
            shutil.copytree(found.source, part, dirs_exist_ok=True)
        if found.rules:
            (part / RULES).write_text(found.rules.rules(), encoding="utf-8")
        _write_card(found, part, form, again)
        part.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    origin = Origin.read(found.version.tags) or found.model.name
    named = f"{found.version.name} version {found.version.version}: {origin}; {form}"
    return [named, *([again] if again else []), str(folder)]


def _find(experiment: Experiment, alias: str) -> Exported:
    version = expected(experiment, alias)
    client = connect(experiment)
    model_id = version.tags[MODEL_ID]
    run = open_run(experiment, version.tags["evaluation"])
    record = Record.read(run)
    dataset = record.whole_dataset(experiment)
    items = read_split(dataset, "test")
    answers = recall(run, model_id, "test", items)
    if answers is None:
        raise UserError(f"The predictions of {model_id} are gone. Run `pricewright evaluate --again` first.")
    model = candidate(client.get_logged_model(model_id))
    source = model_folder(client, model_id)
    rules = current_rules(experiment, model_id, load_rules(source))
    # Not as the conf has it today, which may have another data.currency than the run that made these figures.
    unit = (Origin.read(version.tags) or rules or experiment.data).unit
    row = next(row for row in record.rows if row.model_id == model_id)
    judged: dict[str, Any] = {"seed": experiment.seed, "resamples": experiment.evaluate.resamples}
    judged |= {"families": products(read_predictions(run), [item.id for item in items])}
    return Exported(version, model, source, dataset, items, answers, record.provenance, unit, row, judged, rules)


def _merge(source: Path, folder: Path) -> None:
    """The base model in 16 bits with the adapter of `source` in it, its tokenizer, and the spec that reads it."""
    import torch

    from tasks.models.language.model import LanguageModel

    spec = ModelSpec.load(source)
    if getattr(load_config(spec.base), "quantization_config", None):
        raise UserError(
            f"The weights of {spec.base} are stored in few bits, into which no adapter is merged. Give --adapter, "
            "which exports the adapter alone."
        )
    whole = dataclasses.replace(spec, quantization=None)
    language = LanguageModel.of(whole, source / "adapter" if (source / "adapter").is_dir() else None)
    model: Any = language.model  # with an adapter it is PEFT's, which transformers' type does not know
    merged = model.merge_and_unload() if hasattr(model, "peft_config") else model
    merged.to(torch.bfloat16).save_pretrained(folder)
    language.tokenizer.save_pretrained(folder)
    if language.head is not None:
        language.head.save(folder)
    dataclasses.replace(whole, base=".").save(folder)


def _score_again(found: Exported, folder: Path, items: list[Item]) -> str:
    place = {item.id: row for row, item in enumerate(found.items)}
    before = found.answers.price[[place[item.id] for item in items]]
    after = load_predictor(folder).predict(items).price
    truth = np.array([item.price for item in items])
    errors = [float(np.nanmean(absolute_error(truth, guess))) for guess in (before, after)]
    moved = float(np.nanmean(np.abs(after - before)))
    return (
        f"Merged in 16 bits and scored again on {len(items)} test items: error {amount(errors[1], found.unit)}, "
        f"before {amount(errors[0], found.unit)}; a price moves by {amount(moved, found.unit)} on average."
    )


def _write_card(found: Exported, folder: Path, form: str, again: str) -> None:
    """`README.md` as the hub's model cards are: YAML front matter, and what a reader wants to know."""
    from huggingface_hub import ModelCard
    from jinja2 import Environment, StrictUndefined

    spec = None if form == "saved" else ModelSpec.load(found.source)
    origins = [_origin(base) for base in _bases(found.source)]
    base = ", ".join(dict.fromkeys(name for name, _ in origins)) or None
    licence = ", ".join(dict.fromkeys(licence for _, licence in origins)) or None
    for adapter in folder.rglob("adapter_config.json"):
        _clean_adapter(adapter.parent, base)
    tags, step = found.version.tags, found.model.step
    origin = {
        "base model": base,
        "licence of the base model": licence,
        "registered as": f"{found.version.name}, version {found.version.version}",
        "how it came to be promoted": tags.get("decision"),
        "data": f"{found.dataset.name}, digest {found.dataset.digest}",
        **{key: value for key, value in found.provenance.items() if key != "tracking"},
    }
    figures = measure([item.price for item in found.items], found.answers)
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    body = environment.from_string(CARD.read_text(encoding="utf-8")).render(
        title=found.version.name,
        unit=found.unit,
        model=found.model.name if step is None else f"{found.model.name}, step {step}",
        n=int((~np.isnan(found.answers.price)).sum()),
        interval=figures["coverage"] is not None,
        metrics=_metric_lines(found, figures),
        dataset=found.dataset,
        origin={key: value for key, value in origin.items() if value},
        again=again,
        form=form,
        base=base,
        answer=spec.answer if spec else None,
        prompt=example(in_words(spec.prompt, spec.answer)) if spec else None,
    )
    data = _front_matter(found, form, base, licence, figures)
    (folder / "README.md").write_text(str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")), encoding="utf-8")


def _front_matter(
    found: Exported, form: str, base: str | None, licence: str | None, figures: dict[str, float | None]
) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    dataset: dict[str, Any] = {
        "dataset_type": found.dataset.name,
        "dataset_name": found.dataset.name,
        "dataset_split": "test",
        "dataset_revision": found.dataset.digest,
    }
    results = [
        EvalResult(task_type="price-prediction", metric_type=name, metric_value=round(value, 4), **dataset)
        for name, value in figures.items()
        if value is not None
    ]
    return ModelCardData(
        license=licence,
        base_model=base,
        library_name={"merged": "transformers", "adapter": "peft"}.get(form),
        pipeline_tag="tabular-regression" if form == "saved" else "text-generation",
        tags=["pricewright"],
        model_name=found.version.name,
        eval_results=results,
    )


def _metric_lines(found: Exported, figures: dict[str, float | None]) -> list[tuple[str, str, str]]:
    """Name, value and 95% interval of what a reader of the card wants; the others stand in the front matter."""
    truth, answers = np.array([item.price for item in found.items]), found.answers
    gaps = np.isnan(answers.price)
    inside = (answers.low <= truth) & (truth <= answers.high)
    price, share = partial(amount, unit=found.unit), "{:.0%}".format
    per_item = {
        "mae": ("mean absolute error", price, absolute_error(truth, answers.price)),
        "hits": (f"within {_within(truth, found.unit)}", share, np.where(gaps, np.nan, is_hit(truth, answers.price))),
        "coverage": ("inside the 80% interval", share, np.where(np.isnan(answers.low), np.nan, inside)),
    }
    lows, highs = bootstrap_interval(np.stack([values for *_, values in per_item.values()]), **found.judged)
    low, high = found.row.mae_low, found.row.mae_high
    if low is not None and high is not None:
        lows[0], highs[0] = low, high  # those of the leaderboard, whatever the conf says now
    return [
        (name, written(figures[key]), f"{written(low)} to {written(high)}")
        for (key, (name, written, _)), low, high in zip(per_item.items(), lows, highs, strict=True)
        if figures[key] is not None
    ]


def _within(truth: np.ndarray, unit: str) -> str:
    near = hit_dollars(truth)
    return f"{amount(near, unit, 'g')} or {HIT_SHARE:.0%}" if near else f"{HIT_SHARE:.0%}"


def _bases(folder: Path) -> list[str]:
    """The base models of what is saved in a folder: of a language model, or of those among the members of a blend."""
    saved = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
    if saved["predictor"] == "language":
        return [ModelSpec.load(folder).base]
    members = sorted(path.parent for path in folder.glob("members/*/predictor.json"))
    return list(dict.fromkeys(base for member in members for base in _bases(member)))


def _origin(base: str) -> tuple[str, str]:
    """The name and licence of a base model, as far as they are known on this machine."""
    from huggingface_hub import ModelCard

    if base in ORIGINS:
        return ORIGINS[base]
    card = Path(base) / "README.md"
    try:
        licence = ModelCard.load(card if Path(base).is_dir() else base).data.license
    except Exception:  # no card, no network, or a card that is none
        licence = None
    return Path(base).name if Path(base).is_dir() else base, licence or "unknown"


def _clean_adapter(folder: Path, base: str | None) -> None:
    """The base by its public name instead of a path of this machine; PEFT's card, which is a form to fill in, goes."""
    file = folder / "adapter_config.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**fields, "base_model_name_or_path": base}, indent=2), encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)

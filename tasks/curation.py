"""Curate: raw rows become three frozen, digested splits and a data card."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from prefect import task

from tasks.config import Data, Experiment
from tasks.digests import code_digest, digest, file_digest, fraction
from tasks.errors import UserError
from tasks.items import Item, RejectedError, from_row
from tasks.progress import Progress
from tasks.sources import list_files, read_files, source_of
from tasks.splits import SPLITS, Dataset, Split, items_digest, sample, write_split
from tasks.tracking import Mode, StageRun, stage


def curate(experiment: Experiment, mode: Mode = "reuse") -> Dataset:
    """The curated dataset of the experiment.

    Raises:
        UserError: the data are missing, unreadable or empty, or every row was rejected.
    """
    source, data = source_of(experiment.data), experiment.data
    key = digest(
        {
            "stage": "curate",
            "data": data.model_dump(exclude={"path", "test_path"}),
            "source": source.identity(data, experiment.seed),
            "test": [file_digest(file) for file in list_files(data.test_path)] if data.test_path else None,
            "seed": experiment.seed,
            "code": code_digest("tasks.curation"),
        }
    )
    with stage(experiment, "curate", key, command="pricewright curate", mode=mode) as run:
        if not run.done:
            split_rows(experiment, run)
        card = run.read_json("card.json")
        path = run.artifact(f"splits/{card['digest']}")
        return Dataset(card["name"], card["digest"], str(path), card["rows"], card["generated"])


@task(name="curate")
def split_rows(experiment: Experiment, run: StageRun) -> None:
    """Read, clean, split, and keep the splits with their card."""
    data, seed = experiment.data, experiment.seed
    source = source_of(data)
    run.log_params({"seed": seed, "data": data.model_dump()})
    report = Report()
    items = merge_duplicates(clean(source.rows(data, seed), data, report), report)
    fixed = clean_fixed_test(data)
    splits = split_items(items, fixed, data, seed, report)
    empty = [name for name in SPLITS if not splits[name]]
    if empty:
        raise UserError(f"No items for {', '.join(empty)}: {report.summary()} Give more data or wider rules.")
    content = digest({name: items_digest(splits[name]) for name in SPLITS})
    name = data.name or data.source
    card = {
        "name": name,
        "digest": content,
        "generated": source.generated,
        "rows": {split: len(splits[split]) for split in SPLITS},
        "read": report.read,
        "dropped": dict(report.dropped),
        "examples": report.examples,
        "price": {split: describe(splits[split]) for split in SPLITS},
        "categories": dict(Counter(item.category or "(none)" for item in items).most_common()),
        "rules": data.model_dump(mode="json", exclude={"path", "test_path"}),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for split in SPLITS:
            write_split(folder, split, splits[split])
        (folder / "card.md").write_text(render_card(card), encoding="utf-8")
        run.log_folder(folder, f"splits/{content}")
        for split in SPLITS:
            run.log_dataset(folder / f"{split}.parquet", name=name, digest=content, context=split)
    run.log_json(card, "card.json")
    run.log_metrics({f"rows_{split}": len(splits[split]) for split in SPLITS})


@dataclass
class Report:
    """What happened to the rows: how many were read, dropped by reason, with a few examples of each."""

    read: int = 0
    dropped: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, what: str) -> None:
        self.dropped[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < 10:
            shown.append(what[:120])

    def summary(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common()) or "none dropped"
        return f"{self.read} rows read; {reasons}."


def clean(rows: Iterable[dict], data: Data, report: Report) -> list[Item]:
    """The items among the rows that keep to the rules of the conf.

    Raises:
        UserError: there are no rows, or all are rejected.
    """
    items = []
    with Progress("curating", unit="rows") as progress:
        for row in rows:
            report.read += 1
            progress.advance()
            try:
                item = from_row(row)
                _gate(item, data)
            except RejectedError as rejection:
                report.drop(str(rejection), str(row.get("title") or row.get("id") or row))
                continue
            items.append(item)
    if not report.read:
        raise UserError("The data hold no rows. Expected rows with a title or text, and a price.")
    if not items:
        raise UserError(f"Every row was rejected: {report.summary()} Expected rows with a title or text, and a price.")
    return items


def _gate(item: Item, data: Data) -> None:
    if not data.price_min <= item.price <= data.price_max:
        raise RejectedError(f"price outside {data.price_min:g} to {data.price_max:g}")
    if len(item.title) + len(item.text) < data.text_min:
        raise RejectedError(f"text shorter than {data.text_min} characters")


def merge_duplicates(items: list[Item], report: Report) -> list[Item]:
    """One item for each text and for each id, the same whatever the order of the rows; sorted by id."""
    kept: dict[str, Item] = {}
    ids: set[str] = set()
    for item in sorted(items, key=lambda item: (item.id, item.title, item.text, item.price)):
        key = _sameness(item)
        if key in kept:
            report.drop("duplicate of another row", item.title or item.text)
        elif item.id in ids:
            report.drop("id of another row", item.title or item.text)
        else:
            kept[key] = item
            ids.add(item.id)
    return list(kept.values())


def _sameness(item: Item) -> str:
    return f"{item.title}\n{item.text}".casefold()


def clean_fixed_test(data: Data) -> list[Item]:
    """The fixed test set of the conf, cleaned, but never dropped, merged or moved; empty where there is none.

    Raises:
        UserError: a row has no text or no price, or two share an id.
    """
    items = []
    for number, row in enumerate(read_files(data.test_path) if data.test_path else (), 1):
        try:
            items.append(from_row(row))
        except RejectedError as rejection:
            message = f"Row {number} of {data.test_path}: {rejection}. A fixed test set is kept whole; mend the row."
            raise UserError(message) from None
    if len({item.id for item in items}) < len(items):
        raise UserError(f"Two rows of {data.test_path} share an id. Expected one id for each test item.")
    return items


def split_items(items: list[Item], fixed: list[Item], data: Data, seed: int, report: Report) -> dict[Split, list[Item]]:
    """Each item's split is a hash of its own content, so that adding data never moves an item."""
    known = {_sameness(item) for item in fixed} | {item.id for item in fixed}
    splits: dict[Split, list[Item]] = {name: [] for name in SPLITS}
    test_share = 0.0 if fixed else data.test_share
    for item in items:
        if _sameness(item) in known or item.id in known:
            report.drop("stands in the fixed test set", item.title or item.text)
            continue
        place = fraction(seed, _sameness(item))
        if place < test_share:
            splits["test"].append(item)
        elif place < test_share + data.validation_share:
            splits["validation"].append(item)
        else:
            splits["train"].append(item)
    caps = {"train": data.train_items, "validation": data.validation_items, "test": data.test_items}
    splits = {name: sample(splits[name], caps[name], seed) for name in SPLITS}
    return {**splits, "test": fixed} if fixed else splits


def describe(items: list[Item]) -> dict[str, float]:
    """Mean and quantiles of the prices."""
    prices = np.array([item.price for item in items])
    quantiles = np.quantile(prices, [0.05, 0.25, 0.5, 0.75, 0.95])
    named = dict(zip(["5%", "25%", "50%", "75%", "95%"], quantiles.tolist(), strict=True))
    return {"mean": float(prices.mean()), **named}


def render_card(card: dict) -> str:
    """The data card as Markdown."""
    label = "\n**Generated data**: no product here exists, and no price was ever asked.\n"
    generated = label if card["generated"] else ""
    rows = "\n".join(
        f"| {split} | {card['rows'][split]:,} | " + " | ".join(f"{value:.2f}" for value in prices.values()) + " |"
        for split, prices in card["price"].items()
    )
    dropped = "\n".join(f"- {count:,}: {reason}" for reason, count in card["dropped"].items()) or "- none"
    categories = "\n".join(f"- {count:,}: {name}" for name, count in card["categories"].items())
    rules = "\n".join(f"- {key}: {value}" for key, value in card["rules"].items() if value is not None)
    return f"""# {card["name"]} ({card["digest"]})
{generated}
| split | items | mean price | 5% | 25% | 50% | 75% | 95% |
|---|---|---|---|---|---|---|---|
{rows}

{card["read"]:,} rows read. Dropped:
{dropped}

Categories:
{categories}

Rules:
{rules}
"""

"""A fixed test set that holds several variants of a product tells less than its number of items, and that is said."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.splits import Dataset, read_split

pytestmark = pytest.mark.usefixtures("without_prefect")
COLOURS = ("red", "blue", "green", "black", "white")


def products(count: int) -> list[dict]:
    """Rows whose texts have nothing in common."""
    rng = random.Random(2)
    words = [[*map("".join, (rng.sample("abcdefghij", 5) for _ in range(40)))] for _ in range(count)]
    return [{"id": f"{n:04}", "title": " ".join(title), "price": 1 + n} for n, title in enumerate(words)]


def test_a_fixed_test_set_of_variants_is_said(tmp_path: Path, at: Callable, capsys: pytest.CaptureFixture) -> None:
    """At once, in the card, and to the evaluation, which counts each of them as an item of its own; the items are the
    same. Of a set with few variants, or where no near duplicates are looked for, nothing is said."""
    raw, (items, fixed) = products(80), (tmp_path / "items.jsonl", tmp_path / "fixed.jsonl")
    items.write_text("\n".join(map(json.dumps, raw[30:])), encoding="utf-8")
    words = [*at(tmp_path), "data.source=files", f"data.path={items}", f"data.test_path={fixed}"]

    def curated(rows: list[dict], *overrides: str) -> tuple[Dataset, str]:
        fixed.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return curate(load("conf/smoke.yaml", [*words, *overrides])), capsys.readouterr().err

    variants = [
        {**row, "id": f"{row['id']}-{colour}", "title": f"{row['title']} {colour}"}
        for row in raw[:30]
        for colour in COLOURS
    ]
    dataset, said = curated(variants)
    assert "150 test items are of 30 products: errors on variants" in said and dataset.test_products == 30
    assert len(read_split(dataset, "test")) == 150
    card = (Path(dataset.path) / "card.md").read_text()
    assert "- 120: item of the fixed test set nearly the same as one before it" in card
    unasked, silent = curated(variants, "data.near=null")
    assert "products" not in silent and unasked.test_products is None and unasked.digest == dataset.digest
    few, silent = curated([*raw[:29], variants[0]])
    assert "products" not in silent and few.test_products is None

"""Raw rows become three frozen splits, the same in any order, and nothing leaks between them."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.catalogue import generate
from tasks.config import Experiment, load
from tasks.curation import curate
from tasks.errors import UserError
from tasks.splits import SPLITS, read_split


def rows(count: int) -> list[dict]:
    return list(generate(count, seed=3))


@pytest.fixture
def curated(tmp_path: Path, at: Callable) -> Callable:
    """Curates rows from a JSONL file."""

    def run(raw: list[dict], *overrides: str, name: str = "items.jsonl"):
        file = tmp_path / name
        file.write_text("\n".join(json.dumps(row) for row in raw), encoding="utf-8")
        experiment = load("conf/smoke.yaml", [*at(tmp_path), "data.source=files", *overrides])
        data = experiment.data.model_copy(update={"path": str(file)})
        return curate(experiment.model_copy(update={"data": data}))

    return run


def test_the_digest_depends_on_content_and_not_on_order(curated: Callable) -> None:
    """Shuffled rows give the same dataset; one changed price gives another."""
    raw = rows(120)
    first = curated(raw)
    shuffled = random.Random(1).sample(raw, len(raw))
    assert curated(shuffled, name="shuffled.jsonl").digest == first.digest
    changed = [{**raw[0], "price": raw[0]["price"] + 1}, *raw[1:]]
    assert curated(changed, name="changed.jsonl").digest != first.digest
    assert Path(first.path).name == first.digest


def test_adding_data_never_moves_an_item(curated: Callable) -> None:
    """Each item's split is a hash of its own content."""
    small, large = curated(rows(120)), curated(rows(240), name="large.jsonl")
    for split in SPLITS:
        assert {item.id for item in read_split(small, split)} <= {item.id for item in read_split(large, split)}


def test_duplicates_are_merged_and_splits_are_disjoint(curated: Callable) -> None:
    """The same text twice is one item, and no id stands in two splits."""
    raw = rows(120)
    dataset = curated([*raw, *({**row, "id": f"again-{row['id']}"} for row in raw)])
    ids = [item.id for split in SPLITS for item in read_split(dataset, split)]
    assert len(ids) == len(set(ids)) == 120


def test_a_fixed_test_set_is_kept_whole_and_nothing_of_it_is_trained_on(curated: Callable, tmp_path: Path) -> None:
    """Its rows are cleaned, but never dropped by price or length; training rows that repeat them go."""
    raw = rows(120)
    fixed = [{**raw[0], "price": 5000}, {"id": "short", "title": "x", "price": 1}, *raw[1:9]]
    file = tmp_path / "fixed.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in fixed), encoding="utf-8")
    dataset = curated(raw, f"data.test_path={file}")
    test = {item.id for item in read_split(dataset, "test")}
    assert test == {str(row["id"]) for row in fixed}
    assert not test & {item.id for split in ("train", "validation") for item in read_split(dataset, split)}


def test_the_card_counts_what_was_dropped_and_why(curated: Callable) -> None:
    """Every row read is either kept or counted under a reason."""
    raw = rows(120)
    bad = [
        {"title": "no price at all, sadly"},
        {"title": "x", "price": 3},
        {"title": "too dear for this" * 3, "price": 1e6},
    ]
    dataset = curated([*raw, *bad, raw[0]])
    card = (Path(dataset.path) / "card.md").read_text()
    for line in ("- 1: no price", "- 1: text shorter than 20 characters", "- 1: price outside 0.5 to 999.49"):
        assert line in card
    assert "- 1: duplicate of another row" in card
    assert "124 rows read" in card


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "hold no rows"),
        ([{"title": "something without a price"}] * 5, "Every row was rejected: 5 rows read; 5 no price"),
        ([{"title": f"a product with number {i}", "price": 5} for i in range(2)], "No items for"),
    ],
)
def test_data_that_leave_nothing_say_why(curated: Callable, raw: list[dict], message: str) -> None:
    """Empty data, data with every row rejected, and too few items are errors the user can mend."""
    with pytest.raises(UserError, match=message):
        curated(raw)


def test_missing_and_broken_files_are_named(tmp_path: Path, at: Callable) -> None:
    """The file, the line and what was expected are in the message."""

    def message(path: str) -> str:
        with pytest.raises(UserError) as caught:
            curate(load("conf/smoke.yaml", [*at(tmp_path), "data.source=files", f"data.path={path}"]))
        return str(caught.value)

    assert "Expected a file, folder or glob" in message(str(tmp_path / "nowhere"))
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"title": "a", "price": 1}\n{"title": ')
    assert "broken.jsonl, line 2, is not JSON" in message(str(broken))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"title": "a", "price": 1}\n' * 1000)[:-20])
    assert "cut.jsonl.gz cannot be read" in message(str(cut))
    with pytest.raises(UserError, match=r"data\.path is not set"):
        curate(load("conf/smoke.yaml", [*at(tmp_path), "data.source=files"]))
    with pytest.raises(UserError, match="there is no source 'sampel'"):
        curate(load("conf/smoke.yaml", [*at(tmp_path), "data.source=sampel"]))


def test_a_damaged_split_is_made_again(experiment: Experiment) -> None:
    """A finished run whose files are no longer as it left them does not count as done."""
    dataset = curate(experiment)
    file = Path(dataset.path) / "train.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    again = curate(experiment)
    assert again.digest == dataset.digest and again.path != dataset.path
    assert (Path(again.path) / "train.parquet").read_bytes() == whole

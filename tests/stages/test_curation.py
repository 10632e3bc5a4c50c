"""Raw rows become three frozen splits, the same in any order, and nothing leaks between them."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from flows.cli.main import main
from tasks import curation
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data import splitting
from tasks.data.catalogue import generate
from tasks.data.files import shards
from tasks.data.splits import SPLITS, Dataset, read_split
from tasks.errors import UserError

pytestmark = pytest.mark.usefixtures("without_prefect")


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


def test_duplicates_are_merged_and_splits_are_disjoint(curated: Callable, capsys: pytest.CaptureFixture) -> None:
    """The same text twice is one item, and no id stands in two splits; that many prices differ is said."""
    raw = enumerate(rows(120) * 2)
    dataset = curated([{**row, "id": f"i{n}", "price": row["price"] + n // 180} for n, row in raw])
    assert "60 rows repeat the text of another one at another price" in capsys.readouterr().err
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


def test_rows_that_share_an_id_with_a_fixed_test_item_are_not_trained_on(curated: Callable, tmp_path: Path) -> None:
    """One or several, of whatever texts; rows that share another id are kept, each with an id of its own."""
    raw = rows(120)
    file = tmp_path / "fixed.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in raw[:2]), encoding="utf-8")
    names = [row["id"] for row in (raw[0], raw[0], raw[1], raw[2])]
    shared = [{**row, "id": name} for row, name in zip(raw[10:14], names, strict=True)]
    splits = held(curated([*shared, *raw[2:10], *raw[20:]], f"data.test_path={file}", "data.near=null"))
    assert {name for name, split in splits.items() if split == "test"} == {row["id"] for row in raw[:2]}
    assert {name.partition("#")[0] for name in splits} == {row["id"] for row in (*raw[:10], *raw[20:])}
    assert len(splits) == 111


def test_a_fixed_test_row_that_cleaning_empties_is_named_with_the_remedy(curated: Callable, tmp_path: Path) -> None:
    """A title of part numbers alone; kept, they are a test item like others."""
    raw = rows(120)
    file = tmp_path / "fixed.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in [*raw[:4], {"id": "part", "title": "WX-4500B1", "price": 5}]))
    with pytest.raises(UserError, match=r"Row 5 of .*fixed\.jsonl: no words in title .* data\.part_numbers=keep"):
        curated(raw, f"data.test_path={file}")
    assert "part" in held(curated(raw, f"data.test_path={file}", "data.part_numbers=keep"))


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


def texts(count: int, words: int = 40, seed: int = 2) -> list[dict]:
    """Rows whose texts have nothing in common."""
    rng = random.Random(seed)
    return [
        {"id": f"{n:04}", "title": " ".join("".join(rng.sample("abcdefghij", 5)) for _ in range(words)), "price": 1 + n}
        for n in range(count)
    ]


def held(dataset: Dataset) -> dict[str, str]:
    """The split of every id."""
    return {item.id: split for split in SPLITS for item in read_split(dataset, split)}


def variants(raw: list[dict]) -> list[list[dict]]:
    """Each row in five colours."""
    colours = ("red", "blue", "green", "black", "white")
    return [[{**row, "id": f"{c}{row['id']}", "title": f"{row['title']} {c}"} for c in colours] for row in raw]


def test_near_duplicates_go_the_same_way(curated: Callable) -> None:
    """A family is whole in train, or one of it, always the same one, is in validation or test; it is drawn as an item
    is. By themselves five variants of each product would leave one family in three to train on."""
    families = variants(texts(150))
    rows = [row for family in families for row in family]
    alone, together = held(curated(rows, "data.near=null")), held(curated(rows, name="near.jsonl"))
    for family in families:
        ids = {row["id"] for row in family}
        if len(left := ids & set(together)) > 1:
            assert left == ids and {together[name] for name in ids} == {"train"}
        else:
            (name,) = left
            assert together[name] == alone[name] != "train"
    assert list(together.values()).count("train") > 0.7 * len(rows)


def test_an_item_moves_only_with_a_near_duplicate(curated: Callable) -> None:
    """What is added with other words moves nothing, and takes nothing out of train."""
    old, new = ([row for family in variants(texts(80, seed=seed)) for row in family] for seed in (2, 3))
    new = [{**row, "id": f"new{row['id']}"} for row in new]
    before, after = held(curated(old)), held(curated([*old, *new], name="grown.jsonl"))
    assert {name: after.get(name) for name in before} == before


def test_the_card_says_what_was_near_to_what(curated: Callable) -> None:
    """Under a reason of its own, with examples."""
    raw = texts(150)
    dataset = curated([row for family in variants(raw) for row in family])
    assert "test item nearly the same as another test item" in (Path(dataset.path) / "card.md").read_text()


def test_nothing_near_a_fixed_test_item_is_trained_on(curated: Callable, tmp_path: Path) -> None:
    """The fixed items stay as they are, near duplicates among themselves too; a row near them goes."""
    raw = texts(120)
    fixed = [{"id": f"f{n}", "title": f"{raw[n]['title']} blue", "price": 5000} for n in range(5)]
    fixed.append({"id": "again", "title": f"{raw[0]['title']} green", "price": 1})
    file = tmp_path / "fixed.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in fixed), encoding="utf-8")
    splits = held(curated(raw, f"data.test_path={file}"))
    assert {name for name, split in splits.items() if split == "test"} == {row["id"] for row in fixed}
    assert not {f"{n:04}" for n in range(5)} & set(splits)
    assert len(splits) == len(fixed) + 115


def test_a_cap_for_each_dollar_draws_by_weight(curated: Callable) -> None:
    """Below the limit only, and a category of no weight is drawn last."""
    raw = [
        {**row, "price": 7 if n < 100 else 500, "category": "light" if n % 2 else "heavy"}
        for n, row in enumerate(texts(160))
    ]
    dataset = curated(raw, "data.slot_items=30", "data.category_weights={light: 0.01}")
    items = [item for split in SPLITS for item in read_split(dataset, split)]
    cheap = [item.category for item in items if item.price == 7]
    assert len(cheap) == 30 and len(items) == 90
    assert cheap.count("heavy") >= 27
    assert "- 70: more than 30 items for one dollar" in (Path(dataset.path) / "card.md").read_text()


def test_a_larger_cap_keeps_what_a_smaller_one_kept(curated: Callable) -> None:
    """The first by hash."""
    small = held(curated(texts(200), "data.train_items=20", "data.test_items=5"))
    large = held(curated(texts(200), "data.train_items=40", "data.test_items=10", name="large.jsonl"))
    assert list(small.values()).count("train") == 20 and list(small.values()).count("test") == 5
    assert small.items() <= large.items()


@pytest.mark.parametrize("runner", ["processes", "threads", "dask"])
def test_the_runner_does_not_change_the_result(
    curated: Callable, runner: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Many shards by processes, by threads, and by the two workers of a Dask cluster: one digest, one card."""
    raw = [*texts(300), {"title": "without a price"}]
    whole = curated(raw)
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    monkeypatch.setattr(curation, "ALONE_BYTES", 0)
    with contextlib.ExitStack() as stack:
        if runner == "dask":
            distributed = pytest.importorskip("distributed")
            place = {"local_directory": str(tmp_path / "dask"), "dashboard_address": None}
            cluster = stack.enter_context(distributed.LocalCluster(n_workers=2, threads_per_worker=1, **place))
            runner = cluster.scheduler_address
        parts = curated(raw, f"data.runner={runner}", "data.name=parts")
    assert parts.digest == whole.digest
    cards = [(Path(dataset.path) / "card.md").read_text().splitlines()[1:-1] for dataset in (whole, parts)]
    assert [line for line in cards[0] if "name" not in line] == [line for line in cards[1] if "name" not in line]


def test_a_worker_that_meets_a_bad_line_names_it(
    tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """The error of another process is the user's to mend, in one message and without a traceback."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 2_000)
    monkeypatch.setattr(curation, "ALONE_BYTES", 0)
    file = tmp_path / "broken.jsonl"
    good = [json.dumps(row) for row in rows(60)]
    file.write_text("\n".join([*good[:40], "{", *good[40:]]), encoding="utf-8")
    assert main(["curate", "-c", "conf/smoke.yaml", *at(tmp_path), "data.source=files", f"data.path={file}"]) == 2
    said = capfd.readouterr().err
    assert "broken.jsonl, line 41, is not JSON" in said and "Traceback" not in said


def test_the_order_of_files_does_not_matter(tmp_path: Path, at: Callable) -> None:
    """The same rows in other files, under other names, give the same digest and need no second curation."""
    raw, digests = rows(120), []
    for name, order in (("one", raw), ("other", raw[::-1])):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(3):
            content = "\n".join(json.dumps(row) for row in order[number::3])
            (folder / f"{number}-{name}.jsonl").write_text(content, encoding="utf-8")
        experiment = load("conf/smoke.yaml", [*at(tmp_path), "data.source=files", f"data.path={folder}"])
        digests.append(curate(experiment).digest)
    assert digests[0] == digests[1]


def test_the_card_is_a_page_that_escapes_what_it_shows(curated: Callable) -> None:
    """With the reasons and their examples, the histogram and the rules; markup in the data stays text."""
    bad = [{"id": f"x{n}", "title": f"<img src=x onerror=alert({n})> lamp", "price": None} for n in range(12)]
    page = (Path(curated([*rows(120), *bad]).path) / "card.html").read_text()
    assert page.count("&lt;img src=x") == 10 and "<img" not in page
    for words in (
        "Dropped, and why",
        "no price",
        "<rect",
        "price_max",
        "default-src &#39;none&#39;",
        "Length of title",
    ):
        assert words in page or words.replace("&#39;", "'") in page


def test_many_rejected_rows_are_said(curated: Callable, capsys: pytest.CaptureFixture) -> None:
    """From 5% on, on standard error, with the reasons and where the card is; fewer are not worth a line."""

    raw = rows(120)
    curated([*raw, {"title": "no price here"}])
    assert "rejected" not in capsys.readouterr().err
    curated([*raw, *({"title": f"no price for number {n}"} for n in range(8))], name="many.jsonl")
    message = capsys.readouterr().err
    assert "6% of the rows were rejected" in message and "8 no price" in message and "card.html" in message


def test_what_a_user_must_know_reaches_the_terminal(
    tmp_path: Path, at: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --debug, on standard error, in a console that knows ASCII alone, and with the decimal mark as documented:
    many rejected rows, ids of several texts, near duplicates in the training items, and an exact price in a text."""
    raw = [{**row, "price": f"{row['price']:.2f}".replace(".", ",")} for row in texts(120)]
    raw += [{**row, "id": "0001", "title": f"{row['title']} red"} for row in raw]
    raw += [{**raw[5], "title": "Ein Stück ★ aus dem Lager 4711", "description": "Nr. 4711,50", "price": "4711,50"}]
    raw += [{"title": f"nothing for number {n}"} for n in range(40)]
    file = tmp_path / "shop.jsonl"
    file.write_text("\n".join(map(json.dumps, raw)), encoding="utf-8")
    options = ["data.source=files", f"data.path={file}", "data.decimal=,", "data.price_max=9999"]
    console = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(console, "ascii", write_through=True))
    assert main(["curate", "-c", "conf/smoke.yaml", *at(tmp_path), *options]) == 0
    whole = console.getvalue().decode("ascii")
    for said in (
        "14% of the rows were rejected.",
        "123 items share their id with another text (such as 00",
        "items are near duplicates of an item that validation or test holds",
        "1 items still hold their exact price",
    ):
        assert said in whole, whole


def test_what_leaves_is_guarded() -> None:
    """A batch that no split may hold stops the stage, and so does an id that stands twice, in two batches too."""
    good = {"id": ["a"], "title": ["t"], "text": [""], "category": [""], "details": ["{}"], "price": [1.0]}
    other = {**good, "id": ["b"]}

    def leave(*batches: dict) -> int:
        return len(list(curation.guarded([pa.RecordBatch.from_pydict(batch) for batch in batches])))

    assert leave(good, other) == 2
    for change in (
        *({"price": [0.0]}, {"price": [float("inf")]}, {"price": [float("nan")]}, {"price": [None]}, {"price": [1]}),
        *({"id": [""]}, {"title": [""]}, {"title": [None]}, {"details": ["x"]}, {"more": ["x"]}),
    ):
        with pytest.raises(AssertionError, match="no split may hold"):
            leave({**good, **change})
    with pytest.raises(AssertionError, match="id twice"):
        leave(good, good)


@pytest.mark.parametrize("name", ["amazon_course_like", "retail_mix", "amazon_electronics_short"])
def test_real_catalogues_become_splits(name: str, tmp_path: Path, at: Callable) -> None:
    """Thousands of products, few dropped; no text twice."""
    folder = os.environ.get("PRICEWRIGHT_DATA")
    if not folder:
        pytest.skip("PRICEWRIGHT_DATA names no folder of real catalogues")
    path = f"data.path={folder}/{name}/items.jsonl.gz"
    dataset = curate(load("conf/files.yaml", [*at(tmp_path), path]))
    assert dataset.rows["validation"] == dataset.rows["test"] == 500 and dataset.rows["train"] > 9_000


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


def test_splits_of_any_size_are_whole_and_sorted(curated: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large to be sorted at once is sorted in parts: the same items in the same order."""
    whole = curated(rows(200))
    monkeypatch.setattr(splitting, "BUCKET", 20)
    monkeypatch.setattr(splitting, "SAMPLE_PER_BUCKET", 3)
    parts = curated(rows(200))
    for split in SPLITS:
        items = read_split(parts, split)
        assert items == read_split(whole, split)
        assert [item.id for item in items] == sorted(item.id for item in items)


def test_a_damaged_split_is_made_again(experiment: Experiment) -> None:
    """A finished run whose files are no longer as it left them does not count as done."""
    dataset = curate(experiment)
    file = Path(dataset.path) / "train.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    again = curate(experiment)
    assert again.digest == dataset.digest and again.path != dataset.path
    assert (Path(again.path) / "train.parquet").read_bytes() == whole

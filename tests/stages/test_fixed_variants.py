"""A fixed test set that holds several variants of a product tells as much as its products do, and that is said."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.baselines import fit_baselines
from tasks.config.loading import load
from tasks.curation import curate
from tasks.data.splits import Dataset, read_split
from tasks.evaluation import evaluate
from tasks.promotion import promote
from tasks.report.board import read_leaderboard
from tasks.report.figures import errors_by_group, running
from tasks.scoring.record import PREDICTIONS, Record, open_run
from tasks.scoring.resampling import bootstrap_interval

pytestmark = pytest.mark.usefixtures("without_prefect")
COLOURS = ("red", "blue", "green")


def products(count: int) -> list[dict]:
    """Rows whose texts have nothing in common."""
    rng = random.Random(2)
    words = [[*map("".join, (rng.sample("abcdefghij", 5) for _ in range(40)))] for _ in range(count)]
    return [{"id": f"{n:04}", "title": " ".join(title), "price": 1 + n} for n, title in enumerate(words)]


def in_colours(rows: list[dict]) -> list[dict]:
    """Each row in three colours."""
    return [
        {**row, "id": f"{row['id']}-{colour}", "title": f"{row['title']} {colour}"}
        for row in rows
        for colour in COLOURS
    ]


def test_a_fixed_test_set_of_variants_is_said(tmp_path: Path, at: Callable, capsys: pytest.CaptureFixture) -> None:
    """At once, in the card, and to the evaluation; the items are the same. Of a set with few variants, or where no near
    duplicates are looked for, nothing is said."""
    raw, (items, fixed) = products(80), (tmp_path / "items.jsonl", tmp_path / "fixed.jsonl")
    items.write_text("\n".join(map(json.dumps, raw[30:])), encoding="utf-8")
    words = [*at(tmp_path), "data.source=files", f"data.path={items}", f"data.test_path={fixed}"]

    def curated(rows: list[dict], *overrides: str) -> tuple[Dataset, str]:
        fixed.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return curate(load("conf/smoke.yaml", [*words, *overrides])), capsys.readouterr().err

    variants = in_colours(raw[:30])
    dataset, said = curated(variants)
    assert "90 test items are of 30 products: errors on variants" in said and dataset.test_products == 30
    assert len(read_split(dataset, "test")) == 90
    card = (Path(dataset.path) / "card.md").read_text()
    assert "- 60: item of the fixed test set nearly the same as one before it" in card
    unasked, silent = curated(variants, "data.near=null")
    assert "products" not in silent and unasked.test_products is None and unasked.digest == dataset.digest
    few, silent = curated([*raw[:29], variants[0]])
    assert "products" not in silent and few.test_products is None


def test_products_are_counted_and_not_their_variants(tmp_path: Path, at: Callable) -> None:
    """By the intervals of the leaderboard and of the report, and by the number of new products that a champion can be
    judged on; the products stand beside the predictions."""
    raw, (items, fixed) = products(160), (tmp_path / "items.jsonl", tmp_path / "fixed.jsonl")
    items.write_text("\n".join(map(json.dumps, raw[60:])), encoding="utf-8")
    words = [
        *at(tmp_path),
        "data.source=files",
        f"data.path={items}",
        f"data.test_path={fixed}",
        "finetune.enabled=false",
    ]
    words += ["evaluate.api=[]", "evaluate.resamples=200"]

    def night(model: str, rows: list[dict], *overrides: str) -> tuple[str, str]:
        fixed.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        experiment = load("conf/smoke.yaml", [*words, f"baselines.models=[{model}]", *overrides])
        dataset = curate(experiment)
        run_id = evaluate(experiment, dataset, fit_baselines(experiment, dataset)).run_id
        return run_id, promote(experiment, run_id).decision

    by_item, _ = night("constant", in_colours(raw[:40]), "data.near=null")  # where no near duplicates are looked for
    run_id, _ = night("constant", in_colours(raw[:40]))
    experiment = load("conf/smoke.yaml", words)
    run = open_run(experiment, run_id)
    rows = pq.read_table(run.artifact(PREDICTIONS), filters=[("model", "=", "constant")]).to_pandas()
    assert len(rows) == 120 and set(rows["product"]) == {min(f"{row['id']}-{c}" for c in COLOURS) for row in raw[:40]}
    errors, judged = np.abs(rows["price"] - rows["truth"]).to_numpy(), {"seed": experiment.seed, "resamples": 200}
    row, by_items = Record.read(run).rows[0], bootstrap_interval(errors[None], **judged)
    by_products = bootstrap_interval(errors[None], **judged, families=rows["product"])
    assert [row.mae_low, row.mae_high] == pytest.approx([end[0] for end in by_products])
    assert row.mae_high - row.mae_low > 1.5 * float((by_items[1] - by_items[0])[0])
    unasked = Record.read(open_run(experiment, by_item)).rows[0]
    assert [unasked.mae_low, unasked.mae_high] == pytest.approx([end[0] for end in by_items])

    board = read_leaderboard(experiment, run_id)
    (group,) = errors_by_group(board, ["constant"], ["all"], np.zeros(120, dtype=int))
    by_group = bootstrap_interval(errors[None], seed=0, resamples=2_000, families=rows["product"])
    assert [group["cells"][0][end] for end in ("low", "high")] == pytest.approx([end[0] for end in by_group], abs=0.01)
    band = running(board, ["constant"])
    assert band and band["half"] > 1.5 * 1.96 * errors.std() / np.sqrt(120)

    _, decision = night("random", in_colours(raw[:40]))  # 120 items, of fewer products than a comparison takes
    assert "only 40 of the test products are new to the incumbent" in decision
    _, decision = night("random", in_colours(raw[:60]))
    assert "random does not beat the incumbent" in decision and decision.endswith("180 items")

"""Leaderboards to report on: made of random guesses, their figures computed as an evaluation computes them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tasks.report.board import Leaderboard
from tasks.scoring.checkpoint_choice import Checkpoint
from tasks.scoring.comparisons import compare
from tasks.scoring.rows import Row

KINDS = {
    "constant": "baseline",
    "bag_of_words": "baseline",
    "tfidf_ridge": "baseline",
    "boosted_trees": "baseline",
    "human": "human",
    "smollm2-135m": "base",
    "smollm2-135m-tuned": "finetuned",
    "blend": "blend",
    "recorded/gpt-4o": "recorded",
    "floor": "floor",
}
SIGMA = {"bag_of_words": 0.6, "tfidf_ridge": 0.45, "boosted_trees": 0.33, "human": 0.5, "smollm2-135m": 0.9}
SIGMA |= {"smollm2-135m-tuned": 0.3, "blend": 0.29, "recorded/gpt-4o": 0.4, "floor": 0.15}


def board_of(truth, guesses, kinds, **changes) -> Leaderboard:
    """A board from guesses, its figures computed as evaluation computes them."""
    figures = compare(truth, guesses, kinds, seed=1, resamples=400)
    rows = [Row(model, kinds[model]).measured(figures[model]) for model in guesses]
    nouns = ("Steel kettle", "Walnut shelf", "Trail tent", "Desk lamp", "Cordless drill")
    items = [
        {
            "id": f"item-{i}",
            "title": f"{nouns[i % 5]}, model {i}",
            "text": f"{nouns[i % 5]} for the house.\nBrand: Northwind. Weight: {1 + i % 7} kg.",
            "category": ("Kitchen", "Furniture", "Outdoors", "Lighting", "Tools & More")[i % 5],
            "price": float(price),
        }
        for i, price in enumerate(truth)
    ]
    predictions = {
        model: [None if math.isnan(guess) else float(guess) for guess in map(float, guesses[model])]
        for model in guesses
    }
    dataset = {
        "name": "sample",
        "digest": "3f9c2ab177d0",
        "source": "sample",
        "rows": {"train": 4000, "test": len(items)},
    }
    board = Leaderboard("Pricewright: laptop", False, dataset, rows, items, predictions)
    return replace(board, **changes)


def full_board(n: int = 300) -> Leaderboard:
    """Every kind of row, a curve, intervals, and two rows that did not run."""
    random = np.random.default_rng(0)
    truth = np.round(np.clip(np.exp(random.normal(4.2, 1, n)), 3, 990), 2)
    guesses = {model: truth * np.exp(random.normal(0, sigma, n)) for model, sigma in SIGMA.items()}
    guesses["human"][60:] = math.nan
    board = board_of(truth, {"constant": np.full(n, truth.mean()), **guesses}, KINDS)
    took = {"n_train": 4000, "fit_seconds": 75.0, "predict_ms": 0.412, "size_mb": 12.5}
    marks = {"blend": {"champion": True}, "smollm2-135m-tuned": {"best_checkpoint": True, "step": 300}}
    ran = [replace(row, **took, **marks.get(row.model, {})) for row in board.rows]
    skipped = Row("gpt-4.1", "api", status="skipped", reason="OPENAI_API_KEY is not set")
    failed = Row("word2vec_svr", "baseline", status="failed", reason="out of memory")
    tuned = guesses["smollm2-135m-tuned"]
    curve = [
        Checkpoint(
            step,
            f"step {step}",
            model_id=f"m-{step}",
            n=200,
            mae=mae,
            mae_low=mae - 4,
            mae_high=mae + 5,
            difference=mae - 29.1,
            difference_low=mae - 31,
            difference_high=mae - 28,
            p_value=0.2,
            chosen=step == 300,
            train_loss=2.4 - step / 250,
        )
        for step, mae in ((100, 41.0), (200, 33.5), (300, 29.1), (400, 30.2))
    ]
    intervals = {"smollm2-135m-tuned": ((tuned * 0.7).tolist(), (tuned * 1.4).tolist())}
    reproduce = {"command": "pricewright run -c conf/laptop.yaml", "conf": "a1b2c3d4", "commit": "0f1e2d3c"}
    pits = {"smollm2-135m-tuned": (random.beta(1.3, 1.1, n)).tolist()}
    return replace(
        board, rows=[skipped, *ran, failed], curve=curve, intervals=intervals, pits=pits, reproduce=reproduce
    )


def row(model, mae, rank, difference=0.0, p_value=None, kind="baseline", **more):
    """A row of a leaderboard that ran, its interval $2 to both sides."""
    ends = {"difference": difference, "difference_low": difference - 1, "difference_high": difference + 1}
    figures = {"mae": mae, "mae_low": mae - 2, "mae_high": mae + 2, "n": 500, "rank": rank, "p_value": p_value}
    return Row(model, kind, **{**figures, **ends, **more})

"""The figures of the data card, from the items that stay and the tally of those that do not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tasks.config.experiment import Data
from tasks.data.cleaning import Tally
from tasks.data.items import Item
from tasks.data.prices import rounded
from tasks.data.splits import SPLITS
from tasks.data.splitting import Splitter
from tasks.data.tokens import count_tokens

QUANTILES = {"5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95}
LENGTHS = 5_000  # items whose length is counted, the first by hash
COMMON = 10


def summarise(splitter: Splitter, tally: Tally, data: Data, tokenizer: str | None) -> dict[str, Any]:
    """What the card says, as values that JSON can hold."""
    return {
        "read": tally.read,
        "kept": splitter.count(),
        "dropped": _most(tally.dropped),
        "noted": _most(tally.noted),
        "examples": {reason: [words for _, words in shown] for reason, shown in sorted(tally.examples.items())},
        "price": {split: _price(splitter, split) for split in SPLITS},
        "histogram": _histogram(splitter),
        "categories": _categories(splitter),
        "lengths": _lengths(splitter, tokenizer),
        "suspicious": {
            "placeholders": _most(tally.placeholders),
            "lowest": tally.lowest if math.isfinite(tally.lowest) else None,
            "highest": tally.highest,
            "common": _common(splitter),
        },
        "near": data.near,
    }


def _most(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _price(splitter: Splitter, split: str) -> dict[str, float]:
    shares = list(QUANTILES.values())
    row = splitter.run(
        f"SELECT avg(price), quantile_cont(price, {shares}) FROM items WHERE split = '{split}'"
    ).fetchone()
    return {"mean": row[0], **dict(zip(QUANTILES, row[1], strict=True))}


def _histogram(splitter: Splitter) -> list[dict[str, Any]]:
    """Items by price, in four bins for each power of ten."""
    counts = dict(
        splitter.run("SELECT floor(4 * log10(price))::INTEGER AS bin, count(*) FROM items GROUP BY bin").fetchall()
    )
    return [
        {"from": rounded(10 ** (bin_ / 4)), "to": rounded(10 ** ((bin_ + 1) / 4)), "items": counts.get(bin_, 0)}
        for bin_ in range(min(counts), max(counts) + 1)
    ]


def _categories(splitter: Splitter) -> list[dict[str, Any]]:
    counts = ", ".join(f"count(*) FILTER (split = '{split}')" for split in SPLITS)
    rows = splitter.run(
        f"SELECT category, count(*) AS items, {counts}, quantile_cont(price, 0.5) FROM items "
        "GROUP BY category ORDER BY items DESC, category"
    ).fetchall()
    names = ("name", "items", *SPLITS, "median")
    return [dict(zip(names, (row[0] or "(none)", *row[1:]), strict=True)) for row in rows]


def _lengths(splitter: Splitter, tokenizer: str | None) -> dict[str, Any]:
    """How long titles and texts are, in tokens where a tokenizer is named, else in words."""
    chosen = f"SELECT row FROM items ORDER BY draw, id LIMIT {LENGTHS}"
    rows = splitter.run(f"SELECT title, text FROM {splitter.files} WHERE row IN ({chosen})").fetchall()
    items = [Item("", title, text) for title, text in rows]
    counts = count_tokens(items, tokenizer) if tokenizer else [len(f"{i.title} {i.text}".split()) for i in items]
    edges = np.unique(np.floor(np.geomspace(1, max(counts) + 1, 25))).astype(int)
    binned, _ = np.histogram(counts, edges)
    return {
        "unit": "tokens" if tokenizer else "words",
        "items": len(items),
        "quantiles": {name: float(np.quantile(counts, share)) for name, share in QUANTILES.items()},
        "histogram": [
            {"from": int(low), "to": int(high), "items": int(count)}
            for low, high, count in zip(edges[:-1], edges[1:], binned, strict=True)
        ],
    }


def _common(splitter: Splitter) -> list[dict[str, Any]]:
    rows = splitter.run(
        f"SELECT price, count(*) AS items FROM items GROUP BY price ORDER BY items DESC, price LIMIT {COMMON}"
    ).fetchall()
    return [{"price": price, "items": items} for price, items in rows]

"""The tables of what the phases have written, as far as they came."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

GIB = 2**30
CARD = 790e12  # operations a second that an H100 or H200 does in bfloat16 in practice
Known = dict[str, Any]


def tables(folder: Path) -> str:
    """What lies in a folder of `benchmarks.gpu`, in markdown for docs/benchmarks.md."""
    parts = []
    for name, table in TABLES.items():
        file = folder / f"{name}.json"
        if not file.is_file():
            continue
        known = json.loads(file.read_text(encoding="utf-8"))
        ended = known.get("ended")
        how = f"{ended['how']} after {ended['seconds']:.0f} s" if ended else "not ended"
        parts.append(f"### {name}: {how}")
        if known.get("dry"):
            parts.append("A dry run: it shows that the phase runs, and nothing of how fast or how good anything is.")
        parts += [*([_machine(known["machine"])] if "machine" in known else []), *table(known)]
    return "\n\n".join(parts) + "\n"


def _machine(known: Known) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items() if version)
    memory = f" ({known['memory'] / GIB:.0f} GiB)" if known["memory"] else ""
    return f"{known['date']}, {known['device']}{memory}, {known['cores']} cores, Python {known['python']}; {versions}"


def _table(heads: str, rows: Iterable[Iterable[Any]]) -> str:
    heads_ = [head.strip() for head in heads.split("|")]
    lines = [heads_, ["---"] * len(heads_), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _gib(known: Known) -> str:
    if known.get("allocated") is None:
        return ""
    return f"{known['allocated'] / GIB:.1f} GiB ({known['reserved'] / GIB:.1f} reserved)"


def _agreement(known: Known) -> Iterable[str]:
    names = {"narrow": "as it is", "resumed": "ended by SIGTERM and resumed", "wide": "on the CPU, float32"}
    rows, said = [], []
    for by in ("text", "head"):
        runs = known.get(by, {})
        for key, name in names.items():
            if key not in runs:
                continue
            run = runs[key]
            losses = [step["loss"] for step in run["steps"]]
            kind = f"{run['device']}, {run['dtype']}, {run['optimizer']}, {run['attention']}{', Liger' * run['liger']}"
            apart = f"{run['apart']:.3%}" if "apart" in run else ""
            rows.append([by, name, kind, len(losses), f"{losses[0]:.4f} to {losses[-1]:.4f}", apart, _gib(run)])
        if "scoring" in runs:
            it = runs["scoring"]
            rate, mass = it["items"] / it["seconds"], f"{it['mass']:.3f} of the probability on prices"
            said.append(f"- by {by}, {it['items']} items were priced, {rate:.1f} a second, {mass}; {_peak(it)}.")
        if (moved := runs.get("wide", {}).get("total_variation")) is not None:
            said.append(f"- what the untuned model writes on the two differs by {moved:.4f} (total variation, mean).")
    if rows:
        yield _table("by | training | on | steps | loss | a loss apart from the first's, at most | peak memory", rows)
    if said:
        yield "\n".join(said)


def _peak(known: Known) -> str:
    return f"peak memory {_gib(known) or 'not known'}"


def _quality(known: Known) -> Iterable[str]:
    if known.get("overrides"):
        yield f"With `{' '.join(known['overrides'])}`."
    if "rows" in known:
        yield ", ".join(f"{count:,} {split}" for split, count in known["rows"].items()) + " items."
    yield from _curves(known)
    if "models" in known:
        rows = []
        for row in known["models"]:
            step = f", step {row['step']}" if row.get("step") else ""
            trained = f"{row['n_train']:,}" if row.get("n_train") else ""
            fit = f"{row['fit_seconds']:.0f} s" if row.get("fit_seconds") else ""
            each = f"{row['predict_ms']:.1f} ms" if row.get("predict_ms") else ""
            span = f"{row['mae_low']:.2f} to {row['mae_high']:.2f}"
            rows.append([f"{row['model']}{step}", f"{row['metrics']['mae']:.2f}", span, trained, fit, each])
        yield _table("model | test | 95% interval | trained on | fit | an item", rows)
    if "differences" in known:
        yield "\n".join(f"- {one['pair']}: {one['said']}" for one in known["differences"])


def _ways(known: Known) -> Iterable[str]:
    if "rows" in known:
        yield ", ".join(f"{count:,} {split}" for split, count in known["rows"].items()) + " items."
    yield from _curves(known)


def _curves(known: Known) -> Iterable[str]:
    curves: dict[str, list[Known]] = {}
    for point in known.get("curve", []):
        curves.setdefault(point.get("way", "fine-tuned"), []).append(point)
    if curves:
        rows = (
            [way, ", ".join(f"{point['step'] or 'mean'}: {point['mae']:.2f}" for point in points)]
            for way, points in curves.items()
        )
        yield _table(f"way | step: error on {known['curve'][0]['items']} validation items", rows)


def _speed(known: Known) -> Iterable[str]:
    if "product_rate" in known:
        yield f"A large product of bfloat16 matrices: {known['product_rate'] / 1e12:.2f} TFLOP/s."
    setups = known.get("setups", [])
    plain = {_kind(row): row["tokens_a_second"] for row in setups if row["way"] != "ours" and "failed" not in row}
    rows = []
    for row in setups:
        cells = [row["way"], row["bits"], row["batch"], "yes" if row["checkpointing"] else "no"]
        if "failed" in row:
            rows.append([*cells, row["failed"], "", "", "", _gib(row), ""])
            continue
        estimated = f"{row['estimated'] / GIB:.1f} GiB"
        times = f"{row['tokens_a_second'] / plain[_kind(row)]:.2f}" if _kind(row) in plain else ""
        rate = row["operations_a_second"]
        shares = f"{rate / known['product_rate']:.0%}", f"{rate / CARD:.0%}"
        rows.append([*cells, f"{row['tokens_a_second']:,.0f}", times, *shares, _gib(row), estimated])
    if rows:
        yield f"{setups[0].get('tokens_an_item', 0):.0f} tokens an item; medians of steps."
        heads = "way | bits | batch | recomputed | tokens a second | times TRL | of the product's rate"
        yield _table(f"{heads} | of {CARD / 1e12:.0f} TFLOP/s | peak memory | estimated", rows)
    if "scoring" in known:
        rows = (
            [
                *(row["bits"], row["nodes"], row["batch_tokens"], f"{row['items_a_second']:.1f}", _gib(row)),
                f"{row['estimated'] / GIB:.1f} GiB",
            ]
            for row in known["scoring"]
        )
        heads = "bits | nodes | tokens at once | items a second, whole distribution"
        yield _table(f"{heads} | peak memory | estimated", rows)
    for bits in (4, 16):
        if f"profile_{bits}" in known:
            rows = (
                [f"`{row['name'][:90]}`", f"{row['share']:.1%}", f"{row['milliseconds']:.2f}", f"{row['times']:.0f}"]
                for row in known[f"profile_{bits}"]
            )
            yield f"Where a step of ours goes, {bits} bits, by torch's profiler:"
            yield _table("what | share | ms a step | times a step", rows)


def _kind(row: Known) -> tuple[int, int, bool]:
    return row["bits"], row["batch"], row["checkpointing"]


def _loop(known: Known) -> Iterable[str]:
    rows = []
    for row in known.get("models", []):
        each = [1000 * row[way]["seconds_an_item"] for way in ("loop", "ours")]
        model = f"{row['model']}, 4 bits, {row['dtype']}"
        rows.append([model, f"{row['tokens']:.0f}", f"{each[0]:.1f} ms", f"{each[1]:.1f} ms", f"{row['times']:.1f}"])
    heads = "model | tokens of a prompt | the loop, an item | the whole distribution, an item | times as fast"
    if rows:
        yield _table(heads, rows)


TABLES: dict[str, Callable[[Known], Iterable[str]]] = {
    "agreement": _agreement,
    "ways": _ways,
    "quality": _quality,
    "speed": _speed,
    "loop": _loop,
}

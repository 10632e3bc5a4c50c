"""Curate: raw rows become three frozen, digested splits and a data card."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config.experiment import Data, Experiment
from tasks.config.section import shown
from tasks.data.cleaning import EMPTIED, NO_PRICE, STILL_STATED, Tally, clean_items, clean_shard, fields_of, write_items
from tasks.data.files.delimited import REJECTED
from tasks.data.files.shards import Shard, pack, unpack
from tasks.data.items import RejectedError, from_row
from tasks.data.prices import Evidence, UnreadableError
from tasks.data.sources import Source, check_columns, list_files, read_files, source_of
from tasks.data.splits import SCHEMA, SPLITS, Dataset, Split, joint_digest, write_split
from tasks.data.splitting import MANY_NEAR, OTHER_PRICE, SHARED_ID, VARIANT, Splitter, note_variants, products_of
from tasks.data.summary import summarise
from tasks.digests import code_digest, data_digest, digest, file_digest, versions
from tasks.errors import UserError
from tasks.models.language.base_model import find_tokenizer
from tasks.progress import Progress, say
from tasks.report.data_card import render_html, render_markdown
from tasks.tracking.runs import CONTENT, RULED, Mode, StageRun
from tasks.tracking.stages import stage

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture
    from prefect.task_runners import TaskRunner

# Where the data lie and who does the work: neither changes the result.
WHEREABOUTS = {"path", "test_path", "runner"}
# The tokenizer stands in the digest by its content, so that the code that finds it need not.
BY_CONTENT = frozenset({"tasks.models.language.base_model", "tasks.data.hub"})
MANY_REJECTED = 0.05
ALONE_BYTES = 64 * 2**20  # less than this is done sooner than processes are started
SHARDS_A_TASK = 8  # a task costs Prefect a quarter of a second, a shard takes one second
# Tasks in the works, here and on other machines: no more raw data on disk than workers get at soon.
WINDOW, WINDOW_ELSEWHERE = (os.cpu_count() or 1) + 1, 32


def curate(experiment: Experiment, mode: Mode = "reuse") -> Dataset:
    """The curated dataset of the experiment.

    Raises:
        UserError: the data are missing, unreadable or empty, or every row was rejected.
    """
    source = source_of(experiment.data)
    data = source.pin(experiment.data)
    data = data.model_copy(update={"columns": {**source.columns, **data.columns}})
    tokenizer = find_tokenizer(data.tokenizer) if data.tokenizer else None
    inputs = {
        "stage": "curate",
        "data": data.model_dump(mode="json", exclude=WHEREABOUTS | {"tokenizer"}),
        "source": source.identity(data, experiment.seed),
        "tokenizer": file_digest(tokenizer) if tokenizer else None,
        "test": [data_digest(file) for file in list_files(data.test_path)] if data.test_path else None,
        "seed": experiment.seed,
        "libraries": versions("duckdb", "numpy", "orjson", "pyarrow", "rensa", "tokenizers"),
        "code": code_digest("tasks.curation", BY_CONTENT),
    }
    opened: dict[str, Any] = {"mode": mode, "inputs": inputs, "tags": {RULED: digest(experiment.data.rules())}}
    with stage(experiment, "curate", digest(inputs), command="pricewright curate", **opened) as run:
        if not run.done:
            split_rows(source, data, str(tokenizer) if tokenizer else None, experiment.seed, run)
        card = run.read_json("card.json")
        folder = run.artifact_address(f"splits/{card['digest']}")
        # A file may have been renamed since its content was curated: the name is that of the conf, as in the registry.
        products = products_of(card["rows"]["test"], card["noted"].get(VARIANT, 0))
        return Dataset(data.dataset_name, card["digest"], folder, card["rows"], card["generated"], products)


@task(name="curate", cache_policy=NO_CACHE)
def split_rows(source: Source, data: Data, tokenizer: str | None, seed: int, run: StageRun) -> None:
    """Read, clean, split, and keep the splits with their card."""
    run.log_params({"seed": seed, "data": shown(data.model_dump(mode="json"))})
    with tempfile.TemporaryDirectory(prefix="pricewright-") as temporary:
        work = Path(temporary)
        data, tally = clean(source, data, seed, tokenizer, work)
        tally.add(clean_fixed_test(data, seed, work / "fixed"))
        fixed = data.test_path is not None
        with Splitter(work) as splitter:
            deduplicate_and_split(splitter, data, fixed=fixed, tally=tally)
            rows = {split: splitter.count(f"split = '{split}'") for split in SPLITS}
            empty = [split for split in SPLITS if not rows[split]]
            if empty:
                raise UserError(f"No items for {', '.join(empty)}: {tally.summary()} Give more data or wider rules.")
            digests = {split: joint_digest(splitter.digests(split)) for split in SPLITS}
            content, name = digest(digests), data.dataset_name
            card = {
                "name": name,
                "digest": content,
                "digests": digests,
                "generated": source.generated,
                "rows": rows,
                **summarise(splitter, tally, data, tokenizer),
                "rules": data.model_dump(mode="json", exclude=WHEREABOUTS),
            }
            folder = work / "splits" / content
            folder.mkdir(parents=True)
            for split in SPLITS:
                write_split(folder, split, guarded(splitter.batches(split)))
        (folder / "card.md").write_text(render_markdown(card), encoding="utf-8")
        (folder / "card.html").write_text(render_html(card), encoding="utf-8")
        run.log_folder(folder, f"splits/{content}")
        for split in SPLITS:
            run.log_dataset(folder / f"{split}.parquet", name=name, digest=content, context=split)
    run.log_json(card, "card.json")
    run.client.set_tag(run.id, CONTENT, content)
    run.log_metrics({f"rows_{split}": rows[split] for split in SPLITS} | {"rows_read": tally.read})
    warn(tally, rows["test"], run.artifact_address(f"splits/{content}/card.html"))


def clean(source: Source, data: Data, seed: int, tokenizer: str | None, work: Path) -> tuple[Data, Tally]:
    """Clean all rows into `<work>/items`; the rules with the decimal mark that was found, and what happened.

    The mark is what all prices of the column show. It is known when all are read: where it is not the usual one, they
    are read again.

    Raises:
        UserError: there are no rows, all are rejected, or their prices can be read in two ways.
    """
    tally = clean_all(source.shards(data, seed, work / "raw"), data, seed, tokenizer, work / "items")
    if data.decimal is None:
        decimal, examples = decimal_of(tally.decimal, data)
        data = data.model_copy(update={"decimal": decimal})
        if examples:
            mark = "a comma" if decimal == "," else "a point"
            prices = " and ".join(repr(example) for example in examples)
            say(f"Prices are read with {mark} before the cents, as the whole column shows: {prices}.")
        if decimal != ".":
            shutil.rmtree(work / "items")
            tally = clean_all(source.shards(data, seed, work / "raw"), data, seed, tokenizer, work / "items")
    expected = "Expected rows with a title or text, and a price."
    if not tally.read:
        raise UserError(f"The data hold no rows. {expected}")
    if not tally.kept:
        raise UserError(f"Every row was rejected: {tally.summary()} {expected}{rejected_by(tally, data)}")
    return data, tally


def decimal_of(evidence: Evidence, data: Data) -> tuple[str, list[str]]:
    """The mark before the cents, and examples where that was worth a thought; those of a fixed test set count too.

    Raises:
        UserError: the prices can be read in two ways.
    """
    for row in read_files(data.test_path, data) if data.test_path else ():
        with contextlib.suppress(RejectedError):
            evidence.look(fields_of(row, data).get("price"))
    try:
        return evidence.decide()
    except UnreadableError as error:
        raise UserError(
            f"{error}. Say which mark stands before the cents: data.decimal=. or data.decimal=, (for 1.299,00)."
        ) from None


def rejected_by(tally: Tally, data: Data) -> str:
    """Where every row was rejected: an example, and what the conf can do about the commonest reason."""
    reason = tally.dropped.most_common(1)[0][0]
    if reason == NO_PRICE and tally.unpriced and "price" not in data.columns:
        keys = ", ".join(f"{key} ({value})" for key, value in list(tally.unpriced[0].items())[:12])
        told = f" The first row without a price has {keys}. If one of these is the price: data.columns.price=NAME."
        return f"{told} `pricewright init FILE` looks for it and writes a conf."
    example = f" Such as {tally.examples[reason][0][1]}."
    if sign := re.match(r"price in (\S+),", reason):
        return f"{example} If all prices are in it: data.currency='[{sign[1]}]'."
    return f"{example} data.price_min and data.price_max set the window." if "price outside" in reason else example


def clean_all(shards: Iterator[Shard], data: Data, seed: int, tokenizer: str | None, folder: Path) -> Tally:
    """Clean every shard into `folder`, by the runner of the conf; a single shard right here."""
    folder.mkdir(parents=True)
    tally = Tally()
    with Progress("curating", unit="rows") as progress:
        for part in _cleaned(shards, data, seed, tokenizer, str(folder)):
            tally.add(part)
            progress.update(tally.read)
    return tally


def _cleaned(shards: Iterator[Shard], data: Data, seed: int, tokenizer: str | None, folder: str) -> Iterator[Tally]:
    first, size = [], 0
    while size <= ALONE_BYTES and (shard := next(shards, None)) is not None:
        first.append(shard)
        size += shard.bytes
    if size <= ALONE_BYTES:
        for number, shard in enumerate(first):
            yield clean_shard(shard, number, data, seed, tokenizer, folder)
        return
    elsewhere = "://" in data.runner
    running: deque[PrefectFuture] = deque()
    with one_server(), runner_of(data) as runner:
        numbered = enumerate(chain(first, shards))
        while some := list(islice(numbered, SHARDS_A_TASK)):
            if len(running) >= (WINDOW_ELSEWHERE if elsewhere else WINDOW):
                yield _taken(running.popleft().result(), folder)
            if elsewhere:
                given = {"sent": [(number, *pack(shard)) for number, shard in some]}
                running.append(runner.submit(clean_elsewhere, {**given, "rules": data, "seed": seed}))
            else:
                given = {"numbered": some, "tokenizer": tokenizer, "folder": folder}
                running.append(runner.submit(clean_some, {**given, "rules": data, "seed": seed}))
        while running:
            yield _taken(running.popleft().result(), folder)


def _taken(result: Tally | tuple[Tally, dict[str, bytes]], folder: str) -> Tally:
    """What a task has found; the files that it sent back go into the folder."""
    if isinstance(result, Tally):
        return result
    tally, files = result
    for name, content in files.items():
        (Path(folder) / name).write_bytes(content)
    return tally


@contextlib.contextmanager
def one_server() -> Iterator[None]:
    """Workers report to the Prefect server of this process; by themselves, each would start one of its own."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with get_client(sync_client=True) as client:
        address = str(client.api_url)
    with temporary_settings({PREFECT_API_URL: address}):
        yield


@task(name="clean shards", cache_policy=NO_CACHE)
def clean_some(numbered: list[tuple[int, Shard]], rules: Data, seed: int, tokenizer: str | None, folder: str) -> Tally:
    """A few shards, one after another, as a task of their own."""
    tally = Tally()
    for number, shard in numbered:
        tally.add(clean_shard(shard, number, rules, seed, tokenizer, folder))
    return tally


@task(name="clean shards elsewhere", cache_policy=NO_CACHE)
def clean_elsewhere(
    sent: list[tuple[int, Shard, bytes | None]], rules: Data, seed: int
) -> tuple[Tally, dict[str, bytes]]:
    """The same on a machine that shares no folder with the one that asks: temporary files came along, the tokenizer is
    found by its name, and the cleaned items go back."""
    tokenizer = str(find_tokenizer(rules.tokenizer)) if rules.tokenizer else None
    with tempfile.TemporaryDirectory(prefix="pricewright-") as folder:
        items, tally = Path(folder) / "items", Tally()
        items.mkdir()
        for number, shard, content in sent:
            here = unpack(shard, content, Path(folder))
            tally.add(clean_shard(here, number, rules, seed, tokenizer, str(items)))
        return tally, {file.name: file.read_bytes() for file in sorted(items.iterdir())}


def runner_of(data: Data) -> TaskRunner:
    """Who cleans the shards: processes or threads of this machine, or a Dask cluster, here or at an address.

    Workers on other machines need this package and Prefect's server at an address (PREFECT_API_URL).
    """
    from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

    if data.runner == "processes":
        return ProcessPoolTaskRunner(max_workers=os.cpu_count())
    if data.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=os.cpu_count())
    from prefect_dask import DaskTaskRunner

    if data.runner == "dask":
        # Dask's own default shows its dashboard to the whole network.
        return DaskTaskRunner(cluster_kwargs={"dashboard_address": "127.0.0.1:0"})
    return DaskTaskRunner(address=data.runner)


def clean_fixed_test(data: Data, seed: int, folder: Path) -> Tally:
    """Write the fixed test set of the conf, cleaned, but never dropped, merged or moved, and say what was cleaned.

    Raises:
        UserError: a row has no text or no price, cleaning leaves nothing of its text, or two share an id.
    """
    if not data.test_path:
        return Tally()
    for file in list_files(data.test_path):
        check_columns(file, data)
    rules = data.model_copy(update={"leaks": "scrub"}) if data.leaks == "drop" else data
    items = []
    for number, row in enumerate(read_files(data.test_path, data), 1):
        try:
            if REJECTED in row:
                raise RejectedError(row[REJECTED])
            items.append(from_row(fields_of(row, data), decimal=data.decimal or ".", currency=data.currency))
        except RejectedError as rejection:
            message = f"Row {number} of {data.test_path}: {rejection}. A fixed test set is kept whole; mend the row."
            raise UserError(message) from None
    cleaned, tally = clean_items(items, rules)
    items = [item for item, _ in cleaned]
    if empty := next((number for number, item in enumerate(items, 1) if not item.has_words), None):
        remedy = "set data.part_numbers=keep, or mend the row" if data.part_numbers == "scrub" else "mend the row"
        raise UserError(f"Row {empty} of {data.test_path}: {EMPTIED}. A fixed test set is kept whole; {remedy}.")
    if len({item.id for item in items}) < len(items):
        raise UserError(f"Two rows of {data.test_path} share an id. Expected one id for each test item.")
    write_items(folder / "test.parquet", 2**30, items, rules, seed)
    note_variants(items, data.near, tally)
    return tally


def deduplicate_and_split(splitter: Splitter, data: Data, *, fixed: bool, tally: Tally) -> None:
    """Merge, balance and split; no near duplicate straddles two splits, and the held-out one of two stays where they do
    not go the same way.

    A split is capped before others are compared with it, so that nothing is dropped for a row that is not used.
    """
    if fixed:
        splitter.drop_fixed_test(tally)
    splitter.merge_duplicates(tally)
    splitter.cap_slots(data, tally)
    if data.near is not None:
        splitter.find_families(data.near, fixed)
    splitter.assign(0.0 if fixed else data.test_share, data.validation_share, tally)
    if fixed:
        splitter.add_fixed_test()
    else:
        splitter.cap("test", data.test_items, tally)
    caps: list[tuple[Split, int | None]] = [("validation", data.validation_items), ("train", data.train_items)]
    held: list[Split] = ["test"]
    for split, most in caps:
        if data.near is not None:
            for other in held:
                splitter.drop_near(split, other, data.near, tally)
        splitter.cap(split, most, tally)
        held.append(split)


def guarded(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches of a split, each checked for what may leave this stage: columns of the splits' schema without gaps,
    items with an id of their own, words, and a positive, finite price."""
    last = None
    for batch in batches:
        faults = [] if batch.schema.equals(SCHEMA) else [f"columns {batch.schema.to_string()}"]
        if not faults:
            faults = [name for name in SCHEMA.names if batch[name].null_count]
            faults += [name for name, wrong in _faults(batch).items() if pc.any(wrong).as_py()]
            ids = batch["id"].to_pylist()
            faults += ["id twice"] if len({*ids, last}) < len(ids) + 1 else []
            last = ids[-1] if ids else last
        if faults:
            raise AssertionError(f"Curation made items that no split may hold: {', '.join(faults)}")
        yield batch


def _faults(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    """By what is wrong, whether it is so with each row."""
    return {
        "empty id": pc.equal(batch["id"], ""),
        "no words": pc.and_(pc.equal(batch["title"], ""), pc.equal(batch["text"], "")),
        "details that are no object": pc.invert(pc.starts_with(batch["details"], "{")),
        "price that is not positive": pc.less_equal(batch["price"], 0.0),
        "price that is not finite": pc.invert(pc.is_finite(batch["price"])),
    }


def warn(tally: Tally, tests: int, card: str) -> None:
    """Say on standard error what a reader of the card would not like to find out later."""
    if tally.rejected >= MANY_REJECTED * tally.read:
        share = tally.rejected / tally.read
        say(f"{share:.0%} of the rows were rejected. {tally.summary()} Examples of each: {card}")
    near = sum(count for reason, count in tally.dropped.items() if "nearly the same" in reason)
    if near >= MANY_NEAR * (tally.kept + near):
        say(
            f"{near:,} of {tally.kept + near:,} items are near duplicates of an item that validation or test holds, "
            f"and were left out. If they are other products, a higher data.near tells them apart. Examples: {card}"
        )
    if products := products_of(tests, tally.noted[VARIANT]):
        say(
            f"{tests:,} test items are of {products:,} products: errors on variants of a product go together, so that "
            f"they tell as much as {products:,} items do. Examples: {card}"
        )
    unlike = tally.noted[OTHER_PRICE]
    if unlike and unlike >= MANY_REJECTED * tally.read:
        say(f"{unlike:,} rows repeat the text of another one at another price. One of each stays. Examples: {card}")
    if shared := tally.noted[SHARED_ID]:
        example = tally.examples[SHARED_ID][0][1]
        say(f"{shared:,} items share their id with another text (such as {example}): each has an id of its own now.")
    if stated := tally.noted[STILL_STATED]:
        say(f"{stated:,} items still hold their exact price somewhere in text or details. Examples: {card}")

"""Curate: raw rows become three frozen, digested splits and a data card."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from prefect import task

from tasks.config.experiment import Data, Experiment
from tasks.data.cleaning import Tally, clean_items, clean_shard, mapped, write_items
from tasks.data.items import Item, RejectedError, from_row
from tasks.data.shards import Shard
from tasks.data.sources import Source, list_files, read_files, source_of
from tasks.data.splits import SPLITS, Dataset, Split, joint_digest, write_split
from tasks.data.splitting import Splitter
from tasks.data.summary import summarise
from tasks.digests import code_digest, digest, file_digest, versions
from tasks.errors import UserError
from tasks.models.language.base_model import find_tokenizer
from tasks.progress import Progress, say
from tasks.report.data_card import render_html, render_markdown
from tasks.tracking.runs import CONTENT, Mode, StageRun
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
WINDOW = (os.cpu_count() or 1) + 1  # tasks in the works: no more raw data on disk than workers get at soon


def curate(experiment: Experiment, mode: Mode = "reuse") -> Dataset:
    """The curated dataset of the experiment.

    Raises:
        UserError: the data are missing, unreadable or empty, or every row was rejected.
    """
    source = source_of(experiment.data)
    data = source.pin(experiment.data)
    data = data.model_copy(update={"columns": {**source.columns, **data.columns}})
    tokenizer = find_tokenizer(data.tokenizer) if data.tokenizer else None
    key = digest(
        {
            "stage": "curate",
            "data": data.model_dump(mode="json", exclude=WHEREABOUTS | {"tokenizer"}),
            "source": source.identity(data, experiment.seed),
            "tokenizer": file_digest(tokenizer) if tokenizer else None,
            "test": [file_digest(file) for file in list_files(data.test_path)] if data.test_path else None,
            "seed": experiment.seed,
            "libraries": versions("duckdb", "numpy", "orjson", "pyarrow", "rensa", "tokenizers"),
            "code": code_digest("tasks.curation", BY_CONTENT),
        }
    )
    with stage(experiment, "curate", key, command="pricewright curate", mode=mode) as run:
        if not run.done:
            split_rows(source, data, str(tokenizer) if tokenizer else None, experiment.seed, run)
        card = run.read_json("card.json")
        place = run.artifact_address(f"splits/{card['digest']}")
        return Dataset(card["name"], card["digest"], place, card["rows"], card["generated"])


@task(name="curate")
def split_rows(source: Source, data: Data, tokenizer: str | None, seed: int, run: StageRun) -> None:
    """Read, clean, split, and keep the splits with their card."""
    run.log_params({"seed": seed, "data": data.model_dump(mode="json")})
    with tempfile.TemporaryDirectory(prefix="pricewright-") as temporary:
        work = Path(temporary)
        tally = clean(source.shards(data, seed, work / "raw"), data, seed, tokenizer, work / "items")
        fixed = clean_fixed_test(data, seed, work / "fixed", tally)
        with Splitter(work) as splitter:
            deduplicate_and_split(splitter, data, fixed=fixed, tally=tally)
            rows = {split: splitter.count(f"split = '{split}'") for split in SPLITS}
            empty = [split for split in SPLITS if not rows[split]]
            if empty:
                raise UserError(f"No items for {', '.join(empty)}: {tally.summary()} Give more data or wider rules.")
            digests = {split: joint_digest(splitter.digests(split)) for split in SPLITS}
            content, name = digest(digests), data.name or data.source
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
    warn(tally, run.artifact_address(f"splits/{content}/card.html"))


def clean(shards: Iterator[Shard], data: Data, seed: int, tokenizer: str | None, folder: Path) -> Tally:
    """Clean every shard into `folder`, by the runner of the conf; a single shard right here.

    Raises:
        UserError: there are no rows, or all are rejected.
    """
    folder.mkdir(parents=True)
    tally = Tally()
    with Progress("curating", unit="rows") as progress:
        for part in _cleaned(shards, data, seed, tokenizer, str(folder)):
            tally.add(part)
            progress.update(tally.read)
    expected = "Expected rows with a title or text, and a price."
    if not tally.read:
        raise UserError(f"The data hold no rows. {expected}")
    if not tally.kept:
        raise UserError(f"Every row was rejected: {tally.summary()} {expected}")
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
    common = {"rules": data, "seed": seed, "tokenizer": tokenizer, "folder": folder}
    running: deque[PrefectFuture[Tally]] = deque()
    with one_server(), runner_of(data) as runner:
        numbered = enumerate(chain(first, shards))
        while some := list(islice(numbered, SHARDS_A_TASK)):
            if len(running) >= WINDOW:
                yield running.popleft().result()
            running.append(runner.submit(clean_some, {"numbered": some, **common}))
        while running:
            yield running.popleft().result()


@contextmanager
def one_server() -> Iterator[None]:
    """Workers report to the Prefect server of this process; by themselves, each would start one of its own."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with get_client(sync_client=True) as client:
        address = str(client.api_url)
    with temporary_settings({PREFECT_API_URL: address}):
        yield


@task(name="clean shards")
def clean_some(numbered: list[tuple[int, Shard]], rules: Data, seed: int, tokenizer: str | None, folder: str) -> Tally:
    """A few shards, one after another, as a task of their own."""
    tally = Tally()
    for number, shard in numbered:
        tally.add(clean_shard(shard, number, rules, seed, tokenizer, folder))
    return tally


def runner_of(data: Data) -> TaskRunner:
    """Who cleans the shards: processes or threads of this machine, or a Dask cluster, here or at an address.

    Workers on other machines need this package, and a temporary folder (TMPDIR) that all of them share.
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


def clean_fixed_test(data: Data, seed: int, folder: Path, tally: Tally) -> bool:
    """Write the fixed test set of the conf, cleaned, but never dropped, merged or moved; False where there is none.

    Raises:
        UserError: a row has no text or no price, or two share an id.
    """
    if not data.test_path:
        return False
    items: list[Item] = []
    rules = data.model_copy(update={"leaks": "scrub"}) if data.leaks == "drop" else data
    for number, row in enumerate(read_files(data.test_path), 1):
        try:
            items.append(from_row(mapped(row, data), decimal=data.decimal, currency=data.currency))
        except RejectedError as rejection:
            message = f"Row {number} of {data.test_path}: {rejection}. A fixed test set is kept whole; mend the row."
            raise UserError(message) from None
    items = [item for item, _ in clean_items(items, rules, tally)]
    if len({item.id for item in items}) < len(items):
        raise UserError(f"Two rows of {data.test_path} share an id. Expected one id for each test item.")
    write_items(folder / "test.parquet", 2**30, items, rules, seed)
    return True


def deduplicate_and_split(splitter: Splitter, data: Data, *, fixed: bool, tally: Tally) -> None:
    """Merge, balance and split; no near duplicate straddles two splits, and the held-out one of two stays.

    A split is capped before others are compared with it, so that nothing is dropped for a row that is not used.
    """
    splitter.merge_duplicates(tally)
    splitter.cap_slots(data, tally)
    splitter.assign(0.0 if fixed else data.test_share, data.validation_share)
    if fixed:
        splitter.add_fixed_test(tally)
    else:
        splitter.cap("test", data.test_items, tally)
    caps: list[tuple[Split, int | None]] = [("validation", data.validation_items), ("train", data.train_items)]
    held: list[Split] = ["test"]
    for split, most in caps:
        for other in held if data.near is not None else []:
            splitter.drop_near(split, other, data.near, tally)
        splitter.cap(split, most, tally)
        held.append(split)


def guarded(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, each checked against the schema of what may leave this stage."""
    from pandera.errors import SchemaErrors

    schema = split_schema()
    for batch in batches:
        try:
            schema.validate(batch.to_pandas(), lazy=True)
        except SchemaErrors as error:
            raise AssertionError(f"Curation made items that no split may hold: {error}") from error
        yield batch


def split_schema() -> Any:
    """What leaves this stage: named items with words and a positive, finite price. A pandera DataFrameSchema."""
    import numpy as np
    import pandera.pandas as pandera

    text = {"dtype": str, "nullable": False}
    return pandera.DataFrameSchema(
        {
            "id": pandera.Column(**text, checks=pandera.Check.str_length(min_value=1), unique=True),
            "title": pandera.Column(**text),
            "text": pandera.Column(**text),
            "category": pandera.Column(**text),
            "details": pandera.Column(**text, checks=pandera.Check.str_startswith("{")),
            "price": pandera.Column(float, checks=[pandera.Check.gt(0), pandera.Check(np.isfinite)]),
        },
        checks=pandera.Check(lambda items: (items["title"] + items["text"]).str.len() > 0, error="no words"),
        strict=True,
        ordered=True,
    )


def warn(tally: Tally, card: str) -> None:
    """Say on standard error when many rows were rejected."""
    if tally.rejected >= MANY_REJECTED * tally.read:
        share = tally.rejected / tally.read
        say(f"{share:.0%} of the rows were rejected. {tally.summary()} Examples of each: {card}")

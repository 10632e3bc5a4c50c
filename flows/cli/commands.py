"""What the commands do. Libraries are imported by the commands that need them, so that --help answers at once."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.config.experiment import Data, Experiment
from tasks.config.loading import DEFAULT_CONF, FILES_CONF, command_of, is_override, load
from tasks.errors import UserError, writing_to
from tasks.progress import say

if TYPE_CHECKING:
    from flows.artifacts import Report
    from tasks.data.files.columns import Mapped
    from tasks.data.items import Item
    from tasks.report.standings import Standings


def run_stage(arguments: argparse.Namespace) -> None:
    """Run the flow of a stage, or of all of them."""
    conf, overrides = arguments.conf, tuple(arguments.overrides)
    experiment = load(conf, overrides)  # refuse a bad conf before anything starts
    if arguments.name == "run" and not arguments.again:
        from flows.pipeline import unchanged

        if (report := unchanged(experiment, conf, overrides)) is not None:
            say("Nothing has changed since the last run: all of it is there.")
            print_leaderboard(experiment, report)
            return
    say(f"Starting Prefect for `{arguments.name}` ...")
    from flows.temporary_server import end_server_with_process

    end_server_with_process()
    match arguments.name:
        case "run":
            from prefect import State

            from flows.pipeline import pipeline

            report = pipeline(conf, overrides, again=arguments.again)
            assert not isinstance(report, State)  # only a scheduled run is skipped
            print_leaderboard(experiment, report)
        case "curate":
            from flows.curation import curation

            print(curation(conf, overrides, again=arguments.again))
        case "baselines":
            from flows.baselines import baselines

            print("\n".join(baselines(conf, overrides, again=arguments.again)))
        case "finetune":
            from flows.finetuning import finetuning

            print("\n".join(finetuning(conf, overrides, again=arguments.again)))
        case "evaluate":
            from flows.evaluation import evaluation

            print_leaderboard(experiment, evaluation(conf, overrides, again=arguments.again), contest=False)
        case "promote":
            from flows.promotion import promotion

            print(promotion(conf, overrides, dry_run=arguments.dry_run))


def print_leaderboard(experiment: Experiment, report: Report, *, contest: bool = True) -> None:
    """The table, what it says in words, what to type next, and last the path of the report. `contest`: whether the best
    of these models has met the champion."""
    from tasks.report.conclusion import conclusion
    from tasks.report.standings import read_standings
    from tasks.tracking.registry import CHALLENGER, CHAMPION, version_of

    standings = read_standings(experiment, report.run_id)
    print_table(standings)
    print()
    for sentence in conclusion(experiment, report.run_id, standings):
        print(sentence)
    champion = version_of(experiment, CHAMPION)
    if champion is not None and not any(row.champion for row in standings.rows):
        loser = version_of(experiment, CHALLENGER) if contest else None  # with what it lost by
        outcome = f" ({decision})" if loser and (decision := loser.tags.get("decision")) else ""
        print(f"The champion of {experiment.registered_model} is from an earlier run{outcome}.")
    program = sys.argv[0] if Path(sys.argv[0]).name == "pricewright" else "pricewright"
    own = f"For your own products: `{program} init FILE`. " if standings.generated else ""
    print(f"{own}`{program} ui` shows all models (MLflow) and all runs (Prefect). The report:")
    print(report.path)


def write_conf(arguments: argparse.Namespace) -> None:
    """Look at a file and write a conf that reads it; the last line is the conf."""
    from flows.cli.init import init

    # The default of all other commands is for the generated catalogue.
    conf = FILES_CONF if arguments.conf == DEFAULT_CONF else arguments.conf
    written = init(conf, arguments.file, arguments.overrides, arguments.to)
    print(f"\nNext: pricewright run -c {shlex.quote(str(written))}. The conf:")
    print(written)


def show_leaderboard(arguments: argparse.Namespace) -> None:
    """Print the leaderboard of the conf, from what MLflow keeps of its evaluation. It needs no model."""
    from tasks.report.standings import commit_here, read_standings
    from tasks.scoring.question import expected_answer

    html = Path(arguments.html) if arguments.html else None
    if html:
        with writing_to(html):
            if html.is_dir():
                raise UserError(f"--html {html}: this is a folder. Give the file to write, such as report.html in it.")
    experiment = load(arguments.conf, arguments.overrides)
    run_id = expected_answer(experiment)
    if html:
        from tasks.report.board import read_leaderboard
        from tasks.report.html import write_report

        board = read_leaderboard(experiment, run_id, command_of(arguments.conf, arguments.overrides))
        with writing_to(html):
            say(f"The report: {write_report(html, board)}")
    standings = read_standings(experiment, run_id)
    if standings.commit != (here := commit_here()):
        say(f"Made by the code at {standings.commit}; here it is {here}. `pricewright run` makes it again if need be.")
    from tasks.report.tables import as_csv, as_markdown, in_order

    if arguments.json:
        print(json.dumps([row.to_json() for row in in_order(standings.rows)], indent=1, ensure_ascii=False))
    elif arguments.csv:
        print(as_csv(standings.rows), end="")
    elif arguments.markdown:
        print(as_markdown(standings.rows, generated=standings.generated, unit=standings.unit))
    else:
        print_table(standings)


def print_table(standings: Standings) -> None:
    """The leaderboard on standard output, as wide as the terminal, or 100 columns in a pipe."""
    from rich.console import Console

    from tasks.report.tables import leaderboard_table

    console = Console(width=None if sys.stdout.isatty() else 100)
    width, generated, unit = console.width, standings.generated, standings.unit
    with console.capture() as table:  # a pipe whose reader has left ends the command by an error of rich's own
        console.print(leaderboard_table(standings.rows, generated=generated, unit=unit, width=width))
    print(table.get(), end="")


def predict(arguments: argparse.Namespace) -> None:
    """Price texts, or the items of a file, with the champion."""
    from tasks.data.items import Item
    from tasks.data.prices import rounded, shown
    from tasks.data.sources import list_files
    from tasks.models.loading import current_rules, load_predictor, load_rules, priced
    from tasks.scoring.origin import Origin
    from tasks.scoring.wording import with_unit
    from tasks.tracking.reading import reader
    from tasks.tracking.registry import CHAMPION, expected
    from tasks.tracking.runs import MODEL_ID
    from tasks.tracking.store import model_folder

    overrides = [word for word in arguments.overrides if is_override(word)]
    items = [Item.from_text(word) for word in arguments.overrides if not is_override(word)]
    if not arguments.file and not items:
        raise UserError("There is nothing to price. Expected texts, or --file with a JSONL.")
    _check_texts(items)
    if arguments.file:
        list_files(arguments.file)  # refuse one that is not there before a model is looked for
    experiment = load(arguments.conf, overrides)
    version = expected(experiment, CHAMPION)
    client: Any = reader(experiment)
    folder = model_folder(client, version.tags[MODEL_ID])
    rules = current_rules(experiment, version.tags[MODEL_ID], load_rules(folder))
    if arguments.file:
        asked = rules or experiment.data
        # Its own columns, if it is another file than the one that trained.
        columns = {**asked.columns, **experiment.data.columns}
        items += read_items(arguments.file, asked.model_copy(update={"columns": columns}))
    answer = priced(load_predictor(folder), items, rules)
    rows = [
        {"id": item.id, "title": item.title, "price": rounded(price), "low": rounded(low), "high": rounded(high)}
        for item, price, low, high in zip(
            items, *(a.tolist() for a in (answer.price, answer.low, answer.high)), strict=True
        )
    ]
    origin = Origin.read(version.tags)
    if origin:
        say(f"{version.name} version {version.version}: {origin}")
    if none := sum(row["price"] != row["price"] for row in rows):  # NaN
        say(f"{none} of {len(rows)} without a price: cleaning leaves no words of it, or the model answered with none.")
    if arguments.json:
        plain = [{key: None if value != value else value for key, value in row.items()} for row in rows]  # NaN: no JSON
        print(json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False))
        return
    # The rules are those of the run that fitted the model, which may have been before data.currency was changed.
    unit = (origin or rules or experiment.data).unit
    for row in rows:
        price, low, high = (with_unit(shown(row[name]), unit) for name in ("price", "low", "high"))
        interval = "" if row["low"] != row["low"] else f"  (80%: {low} to {high})"  # NaN: the model gives none
        print(f"{price if row['price'] == row['price'] else 'no price'}{interval}  {row['title']}")


def _check_texts(items: list[Item]) -> None:
    for number, item in enumerate(items, 1):
        here = f"Text {number} of {len(items)}"
        if not item.title and not item.text:
            raise UserError(f"{here} is empty. Expected the words of a product in each.")
        try:
            (item.title + item.text).encode()
        except UnicodeEncodeError:  # Python has such bytes as halves of surrogate pairs
            raise UserError(f"{here} is not in UTF-8. Expected UTF-8, or the texts in a file with --file.") from None


def read_items(file: str, rules: Data) -> list[Item]:
    """The items of a file to be priced, here or at an address, such as the one that trained: its columns are those of
    the rules, or have our own names. A price in it is looked at only to find the text that states it."""
    from tasks.data.cleaning import fields_of
    from tasks.data.files.delimited import LINE, REJECTED
    from tasks.data.items import RejectedError, unpriced
    from tasks.data.prices import UnreadableError, read_cell
    from tasks.data.sources import check_columns, list_files, read_files, source_of

    rules = rules.model_copy(update={"columns": {**source_of(rules).columns, **rules.columns}})
    for one in list_files(file):
        check_columns(one, rules, priced=False)
    items = []
    keys: dict[str, None] = {}  # of all rows, in their order
    for number, row in enumerate(read_files(file, rules), 1):
        try:
            if REJECTED in row:
                raise RejectedError(f"{row[REJECTED]} in {row[LINE][:60]!r}")
            keys |= dict.fromkeys(row)
            fields = fields_of(row, rules, strict=False)
            price = None
            with contextlib.suppress(UnreadableError):
                price = read_cell(fields.get("price"), rules.decimal or ".", rules.currency)
            items.append(unpriced(fields, price))
        except RejectedError as error:
            raise UserError(f"{file}, row {number}: {error}. Expected a title or text.") from None
    if not items:
        raise UserError(f"{file} holds no rows. Expected a title or text in each.")
    _say_missing(file, tuple(keys), rules.columns)
    return items


def _say_missing(file: str, keys: tuple[str, ...], mapped: Mapped) -> None:
    """Name the columns of the conf that no row has, besides those of price and id, which no price rests on."""
    from tasks.data.files.columns import plan

    found = plan(keys, mapped, strict=False)
    there = dict(found.columns)
    for ours, theirs in mapped.items():
        names = (theirs,) if isinstance(theirs, str) else theirs
        missing = [name for name in names if name in found.missing]
        if missing and ours not in ("id", "price"):
            own = ours in there and len(missing) == len(names)
            instead = f"{there[ours]!r} is read in its place" if own else "prices rest on its other columns alone"
            absent = " and no ".join(map(repr, missing))
            say(f"{file} has no {absent}, where data.columns looks for the {ours}: {instead}.")


def serve(arguments: argparse.Namespace) -> None:
    """Answer requests with the champion until Ctrl-C."""
    from flows.cli.serving import Limits
    from flows.cli.serving import serve as answer

    given = {"body": arguments.max_body, "texts": arguments.max_texts, "characters": arguments.max_characters}
    limits = Limits(**{key: value for key, value in given.items() if value is not None})
    answer(load(arguments.conf, arguments.overrides), arguments.host, arguments.port, limits)


def export(arguments: argparse.Namespace) -> None:
    """Write a model into a folder; the last line is the folder."""
    from tasks.export import export as write
    from tasks.tracking.registry import BEST_CHECKPOINT, CHAMPION

    alias = BEST_CHECKPOINT if arguments.best_checkpoint else CHAMPION
    experiment, folder = load(arguments.conf, arguments.overrides), Path(arguments.folder)
    for line in write(experiment, folder, alias, adapter=arguments.adapter, items=arguments.items):
        print(line)


def collect_garbage(arguments: argparse.Namespace) -> None:
    """List what can be deleted, and delete it if asked to."""
    from tasks.tracking.retention import delete, plan

    experiment = load(arguments.conf, arguments.overrides)
    found = plan(experiment)
    print(found)
    if arguments.delete:
        delete(experiment, found)
        print("Deleted.")
    else:
        print("Nothing was deleted. Add --delete to delete it.")


def write_sheet(arguments: argparse.Namespace) -> None:
    """Write a sample of the test items for a person; the last line is the sheet."""
    from tasks.curation import curate
    from tasks.data.splits import read_split, sample
    from tasks.models import external

    if arguments.items < 1:
        raise UserError(f"-n: got {arguments.items}. Expected the number of items to price, 1 or more.")
    experiment = load(arguments.conf, arguments.overrides)
    items = sample(read_split(curate(experiment, "recall"), "test"), arguments.items, experiment.seed)
    external.write_sheet(Path(arguments.sheet), items)
    again = shlex.join(["run", "-c", arguments.conf, *arguments.overrides, f"evaluate.human={arguments.sheet}"])
    say(f"{len(items)} items. Fill in the column guess, save it as CSV, then: pricewright {again}")
    print(arguments.sheet)


def open_ui(arguments: argparse.Namespace) -> None:
    """Start both UIs on 127.0.0.1 and wait."""
    from flows.cli.ui import serve_ui

    serve_ui(load(arguments.conf, arguments.overrides), arguments.mlflow_port, arguments.prefect_port)


def deploy(arguments: argparse.Namespace) -> None:
    """Register the deployments, then work."""
    from flows.deployment import deploy as register

    work, queues, name = not arguments.no_worker, arguments.queue, arguments.as_name
    register(arguments.conf, arguments.overrides, arguments.prefect_port, work=work, queues=queues, name=name)


def doctor(arguments: argparse.Namespace) -> None:
    """Say what this machine can run."""
    from flows.cli.doctor import examine

    print(examine(load(arguments.conf, arguments.overrides)))

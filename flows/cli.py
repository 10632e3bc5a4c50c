"""The command line. Libraries are imported by the commands that need them, so that --help answers at once."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flows.remedies import hidden, remedy
from tasks.config import DEFAULT_CONF, Experiment, load
from tasks.errors import UserError

if TYPE_CHECKING:
    from tasks.report import Leaderboard

STAGES = {
    "run": "the whole pipeline; ends with the leaderboard and where to look next",
    "curate": "raw rows into three frozen splits",
    "baselines": "fit the classic models",
    "finetune": "fine-tune the language model, with checkpoints",
    "evaluate": "score every model on the test items",
    "promote": "let the challenger meet the champion",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit status 0: done; 2: something the user can mend; 1: a stage failed."""
    arguments = parse(argv)
    environment(debug=arguments.debug or arguments.name == "deploy")  # its terminal is the log of all runs
    try:
        arguments.command(arguments)
    except UserError as error:
        return fail(str(error), 2, debug=arguments.debug)
    except KeyboardInterrupt:
        return fail("Interrupted. The same command goes on where this one stopped.", 130, debug=arguments.debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if (message := remedy(error)) is not None:
            return fail(message, 2, debug=arguments.debug)
        message = f"{type(error).__name__}: {error}\nThe same command with --debug shows where it happened."
        return fail(message, 1, debug=arguments.debug)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; `key=value` pairs may stand before and after options, which argparse alone does not allow."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    if rest and ("overrides" not in arguments or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="pricewright", description="Which model prices a product best from its text?")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-c", "--conf", default=DEFAULT_CONF, help=f"the experiment's YAML (default {DEFAULT_CONF})")
    common.add_argument("--debug", action="store_true", help="show tracebacks and the libraries' own logs")
    commands = top.add_subparsers(required=True, metavar="command")

    def add(name: str, function: Callable, description: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=description, description=description, parents=[common])
        command.set_defaults(command=function, name=name)
        return command

    for name, description in STAGES.items():
        command = add(name, run_stage, description)
        if name != "promote":
            command.add_argument("--again", action="store_true", help="do it even if it is done")
        else:
            command.add_argument("--dry-run", action="store_true", help="say what would happen, and change nothing")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="goes over the conf, e.g. data.rows=500")
    command = add("leaderboard", show_leaderboard, "the leaderboard again, from MLflow alone")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a list of objects, best first")
    form.add_argument("--csv", action="store_true", help="every figure, for a spreadsheet")
    form.add_argument("--markdown", action="store_true", help="a table for a README or a pull request")
    command.add_argument("--html", metavar="FILE", help="write the report there as well")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="goes over the conf")
    command = add("predict", predict, "the champion's price of a text, with its 80%% interval")
    command.add_argument("texts", nargs="*", metavar="TEXT", help="a product's title and description")
    command.add_argument("--file", help="JSONL with a title or text in each line")
    command.add_argument("--json", action="store_true", help="a list of objects")
    command = add("serve", serve, "the champion over HTTP, until Ctrl-C")
    command.add_argument("--host", default="127.0.0.1", help="the address to listen on (default 127.0.0.1)")
    command.add_argument("--port", type=int, default=8000)
    command.add_argument("--max-body", type=int, metavar="BYTES", help="the longest request (default 1 MiB)")
    command.add_argument("--max-texts", type=int, metavar="N", help="most texts in a request (default 64)")
    command.add_argument("--max-characters", type=int, metavar="N", help="the longest text (default 10,000)")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="goes over the conf")
    command = add("export", export, "the champion as a folder to take away, with a model card")
    command.add_argument("folder", metavar="FOLDER", help="a new or empty folder")
    command.add_argument("--adapter", action="store_true", help="the adapter alone, not merged into its base model")
    command.add_argument("--best-checkpoint", action="store_true", help="not the champion, but the best checkpoint")
    command.add_argument("-n", "--items", type=int, default=100, help="test items to score a merged model on again")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="goes over the conf")
    command = add("gc", collect_garbage, "what old runs and models could be deleted; with --delete, delete them")
    command.add_argument("--delete", action="store_true", help="really delete, for good")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="goes over the conf, e.g. gc.keep_days=7")
    command = add("human", write_sheet, "a sheet of test items for a person to price")
    command.add_argument("sheet", metavar="SHEET", help="the CSV to write; one that is there is never overwritten")
    command.add_argument("-n", "--items", type=int, default=100, help="how many items (default 100)")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="goes over the conf")
    command = add("ui", open_ui, "the MLflow UI and the Prefect dashboard, until Ctrl-C")
    command.add_argument("--mlflow-port", type=int, default=5000)
    command.add_argument("--prefect-port", type=int, default=4200)
    command.add_argument("overrides", nargs="*", metavar="key=value", help="goes over the conf")
    command = add("deploy", deploy, "register the flows at a Prefect server, and run what comes due, until Ctrl-C")
    command.add_argument("--no-worker", action="store_true", help="only register")
    command.add_argument("--prefect-port", type=int, help="of `pricewright ui`, if it is not 4200")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="goes over the conf of every run")
    add("doctor", doctor, "what this machine can run, and what is missing")
    return top


def environment(*, debug: bool) -> None:
    """Settings of other libraries that only hold before they are imported; what the user set stays."""
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 9 to 23 s were seen; 20 are the default
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not debug:
        settings["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"  # errors are shown once, by `fail`
        settings["PREFECT_INTERNAL_LOGGING_LEVEL"] = "CRITICAL"  # each event that a server which is gone does not take
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def fail(message: str, status: int, *, debug: bool) -> int:
    """Say what went wrong on standard error."""
    if debug:
        print(hidden(traceback.format_exc()), file=sys.stderr)
    print(f"pricewright: {hidden(message)}", file=sys.stderr)
    return status


def run_stage(arguments: argparse.Namespace) -> None:
    """Run the flow of a stage, or of all of them."""
    options = {"conf": arguments.conf, "overrides": arguments.overrides}
    experiment = load(**options)  # refuse a bad conf before anything starts
    say(f"Starting Prefect for `{arguments.name}` ...")
    from flows.leash import leash_server

    leash_server()
    match arguments.name:
        case "run":
            from flows.pipeline import pipeline

            report = pipeline(**options, again=arguments.again)
            print_leaderboard(experiment, report)
        case "curate":
            from flows.curation import curation

            print(curation(**options, again=arguments.again))
        case "baselines":
            from flows.baselines import baselines

            print("\n".join(baselines(**options, again=arguments.again)))
        case "finetune":
            from flows.finetuning import finetuning

            print("\n".join(finetuning(**options, again=arguments.again)))
        case "evaluate":
            from flows.evaluation import evaluation

            report = evaluation(**options, again=arguments.again)
            print_leaderboard(experiment, report)
        case "promote":
            from flows.promotion import promotion

            print(promotion(**options, dry_run=arguments.dry_run))


def say(message: str) -> None:
    """Progress, on standard error."""
    print(message, file=sys.stderr, flush=True)


def print_leaderboard(experiment: Experiment, report: str) -> None:
    """The table, where to look next, and last the path of the report."""
    from flows.promotion import recall_scores
    from tasks.leaderboard import read_leaderboard

    board = read_leaderboard(experiment, recall_scores(experiment, "read").run_id)
    print_table(board)
    if not any(row["champion"] for row in board.rows):
        print(f"The champion of {experiment.promote.name} comes from an earlier run, and none of these beat it.")
    program = sys.argv[0] if Path(sys.argv[0]).name == "pricewright" else "pricewright"
    print(f"Compare the models in MLflow and the runs in Prefect: {program} ui")
    print("The report:")
    print(report)


def show_leaderboard(arguments: argparse.Namespace) -> None:
    """Print the leaderboard of the conf, from what MLflow keeps of its evaluation: the models may be gone."""
    from flows.artifacts import command
    from flows.promotion import recall_scores
    from tasks.leaderboard import read_leaderboard
    from tasks.report import write_report
    from tasks.standings import as_csv, as_markdown

    experiment = load(arguments.conf, arguments.overrides)
    repeat = command(arguments.conf, arguments.overrides)
    board = read_leaderboard(experiment, recall_scores(experiment, "read").run_id, repeat)
    if arguments.html:
        say(f"The report: {write_report(Path(arguments.html), board)}")
    if arguments.json:
        print(json.dumps(board.rows, indent=1, ensure_ascii=False))
    elif arguments.csv:
        print(as_csv(board.rows), end="")
    elif arguments.markdown:
        print(as_markdown(board.rows, generated=board.generated, unit=board.unit))
    else:
        print_table(board)


def print_table(board: Leaderboard) -> None:
    """The leaderboard on standard output, as wide as the terminal, or 100 columns in a pipe."""
    from rich.console import Console

    from tasks.standings import leaderboard_table

    console = Console(width=None if sys.stdout.isatty() else 100)
    wide = console.width >= 130
    console.print(leaderboard_table(board.rows, generated=board.generated, unit=board.unit, wide=wide))


def predict(arguments: argparse.Namespace) -> None:
    """Price texts, or the items of a file, with the champion."""
    from tasks.items import Item
    from tasks.predictors.loading import load_predictor
    from tasks.registry import CHAMPION, expected
    from tasks.store import connect, model_folder
    from tasks.tracking import MODEL_ID

    items = [Item.from_text(text) for text in arguments.texts]
    if arguments.file:
        items += read_items(Path(arguments.file))
    if not items or not all(item.title or item.text for item in items):
        raise UserError("There is nothing to price. Expected texts that are not empty, or --file with a JSONL.")
    experiment = load(arguments.conf)
    model_id = expected(experiment, CHAMPION).tags[MODEL_ID]
    answer = load_predictor(model_folder(connect(experiment), model_id)).predict(items)
    rows = [
        {"id": item.id, "title": item.title, "price": round(price, 2), "low": round(low, 2), "high": round(high, 2)}
        for item, price, low, high in zip(
            items, *(a.tolist() for a in (answer.price, answer.low, answer.high)), strict=True
        )
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for row in rows:
        print(f"${row['price']:,.2f}  (80%: ${row['low']:,.2f} to ${row['high']:,.2f})  {row['title']}")


def read_items(file: Path) -> list:
    """The items of a file to be priced; a price in it is not looked at."""
    from tasks.items import RejectedError, from_row
    from tasks.sources import read_files

    items = []
    for number, row in enumerate(read_files(str(file)), 1):
        try:
            items.append(from_row({**row, "price": 1}))
        except RejectedError as error:
            raise UserError(f"{file}, row {number}: {error}. Expected a title or text.") from None
    return items


def serve(arguments: argparse.Namespace) -> None:
    """Answer requests with the champion until Ctrl-C."""
    from flows.serving import Limits
    from flows.serving import serve as answer

    given = {"body": arguments.max_body, "texts": arguments.max_texts, "characters": arguments.max_characters}
    limits = Limits(**{key: value for key, value in given.items() if value is not None})
    answer(load(arguments.conf, arguments.overrides), arguments.host, arguments.port, limits)


def export(arguments: argparse.Namespace) -> None:
    """Write a model into a folder; the last line is the folder."""
    from tasks.export import export as write
    from tasks.registry import BEST_CHECKPOINT, CHAMPION

    alias = BEST_CHECKPOINT if arguments.best_checkpoint else CHAMPION
    experiment, folder = load(arguments.conf, arguments.overrides), Path(arguments.folder)
    for line in write(experiment, folder, alias, adapter=arguments.adapter, items=arguments.items):
        print(line)


def collect_garbage(arguments: argparse.Namespace) -> None:
    """Say what may go, and delete it if asked to."""
    from tasks.retention import delete, plan

    experiment = load(arguments.conf, arguments.overrides)
    found = plan(experiment)
    print(found)
    if arguments.delete:
        delete(experiment, found)
        print("Deleted.")
    else:
        print("Nothing was deleted: that takes --delete.")


def write_sheet(arguments: argparse.Namespace) -> None:
    """Write a sample of the test items for a person; the last line is the sheet."""
    from tasks import guesses
    from tasks.curation import curate
    from tasks.splits import read_split, sample

    if arguments.items < 1:
        raise UserError(f"-n: got {arguments.items}. Expected the number of items to price, 1 or more.")
    experiment = load(arguments.conf, arguments.overrides)
    items = sample(read_split(curate(experiment, "recall"), "test"), arguments.items, experiment.seed)
    guesses.write_sheet(Path(arguments.sheet), items)
    again = shlex.join(["run", "-c", arguments.conf, *arguments.overrides, f"evaluate.human={arguments.sheet}"])
    say(f"{len(items)} items. Fill in the column guess, save it as CSV, then: pricewright {again}")
    print(arguments.sheet)


def open_ui(arguments: argparse.Namespace) -> None:
    """Start both UIs on 127.0.0.1 and wait."""
    from flows.ui import serve_ui

    serve_ui(load(arguments.conf, arguments.overrides), arguments.mlflow_port, arguments.prefect_port)


def deploy(arguments: argparse.Namespace) -> None:
    """Register the deployments, then work."""
    from flows.deployment import deploy as register

    register(arguments.conf, arguments.overrides, arguments.prefect_port, work=not arguments.no_worker)


def doctor(arguments: argparse.Namespace) -> None:
    """Say what this machine can run."""
    from flows.doctor import examine

    print(examine(load(arguments.conf)))


if __name__ == "__main__":
    sys.exit(main())

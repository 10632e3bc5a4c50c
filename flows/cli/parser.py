"""The commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from flows.cli import commands as does
from tasks.config.loading import DEFAULT_CONF, FILES_CONF, is_override

STAGES = {
    "run": "run the whole pipeline; the leaderboard comes at the end",
    "curate": "turn raw rows into three frozen splits",
    "baselines": "fit the classic models",
    "finetune": "fine-tune the language model, and score its checkpoints",
    "evaluate": "score every model on the test items",
    "promote": "make the challenger champion if it beats the champion",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; `key=value` pairs may stand before and after options and before the file, the sheet or the folder
    of a command, which argparse alone does not allow."""
    top = parser()
    arguments, rest = top.parse_known_args(argv)
    if rest and ("overrides" not in arguments or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    for word in arguments.positional:
        first = getattr(arguments, word)  # it stays where nothing else can be meant: a file may be called a=b
        meant = next((other for other in arguments.overrides if not is_override(other)), None)
        if is_override(first) and meant is not None:
            setattr(arguments, word, meant)
            arguments.overrides.remove(meant)
            arguments.overrides.insert(0, first)
    arguments.conf = ",".join(arguments.conf or [DEFAULT_CONF])
    return arguments


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="pricewright", description="Which model prices a product best from its text?")
    common = argparse.ArgumentParser(add_help=False)
    yaml = f"the experiment's YAML (default {DEFAULT_CONF}); of several, each goes over the others; init takes one "
    yaml += f"(default {FILES_CONF})"
    common.add_argument("-c", "--conf", action="append", help=yaml)
    common.add_argument("--debug", action="store_true", help="show tracebacks and the libraries' own logs")
    commands = top.add_subparsers(required=True, metavar="command")

    def add(name: str, function: Callable, description: str, *positional: tuple[str, str]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=description, description=description, parents=[common])
        command.set_defaults(command=function, name=name, positional=[word for word, _ in positional])
        for word, meaning in positional:  # before the overrides, or they would take it for one of theirs
            command.add_argument(word, metavar=word.upper(), help=meaning)
        command.add_argument(
            "overrides",
            nargs="*",
            metavar="key=value",
            help="replaces a value of the conf: data.rows=500",
        )
        return command

    for name, description in STAGES.items():
        command = add(name, does.run_stage, description)
        if name != "promote":
            command.add_argument("--again", action="store_true", help="do it again, even if it is finished")
        else:
            command.add_argument("--dry-run", action="store_true", help="say what would happen, and change nothing")
    file = ("file", "JSONL, JSON, CSV, TSV or Parquet; a file, a folder or a glob")
    command = add("init", does.write_conf, "look at a file of products, and write a conf that reads it", file)
    command.add_argument("--to", metavar="CONF", help="the conf to write (default: the file's name, .yaml)")
    _add_leaderboard(add)
    _add_champion(add)
    _add_service(add)
    return top


def _add_leaderboard(add: Callable) -> None:
    command = add("leaderboard", does.show_leaderboard, "show the leaderboard again, from what MLflow keeps")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a list of objects, best first")
    form.add_argument("--csv", action="store_true", help="print every figure, for a spreadsheet")
    form.add_argument("--markdown", action="store_true", help="print a table for a README or a pull request")
    command.add_argument("--html", metavar="FILE", help="also write the report to this file")
    sheet = ("sheet", "the CSV to write; an existing one is never overwritten")
    command = add("human", does.write_sheet, "write a sheet of test items for a person to price", sheet)
    command.add_argument("-n", "--items", type=int, default=100, help="the number of items (default 100)")


def _add_champion(add: Callable) -> None:
    command = add("predict", does.predict, "price each TEXT with the champion, with an interval of 80 percent")
    command.usage = "pricewright predict [-c CONF] [--file FILE] [--json] [TEXT ...] [key=value ...]"
    command.add_argument("--file", help="a JSONL, JSON, CSV, TSV or Parquet file with a title or text in each row")
    command.add_argument("--json", action="store_true", help="print a list of objects")
    command = add("serve", does.serve, "serve the champion over HTTP, until Ctrl-C")
    command.add_argument("--host", default="127.0.0.1", help="the address to listen on (default 127.0.0.1)")
    command.add_argument("--port", type=int, default=8000, help="the port to listen on (default 8000)")
    command.add_argument("--max-body", type=int, metavar="BYTES", help="the longest request (default 1 MiB)")
    command.add_argument("--max-texts", type=int, metavar="N", help="the most texts in one request (default 64)")
    command.add_argument("--max-characters", type=int, metavar="N", help="the longest text (default 10,000)")
    folder = ("folder", "a new or empty folder")
    command = add("export", does.export, "write the champion into a folder to take away, with a model card", folder)
    command.add_argument("--adapter", action="store_true", help="only the adapter, not merged into its base model")
    command.add_argument("--best-checkpoint", action="store_true", help="the best checkpoint instead of the champion")
    command.add_argument(
        "-n",
        "--items",
        type=int,
        default=100,
        help="test items to score a merged model on again (default 100)",
    )


def _add_service(add: Callable) -> None:
    command = add("gc", does.collect_garbage, "list old runs and models to delete; with --delete, delete them")
    command.add_argument("--delete", action="store_true", help="delete them for good")
    command = add("ui", does.open_ui, "start the MLflow UI and the Prefect dashboard, until Ctrl-C")
    command.add_argument("--mlflow-port", type=int, default=5000, help="the port of the MLflow UI (default 5000)")
    command.add_argument("--prefect-port", type=int, default=4200, help="the port of the dashboard (default 4200)")
    command = add("deploy", does.deploy, "register the flows at a Prefect server and run what comes due, until Ctrl-C")
    command.add_argument("--name", dest="as_name", help="what to call the deployments (default: the conf's file)")
    command.add_argument("--no-worker", action="store_true", help="only register; another worker does the work")
    command.add_argument("--queue", action="append", help="run only what is in this work queue: gpu or default")
    command.add_argument("--prefect-port", type=int, help="the port of Prefect's server (default 4200)")
    add("doctor", does.doctor, "say what this machine can run, and what is missing")

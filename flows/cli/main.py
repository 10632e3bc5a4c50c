"""The command line: it runs a command, and turns errors into a message and an exit status."""

from __future__ import annotations

import gc
import io
import os
import sys
import traceback
import warnings

from flows.cli.parser import parse
from flows.cli.remedies import hidden, remedy
from tasks.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit status 0: done; 2: something the user can mend; 1: a stage failed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that has no ★ shows a question mark, and nothing breaks
            stream.reconfigure(errors="replace")
    arguments = parse(argv)
    environment(debug=arguments.debug or arguments.name == "deploy")  # its terminal is the log of all runs
    try:
        arguments.command(arguments)
        sys.stdout.flush()  # whoever read it may have left
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


def environment(*, debug: bool) -> None:
    """Settings of other libraries that only hold before they are imported; what the user set stays."""
    # Imports make hundreds of thousands of objects that stay. To look through them after every 700 new ones, as Python
    # does by default, takes a tenth of the time of a start.
    gc.set_threshold(50_000, 20, 50)
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # the default is 20; 9 to 23 were measured
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # what a server says while its PostgreSQL is away
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not debug:
        settings["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"  # `fail` shows errors once
        settings["PREFECT_INTERNAL_LOGGING_LEVEL"] = "CRITICAL"  # each event that a server which is gone does not take
    # The command says it itself, where the folder is needed.
    warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def fail(message: str, status: int, *, debug: bool) -> int:
    """Say what went wrong on standard error."""
    if debug:
        print(hidden(traceback.format_exc()), file=sys.stderr)
    print(f"pricewright: {hidden(message)}", file=sys.stderr)
    return status

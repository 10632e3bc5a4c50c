"""What fine-tuning does on a GPU: whether it is right, how good and how fast, for a machine that is there for minutes.

    python -m benchmarks.gpu --out FOLDER --data FOLDER [--phases NAME[=SECONDS] ...] [--store FOLDER] [key=value ...]
    python -m benchmarks.gpu --out FOLDER --dry-run    # all of it with tiny models: shows that it runs
    python -m benchmarks.gpu --report FOLDER           # the tables again, in markdown, from what lies there

The phases come in the order of their worth: `agreement` (the GPU learns and answers what the CPU does, and is
interrupted once), `ways` and `quality` (all of amazon_course_like; `key=value` changes their conf), `speed` (Llama 3.1
8B, random weights) and `loop` (the recipe's loop beside ours). Each is a process of its own that is ended after its
seconds. It writes NAME.json anew after each figure, so that what is cut off keeps what it has, and NAME.log; report.md
holds the tables. Neither a network nor a server of Prefect is needed. Only `ways` and `quality` need MLflow and
Prefect to be installed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

from benchmarks.on_gpu.report import tables
from benchmarks.on_gpu.results import Results, Task, machine
from tasks.paths import PROJECT

PHASES = {"agreement": 90, "ways": 200, "quality": 200, "speed": 180, "loop": 120}  # seconds


def run_phases(phases: dict[str, float | None], words: list[str], out: Path, environment: dict[str, str]) -> bool:
    """Run the phases one after another, each for so many seconds at most, and write down how each ended; whether all
    were done."""
    done = True
    for name, seconds in phases.items():
        print(f"  {name}{'' if seconds is None else f': at most {seconds:.0f} s'}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        (out / f"{name}.json").unlink(missing_ok=True)
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", "--worker", name, *words]
        with (out / f"{name}.log").open("wb") as log:
            status = limited(command, seconds, log, environment)
        said = {None: "ended at its limit", 0: "done"}.get(status, f"failed with status {status}")
        took, done = time.perf_counter() - start, done and status == 0
        Results.read(out / f"{name}.json").keep(ended={"how": said, "limit": seconds, "seconds": took})
        (out / "report.md").write_text(tables(out), encoding="utf-8")
        print(f"  {name}: {said} after {took:.0f} s", file=sys.stderr, flush=True)
        if status:
            print(_tail(out / f"{name}.log"), file=sys.stderr, flush=True)
    return done


def limited(command: list[str], seconds: float | None, log: BinaryIO, environment: dict[str, str]) -> int | None:
    """The exit status of a command, or None if it was ended after so many seconds, with all it had started."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # closed when this process is gone, even if it was killed: then the phase goes too
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=PROJECT,
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:  # when this process is interrupted, too
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _leave_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nobody writes: it returns when the other end is closed
    os.killpg(0, signal.SIGKILL)  # this process and those that it has started


def work(name: str, arguments: argparse.Namespace) -> None:
    """One phase, in this process."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    from tasks.models.language.base_model import quiet

    quiet()
    results = Results(arguments.out / f"{name}.json")
    results.keep(dry=arguments.dry_run, machine=machine())
    overrides, opinions = tuple(arguments.overrides), arguments.opinions
    task = Task(results, arguments.data, arguments.store, arguments.dry_run, overrides, opinions)
    phase = importlib.import_module(f"benchmarks.on_gpu.{name}")
    if arguments.dry_run:  # with models of no size, the collector would look at nothing but modules, again and again
        gc.freeze()
    phase.measure(task)


def phase_of(word: str) -> tuple[str, float | None]:
    """A phase and its seconds, as far as they are said, from NAME or NAME=SECONDS."""
    name, equals, seconds = word.partition("=")
    if name not in PHASES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PHASES)}")
    return name, float(seconds) if equals else None


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the figures go")
    parser.add_argument("--data", type=Path, help="the folder of the data sets; PRICEWRIGHT_DATA by default")
    parser.add_argument("--phases", nargs="+", type=phase_of, metavar="NAME[=SECONDS]", help="all of them by default")
    parser.add_argument("--store", type=Path, help="where MLflow keeps `ways` and `quality`; in --out by default")
    parser.add_argument("--opinions", type=Path, help="asked beforehand: benchmarks/on_gpu/quality.py")
    parser.add_argument("--dry-run", action="store_true", help="with tiny models, on whatever device there is")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="print the tables of what lies there")
    parser.add_argument("--worker", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the conf of `ways` and `quality`")
    arguments = parser.parse_intermixed_args()
    if arguments.report is None and arguments.out is None:
        parser.error("--out or --report is needed")
    if arguments.data is None and not arguments.dry_run and "PRICEWRIGHT_DATA" in os.environ:
        arguments.data = Path(os.environ["PRICEWRIGHT_DATA"])
    phases = dict(arguments.phases or dict.fromkeys(PHASES))
    if not arguments.dry_run:  # nothing is measured in it: it ends when it is done
        phases = {name: PHASES[name] if seconds is None else seconds for name, seconds in phases.items()}
    arguments.phases = phases
    if (
        arguments.data is None
        and {"ways", "quality"} & set(arguments.phases)
        and not (arguments.dry_run or arguments.report)
    ):
        parser.error("the phases ways and quality need --data, the folder that holds amazon_course_like")
    return arguments


def main() -> None:
    """Run and print the tables."""
    arguments = parsed()
    if arguments.report is not None:
        print(tables(arguments.report))
        return
    arguments.out = arguments.out.absolute()
    arguments.store = (arguments.store or arguments.out / "store").absolute()
    if arguments.worker:
        work(arguments.worker, arguments)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}
    words = ["--out", str(arguments.out), "--store", str(arguments.store), *arguments.overrides]
    if arguments.dry_run:
        words += ["--dry-run"]
    if arguments.opinions is not None:
        words += ["--opinions", str(arguments.opinions.absolute())]
    if arguments.data is not None:
        words += ["--data", str(arguments.data.absolute())]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    done = run_phases(arguments.phases, words, arguments.out, environment)
    print(tables(arguments.out))
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()

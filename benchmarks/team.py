"""What a team's servers cost, and what they survive: PostgreSQL, an S3-compatible store, MLflow and Prefect.

    python -m benchmarks.team store              # 64 MB of adapters up and down, by the server and directly
    python -m benchmarks.team full [--runs N]    # leaderboard and run on a database with 1,000 evaluations in it
    python -m benchmarks.team faults [NAME ...]  # each fault made for real; the rows of docs/reliability.md

All of it runs on this machine, on the smoke experiment, with servers of its own in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import OVERRIDES, Copy, free_port, same, went_on
from flows.team import BUCKET, GRPC, HOST, PORTS, Team, weed_binary
from tasks.config.loading import load
from tasks.tracking.runs import STAGE
from tasks.tracking.store import connect, experiment_id

MEGABYTES, FILES = 64, 8
DOWN = 30  # seconds that a server is gone


@contextlib.contextmanager
def servers() -> Iterator[Team]:
    """A team's servers in a folder that goes afterwards, reachable by the user that PostgreSQL runs as."""
    folder = Path(tempfile.mkdtemp(prefix="team-"))
    folder.chmod(0o755)
    try:
        with Team(folder, free_ports(len(PORTS) + len(GRPC))) as team:
            yield team
    finally:
        shutil.rmtree(folder)


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    import socket

    while True:
        first = free_port()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            for place in range(count):
                stack.enter_context(socket.socket()).bind((HOST, first + place))
            return first


def processor_seconds(team: Team) -> float:
    """What the servers and the commands that have ended took so far."""
    import psutil

    total = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    for process in team.processes.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            tree = [root := psutil.Process(process.pid), *root.children(recursive=True)]
            total += sum(sum(one.cpu_times()[:2]) for one in tree)
    return total


def store(team: Team) -> None:
    """Adapters up and down, through the MLflow server and directly."""
    import mlflow

    from tasks.tracking.store import fetch, forget

    print("| way | up, s | down, s | processor s of client and servers |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {**team.environment, "PRICEWRIGHT_CACHE": f"{folder}/cache"}
        adapters = Path(folder) / "adapters"
        adapters.mkdir()
        for number in range(FILES):
            (adapters / f"{number}.safetensors").write_bytes(os.urandom(MEGABYTES * 2**20 // FILES))
        for way, artifacts in (("by the server", "null"), ("directly", f"s3://{BUCKET}/direct")):
            words = [f"tracking.uri={team.mlflow}", f"tracking.artifacts={artifacts}", f"tracking.experiment={way}"]
            experiment = load("conf/smoke.yaml", words)
            where = experiment_id(experiment)
            run = connect(experiment).create_run(where)
            before, start = processor_seconds(team) + time.process_time(), time.perf_counter()
            mlflow.MlflowClient().log_artifacts(run.info.run_id, str(adapters), "adapters")
            up, start = time.perf_counter() - start, time.perf_counter()
            copy = fetch(f"{run.info.artifact_uri}/adapters")
            down = time.perf_counter() - start
            spent = processor_seconds(team) + time.process_time() - before
            same = all((copy / file.name).read_bytes() == file.read_bytes() for file in adapters.iterdir())
            forget(f"{run.info.artifact_uri}/adapters")
            print(f"| {way} | {up:.1f} | {down:.1f} | {spent:.1f}{'' if same else ' DAMAGED'} |", flush=True)


def full(team: Team, runs: int) -> None:
    """`leaderboard` and `run` with nothing to do, on an empty database and on one with many evaluations in it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = TeamCopy(Path(folder) / "copy", team)
        status, said = copy.run("run")
        if status:
            sys.exit(said)
        empty = {command: measured(copy, team, command) for command in ("leaderboard", "run")}
        rows = fill(team, runs)
        print(f"{rows:,} rows of {runs:,} evaluations more.", flush=True)
        print("| command | empty, processor s | full, processor s | times |\n|---|---|---|---|")
        for command, before in empty.items():
            after = measured(copy, team, command)
            print(f"| {command} | {before:.1f} | {after:.1f} | {after / before:.2f} |", flush=True)


def measured(copy: Copy, team: Team, command: str) -> float:
    """The least processor seconds of client and servers of three times."""
    found = []
    for _ in range(3):
        before = processor_seconds(team)
        status, said = copy.run(command)
        if status:
            sys.exit(said)
        found.append(processor_seconds(team) - before)
    return min(found)


def fill(team: Team, runs: int) -> int:
    """Copy the evaluation that is there so many times within the database, each as one of other data; returns the rows
    that were added."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(team.database("mlflow"))
    run_id = "md5({0} || ':' || n)"
    mine = f"(SELECT run_uuid FROM tags WHERE key = '{STAGE}' AND value = 'evaluate')"
    theirs = f"(SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId' AND value IN {mine})"
    models = f"(SELECT model_id FROM logged_models WHERE source_run_id IN {mine})"
    model_id = "'m-' || md5({0} || ':' || n)"
    # A tag that names a run or a model names the copy; a digest is another one.
    linked = "('mlflow.parentRunId', 'pricewright.digest', 'pricewright.asked')"
    value = (
        f"CASE WHEN key IN {linked} THEN {run_id.format('value')} "
        f"WHEN key = 'pricewright.model_id' THEN {model_id.format('value')} ELSE value END"
    )
    tables = {
        "runs": ({"run_uuid": run_id}, f"run_uuid IN {mine} OR run_uuid IN {theirs}"),
        **dict.fromkeys(("params", "metrics", "latest_metrics"), ({"run_uuid": run_id}, "TRUE")),
        "tags": ({"run_uuid": run_id, "value": value}, "TRUE"),
        "logged_models": ({"model_id": model_id, "source_run_id": run_id}, f"model_id IN {models}"),
        **dict.fromkeys(
            ("logged_model_params", "logged_model_tags"), ({"model_id": model_id}, f"model_id IN {models}")
        ),
    }
    added = 0
    with engine.begin() as connection:
        for table, (changed, which) in tables.items():
            if which == "TRUE":
                which = f"run_uuid IN {mine} OR run_uuid IN {theirs}"
            names = [column["name"] for column in sqlalchemy.inspect(connection).get_columns(table)]
            taken = [changed[name].format(name) if name in changed else f'"{name}"' for name in names]
            columns = ", ".join(f'"{name}"' for name in names)
            source = f"(SELECT * FROM {table} WHERE {which}) AS old, generate_series(1, {runs}) AS n"
            made = f"INSERT INTO {table} ({columns}) SELECT {', '.join(taken)} FROM {source}"
            done = connection.exec_driver_sql(made)
            added += done.rowcount
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sqlalchemy.text("ANALYZE"))
    return added


class TeamCopy(Copy):
    """A copy of the project on a team's servers."""

    def __init__(self, folder: Path, team: Team, mlflow: str | None = None) -> None:
        super().__init__(folder, team.prefect)
        self.team, self.words = team, [f"tracking.uri={mlflow or team.mlflow}", "finetune.checkpoints_in=store"]

    def start(self, command: str, *words: str, **environment: str) -> subprocess.Popen:
        """A command with the team's servers in its conf."""
        return super().start(command, *self.words, *words, **environment)

    def stages(self, *words: str) -> list[tuple[str, str]]:
        """Stage and status of every run of a stage, as they are now."""
        experiment = load("conf/smoke.yaml", [*OVERRIDES, f"tracking.uri={self.team.mlflow}", *words])
        runs = connect(experiment).search_runs([experiment_id(experiment)])
        return [(run.data.tags[STAGE], run.info.status) for run in runs if STAGE in run.data.tags]


Fault = Callable[[TeamCopy, list[dict]], list[str]]


@contextlib.contextmanager
def gone(team: Team, name: str) -> Iterator[None]:
    """A server that is not there, and then is."""
    team.stop(name)
    yield
    {"postgres": team.start_postgres, "prefect": team.start_prefect, "store": team.start_store}[name]()


@contextlib.contextmanager
def refusing(team: Team) -> Iterator[None]:
    """A store that answers 503, then is gone, and then is there."""

    class Busy(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_error(503)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815 - the library's names

        def log_message(self, *_: Any) -> None: ...

    with gone(team, "store"):
        server = http.server.ThreadingHTTPServer((HOST, team.ports["s3"]), Busy)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        time.sleep(DOWN)
        server.shutdown()
        server.server_close()
        yield


def in_each_stage(without: Callable[[Team], contextlib.AbstractContextManager]) -> Fault:
    """One run, in each stage of which a server is away for a while."""

    def fault(copy: TeamCopy, good: list[dict]) -> list[str]:
        process, met = copy.start("run"), []
        for stage in ("curate", "baselines", "finetune", "evaluate"):
            while process.poll() is None and stage not in {name for name, _ in copy.stages(*copy.words)}:
                time.sleep(0.5)
            if process.poll() is None:
                with without(copy.team):
                    time.sleep(DOWN)
                met.append(stage)
        _, errors = process.communicate()
        said = errors.strip().splitlines()[-1] if process.returncode else same(copy, good)
        return [f"gone in {', '.join(met)}; exit {process.returncode}: {said}", went_on(copy, good)]

    return fault


def refused(*words: str, **environment: str) -> Fault:
    """A run that cannot work, and what it says."""

    def fault(copy: TeamCopy, _good: list[dict]) -> list[str]:
        filled = [word.format(database=copy.team.database("mlflow", password="$WORD"), s3=BUCKET) for word in words]
        filled = [word.replace("PREFECT", copy.team.prefect.removesuffix("/api")) for word in filled]
        keys = copy.team.environment | environment
        status, said = copy.run("run", *filled, **keys)
        return [f"exit {status}: {said}", ""]

    return fault


def full_bucket(copy: TeamCopy, good: list[dict]) -> list[str]:
    """A quota of the bucket that is used up: the store makes it read-only."""

    def shell(*commands: str) -> None:
        words = [
            str(weed_binary()),
            "shell",
            f"-master={HOST}:{copy.team.ports['master']}.{copy.team.first + GRPC['master']}",
        ]
        subprocess.run(words, input="\n".join([*commands, "exit", ""]), text=True, check=True, capture_output=True)

    copy.run("curate")
    shell(f"s3.bucket.quota -name={BUCKET} -op=set -sizeMB=1", "s3.bucket.quota.enforce -apply")
    status, said = copy.run("run")
    shell(f"s3.bucket.quota -name={BUCKET} -op=remove", "s3.bucket.quota.enforce -apply")
    return [f"exit {status}: {said}", went_on(copy, good)]


class Relay:
    """A wire between a worker and a server that can be cut: what was sent on it waits, and nothing is said."""

    def __init__(self, port: int) -> None:
        import socket

        self.port, self.there = port, threading.Event()
        self.there.set()
        self.listener = socket.create_server((HOST, 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.listener.getsockname()[1]}"

    def _accept(self) -> None:
        import socket

        while True:
            with contextlib.suppress(OSError):
                near, _ = self.listener.accept()
                far = socket.create_connection((HOST, self.port))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: Any, sink: Any) -> None:
        with contextlib.suppress(OSError), source, sink:
            while content := source.recv(2**16):
                self.there.wait()
                sink.sendall(content)


def network_cut(copy: TeamCopy, good: list[dict]) -> list[str]:
    """A worker that is cut off in the middle of fine-tuning and comes back when another one has ended its training."""
    relay = Relay(copy.team.ports["mlflow"])
    copy.run("baselines") if copy.run("curate")[0] == 0 else None
    lost = TeamCopy(copy.folder.with_name("lost"), copy.team, relay.address)
    lost.words += copy.words[2:]
    process = lost.start("run")
    while process.poll() is None and ("finetune", "RUNNING") not in copy.stages(*copy.words):
        time.sleep(0.5)
    time.sleep(5)
    relay.there.clear()
    status, said = copy.run("run")
    relay.there.set()
    _, errors = process.communicate()
    last = errors.strip().splitlines()[-1] if errors.strip() else ""
    stages = sorted(name for name, _ in copy.stages(*copy.words))
    return [
        f"the other one: exit {status}{f': {said}' if status else ''}; the one that came back: exit "
        f"{process.returncode}: {last}; stage runs: {', '.join(stages)}",
        went_on(copy, good),
    ]


FAULTS: dict[str, tuple[str, Fault]] = {
    "postgres": (f"PostgreSQL stopped for {DOWN} s in each stage", in_each_stage(partial(gone, name="postgres"))),
    "prefect": (f"Prefect's server stopped for {DOWN} s in each stage", in_each_stage(partial(gone, name="prefect"))),
    "store": (f"the store answers 503 for {DOWN} s, then is gone for {DOWN} s, in each stage", in_each_stage(refusing)),
    "network": ("a worker's connection to MLflow cut in the middle of fine-tuning", network_cut),
    "full": ("a quota of the bucket used up", full_bucket),
    "password": ("a wrong password of the database", refused("tracking.uri={database}", WORD="wrong")),
    "key": ("a wrong key of the store", refused("tracking.artifacts=s3://{s3}/key", AWS_SECRET_ACCESS_KEY="wrong")),
    "bucket": ("a bucket that is not there", refused("tracking.artifacts=s3://nowhere-at-all/here")),
    "no-mlflow": ("a server that is no MLflow", refused("tracking.uri=PREFECT")),
}  # fmt: skip


def faults(team: Team, names: list[str]) -> None:
    """Print the table."""
    print("| fault | how it was made | what happened | how to go on |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        good = TeamCopy(Path(folder) / "good", team)
        good.words.append("tracking.experiment=good")
        status, said = good.run("run")
        if status:
            sys.exit(f"the run that nothing happens to fails: {said}")
        board = good.board()
        for name in names or FAULTS:
            made, fault = FAULTS[name]
            copy = TeamCopy(Path(folder) / name, team)
            copy.words += [f"tracking.experiment={name}", f"promote.name={name}"]
            try:
                happened = fault(copy, board)
            except Exception as error:  # one that cannot be made here must not take the others along
                happened = [f"not obtained: {type(error).__name__}: {error}", ""]
            print(f"| {name} | {made} | {' | '.join(happened)} |".replace(folder, ""), flush=True)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.team")
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("store")
    commands.add_parser("full").add_argument("--runs", type=int, default=1000)
    commands.add_parser("faults").add_argument("names", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    with servers() as team:
        match arguments.what:
            case "store":
                store(team)
            case "full":
                full(team, arguments.runs)
            case "faults":
                faults(team, arguments.names)


if __name__ == "__main__":
    main()

"""What happens when things go wrong: each fault is made for real, and the pipeline told to go on.

    python -m benchmarks.faults [NAME ...]        # all of them, or those named; --list says which there are

Each works in a copy of the project with a store and a cache of its own, and runs the smoke experiment by the command
line. A fault is survived when a run afterwards ends with the figures of a run that nothing happened to. Prints the rows
of the table in docs/reliability.md. The faults of the disk mount a tmpfs, which takes root.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.paths import PROJECT

OVERRIDES = ["data.rows=240", "baselines.models=[constant,tfidf_ridge]", "evaluate.api=[]", "evaluate.resamples=200"]
OVERRIDES += ["finetune.checkpoints=3", "finetune.train_items=24", "finetune.score_items=8"]
STAGES = ("curate", "baselines", "finetune", "evaluate", "promote")
KILLS = 10  # of each stage
SPARED = ("model_id", "predict_ms", "fit_seconds", "size_mb")  # not the same in any two runs


class Copy:
    """A copy of the project that nothing else uses."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.mlruns = folder, folder / "mlruns"
        for name in ("flows", "tasks", "conf"):
            shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.mlruns.mkdir()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "PRICEWRIGHT_CACHE": str(folder / "cache"),
            "PREFECT_API_URL": server,
            "HF_HUB_OFFLINE": "1",
        }

    def start(self, command: str, *words: str, **environment: str) -> subprocess.Popen:
        """A command, its output in pipes, in a process group of its own."""
        words = (sys.executable, "-m", "flows.cli", command, "-c", "conf/smoke.yaml", *OVERRIDES, *words)
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str, *words: str, **environment: str) -> tuple[int, str]:
        """The exit status, and the last line of what was said: on standard error if it failed."""
        process = self.start(command, *words, **environment)
        output, errors = process.communicate()
        said = (output if process.returncode == 0 else errors).strip().splitlines()
        return process.returncode, said[-1] if said else ""

    def board(self) -> list[dict]:
        """The leaderboard, without what is not the same in any two runs."""
        process = self.start("leaderboard", "--json")
        output, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors)
        # Kept predictions are in 32 bits: a figure of theirs is the same to six digits.
        return [
            {
                key: f"{value:.6g}" if isinstance(value, float) else value
                for key, value in row.items()
                if key not in SPARED
            }
            for row in json.loads(output)
        ]

    def runs(self, stage: str | None = None) -> list[str]:
        """The ids of the finished stage runs."""
        query = "select r.run_uuid from runs r join tags t using (run_uuid) where r.status = 'FINISHED' and t.key = ?"
        with sqlite3.connect(self.mlruns / "mlflow.db") as database:
            rows = database.execute(
                query + (" and t.value = ?" if stage else ""), ("pricewright.stage", *filter(None, [stage]))
            )
            return [row[0] for row in rows]

    def file(self, pattern: str) -> Path:
        """The first file that fits."""
        return sorted(self.folder.rglob(pattern))[0]


def damage(file: Path) -> None:
    """Change a few bytes in the middle, and nothing about the size."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    for place in range(middle, min(middle + 8, len(content))):
        content[place] ^= 0xFF
    file.write_bytes(content)


@contextlib.contextmanager
def prefect_server(port: int, home: Path) -> Iterator[str]:
    """A Prefect server on loopback for as long as the block lasts."""
    words = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).close()
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def same(copy: Copy, good: list[dict]) -> str:
    return "the same figures" if copy.board() == good else "OTHER FIGURES"


def went_on(copy: Copy, good: list[dict], command: str = "run") -> str:
    """What the same command does once the fault is over."""
    status, said = copy.run(command)
    return f"the same command goes on: exit {status}, {same(copy, good) if status == 0 else said}"


def killed(copy: Copy, good: list[dict]) -> list[str]:
    """SIGKILL at random moments of every stage, each attempt going on from the last; a whole one begins it anew."""
    fresh, moments, told = copy.folder / "fresh", random.Random(1), []
    for stage in STAGES:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(copy.mlruns, fresh)
        start = time.monotonic()
        copy.run(stage)
        took, attempts, kills = time.monotonic() - start, 0, 0
        _put_back(fresh, copy.mlruns)
        while kills < KILLS and attempts < 3 * KILLS:
            attempts += 1
            process = copy.start(stage)
            try:
                # The first part of it is starting up, where there is nothing to break.
                process.communicate(timeout=took * moments.uniform(0.4, 1))
                _put_back(fresh, copy.mlruns)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
        status, said = copy.run(stage)
        told.append(f"{stage} {kills} kills, then exit {status}" + (f": {said}" if status else ""))
    return ["; ".join(told), f"the same command goes on; at the end {same(copy, good)}"]


def _put_back(fresh: Path, mlruns: Path) -> None:
    shutil.rmtree(mlruns)
    shutil.copytree(fresh, mlruns)


def disk_full(copy: Copy, good: list[dict]) -> list[str]:
    with tmpfs(copy.mlruns, "size=2m"):
        status, said = copy.run("run")
        remount(copy.mlruns, "size=500m")
        return [f"exit {status}: {said}", went_on(copy, good)]


def read_only(copy: Copy, good: list[dict]) -> list[str]:
    with tmpfs(copy.mlruns, "size=500m"):
        copy.run("curate")
        remount(copy.mlruns, "ro")
        status, said = copy.run("run")
        remount(copy.mlruns, "rw")
        return [f"exit {status}: {said}", went_on(copy, good)]


@contextlib.contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def locked(copy: Copy, good: list[dict]) -> list[str]:
    copy.run("curate")
    holder = sqlite3.connect(copy.mlruns / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    status, said = copy.run("baselines")
    holder.execute("ROLLBACK")
    return [f"exit {status}: {said}", went_on(copy, good)]


def deleted(copy: Copy, good: list[dict]) -> list[str]:
    copy.run("run")
    (copy.mlruns / "mlflow.db").unlink()
    status, said = copy.run("evaluate")
    return [f"`evaluate` exits {status}: {said}", f"`run` does all of it again; {went_on(copy, good)}"]


def other_version(copy: Copy, good: list[dict]) -> list[str]:
    copy.run("run")
    with sqlite3.connect(copy.mlruns / "mlflow.db") as database:
        (revision,) = database.execute("select version_num from alembic_version").fetchone()
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
    status, said = copy.run("run")
    with sqlite3.connect(copy.mlruns / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = ?", (revision,))
    return [f"exit {status}: {said}", f"with its own version again {went_on(copy, good)}"]


def prefect_back(copy: Copy, good: list[dict]) -> list[str]:
    return prefect_gone(copy, good, back=True)


def prefect_gone(copy: Copy, good: list[dict], *, back: bool = False) -> list[str]:
    port, home = free_port(), copy.folder / "prefect"
    with prefect_server(port, home) as server:
        process = copy.start("run", PREFECT_API_URL=server)
        while not list(copy.mlruns.glob("work/*/checkpoint-*")) and process.poll() is None:
            time.sleep(0.2)
    if back:
        time.sleep(5)
        with prefect_server(port, home):
            _, errors = process.communicate()
    else:
        _, errors = process.communicate()
    said = errors.strip().splitlines()[-1] if process.returncode else same(copy, good)
    return [f"exit {process.returncode}: {said}", went_on(copy, good)]


def damaged(pattern: str, stage: str, command: str) -> Callable[[Copy, list[dict]], list[str]]:
    """Bytes of a file changed; the stage that made it is done again."""

    def fault(copy: Copy, good: list[dict]) -> list[str]:
        copy.run("run")
        before = {name: len(copy.runs(name)) for name in STAGES[:4]}
        damage(copy.file(pattern))
        status, said = copy.run(command)
        alone = f"`{command}` exits {status}" + (f": {said}" if status else "")
        after = went_on(copy, good)
        again = [name for name in STAGES[:4] if len(copy.runs(name)) > before[name]]
        verdict = "" if stage in again else "NOT FOUND; "
        return [f"{verdict}{alone}", f"{after}; done again: {', '.join(again) or 'nothing'}"]

    return fault


def damaged_cache(copy: Copy, good: list[dict]) -> list[str]:
    copy.run("run")
    file = copy.file("cache/tiny-random-*/model.safetensors")
    whole = file.read_bytes()
    damage(file)
    status, _ = copy.run("finetune", "--again")
    made = "the model is made again" if file.read_bytes() == whole else "THE DAMAGE STAYS"
    return [f"exit {status}: {made}", went_on(copy, good)]


def two_at_once(copy: Copy, good: list[dict]) -> list[str]:
    processes = [copy.start("run") for _ in range(2)]
    for process in processes:
        process.communicate()
    statuses = [process.returncode for process in processes]
    return [f"exits {statuses}; {len(copy.runs())} stage runs for {len(STAGES) - 1} stages", same(copy, good)]


def clock_moved(copy: Copy, good: list[dict]) -> list[str]:
    if shutil.which("faketime") is None:
        return ["not obtained: libfaketime is not installed", ""]
    library = next(Path("/usr/lib").rglob("libfaketime.so.1"))
    ahead = {"LD_PRELOAD": str(library), "FAKETIME": "+400d"}
    first, _ = copy.run("curate", **ahead)
    second, _ = copy.run("run", "--again")
    latest = "the later result counts" if same(copy, good).startswith("the") else "OTHER FIGURES"
    return [f"exits {first} and {second}: {latest}", went_on(copy, good)]


def upstream_raises(copy: Copy, good: list[dict]) -> list[str]:
    (copy.folder / "sitecustomize.py").write_text(
        "import sklearn.linear_model as linear, trl\n"
        "def breaks(*_, **__): raise RuntimeError('upstream fell over')\n"
        "linear.Ridge.fit = trl.SFTTrainer.train = breaks\n"
    )
    baselines, _ = copy.run("curate"), copy.run("baselines")
    status, said = copy.run("finetune")
    (copy.folder / "sitecustomize.py").unlink()
    copy.run("baselines", "--again")
    return [f"`baselines` exits {baselines[0]}, `finetune` {status}: {said}", went_on(copy, good)]


FAULTS: dict[str, tuple[str, Callable[[Copy, list[dict]], list[str]]]] = {
    "kill": (f"SIGKILL at {KILLS} random moments of every stage", killed),
    "disk-full": ("tmpfs of 2 MB over mlruns, made larger afterwards", disk_full),
    "read-only": ("mlruns remounted read-only after `curate`", read_only),
    "locked": ("another process holds BEGIN EXCLUSIVE on mlflow.db", locked),
    "deleted": ("mlflow.db deleted after a run", deleted),
    "other-version": ("alembic revision of mlflow.db unknown", other_version),
    "prefect-back": ("Prefect's server killed in the middle of fine-tuning, back after 5 s", prefect_back),
    "prefect-gone": ("Prefect's server killed in the middle of fine-tuning, for good", prefect_gone),
    "parquet": ("eight bytes of test.parquet changed", damaged("mlruns/**/test.parquet", "curate", "baselines")),
    "adapter": ("eight bytes of an adapter changed", damaged("mlruns/**/adapter*.safetensors", "finetune", "evaluate")),
    "model-cache": ("eight bytes of the cached base model changed", damaged_cache),
    "two-at-once": ("`run` twice at the same time in one checkout", two_at_once),
    "clock": ("`curate` with a clock 400 days ahead, then `run --again` with the right one", clock_moved),
    "upstream": ("Ridge.fit and SFTTrainer.train raise", upstream_raises),
}  # fmt: skip


def main(names: list[str]) -> None:
    """Print the table."""
    if names == ["--list"]:
        print("\n".join(FAULTS))
        return
    print("| fault | how it was made | what happened | how to go on |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder, prefect_server(free_port(), Path(folder) / "home") as server:
        good = Copy(Path(folder) / "good", server)
        status, said = good.run("run")
        if status:
            sys.exit(f"the run that nothing happens to fails: {said}")
        board = good.board()
        for name in names or FAULTS:
            made, fault = FAULTS[name]
            copy = Copy(Path(folder) / name, server)
            try:
                happened = fault(copy, board)
            except Exception as error:  # one that cannot be made here must not take the others along
                happened = [f"not obtained: {type(error).__name__}: {error}", ""]
            print(f"| {name} | {made} | {' | '.join(happened)} |".replace(folder, ""), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

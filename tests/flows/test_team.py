"""A team's stack, for real: PostgreSQL, an S3-compatible store, an MLflow and a Prefect server; two checkouts on it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, get_task_stream
from prefect.client.schemas.objects import FlowRun

from flows.team import BUCKET, GRPC, PORTS, Team, postgres_binaries, weed_binary
from tasks.config.experiment import Experiment
from tasks.config.loading import load
from tasks.data.catalogue import generate
from tasks.digests import COMPLETE
from tasks.errors import UserError
from tasks.paths import PROJECT
from tasks.tracking.manifest import MANIFEST
from tasks.tracking.runs import LOCK, STAGE, StageRun
from tasks.tracking.store import connect, experiment_id, listing
from tasks.training.candidates import ADAPTER
from tasks.training.checkpoints import FOLDER
from tests.smoke import SMOKE, Finished, command
from tests.waiting import PATIENCE, STANDING_STILL, free_port, stop, until

pytestmark = pytest.mark.slow
CONF = ["-c", SMOKE, "-c", "conf/team.yaml"]
SPARED = ("model_id", "predict_ms", "fit_seconds", "size_mb")  # not the same in any two runs
# A training with a checkpoint every two of its eight steps, in an experiment of its own: the stages of the other test
# stay as they are.
MOVED = ["finetune.sft.num_train_epochs=2", "finetune.checkpoints=4", "finetune.sft.logging_steps=1"]
MOVED += ["tracking.experiment=moved"]
FIRST = 2
KEEPING = "tasks.training.checkpoints:keep_in_store"
# Whose environment says so cuts files into shards of some kilobytes, so that there are several.
SMALL_SHARDS = """
if os.environ.get("SMALL_SHARDS"):
    from tasks import curation
    from tasks.data.files import shards
    shards.SHARD_BYTES, curation.ALONE_BYTES, curation.SHARDS_A_TASK = 8_000, 0, 1
"""
STAGES = ["baselines", "curate", "evaluate", "finetune"]


def installed() -> str:
    """Why these tests cannot run here; empty if they can."""
    try:
        postgres_binaries(), weed_binary()
    except UserError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    if reason := installed():
        pytest.skip(reason)
    # Not in pytest's own folder, which the user that PostgreSQL runs as cannot reach.
    folder = Path(tempfile.mkdtemp(prefix="team-"))
    folder.chmod(0o755)
    try:
        with Team(folder, first_port()) as servers:
            yield servers
    finally:
        shutil.rmtree(folder)


def first_port() -> int:
    """The first of enough ports in a row that nobody listens on."""
    while True:
        first = free_port()
        if first + len(PORTS) + len(GRPC) > 65_535:
            continue
        probes = [socket.socket() for _ in range(len(PORTS) + len(GRPC))]
        try:
            for place, probe in enumerate(probes):
                probe.bind(("127.0.0.1", first + place))
            return first
        except OSError:  # one of them is taken
            continue
        finally:
            for probe in probes:
                probe.close()


class Checkout:
    """A copy of the project in a folder and with a user's cache of its own, as on another machine."""

    def __init__(self, folder: Path, team: Team) -> None:
        self.folder, self.team, self.started = folder, team, 0
        for name in ("flows", "tasks", "conf"):
            shutil.copytree(PROJECT / name, folder / name)  # with what is compiled of it
        shutil.copy(PROJECT / "prefect.yaml", folder)
        own = {"PYTHONPATH": str(folder), "PRICEWRIGHT_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        # Whose heartbeat is late on a busy machine is not dead; whose process is gone is, at once.
        late = f"from tasks.tracking import claims\nclaims.DEAD = {PATIENCE}\n"
        (folder / "sitecustomize.py").write_text(late + STANDING_STILL + SMALL_SHARDS, encoding="utf-8")
        # What it needs goes through the MLflow server: it has no key of the store.
        own |= {"PREFECT_API_URL": team.prefect, "PREFECT_WORKER_QUERY_SECONDS": "1"}
        self.environment = {**os.environ, **own}

    def start(self, command: str, *words: str, **environment: str) -> subprocess.Popen:
        return self.python("flows.cli", command, *CONF, f"tracking.uri={self.team.mlflow}", *words, **environment)

    def python(self, module: str, *words: str, **environment: str) -> subprocess.Popen:
        """A module of Python in this checkout."""
        self.started += 1
        return subprocess.Popen(
            [sys.executable, "-m", module, *words],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            start_new_session=True,
        )

    @property
    def log(self) -> Path:
        """Where the command that was started last says what it says on standard error."""
        return self.folder / f"errors-{self.started}.log"

    def said(self) -> str:
        """What the last command said on standard error."""
        return self.log.read_text()

    def output(self, process: subprocess.Popen) -> str:
        """The standard output of a command that ends well."""
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, self.said()[-3000:]
        return output

    def experiment(self, *words: str) -> Experiment:
        return load(f"{SMOKE},conf/team.yaml", [f"tracking.uri={self.team.mlflow}", *words])


def here(team: Team, name: str, *words: str) -> str:
    """What a command prints that is given in this process, as on a third machine: quicker than in a checkout."""
    status, output = command(name, *CONF, f"tracking.uri={team.mlflow}", *words)
    assert status == 0, output
    return output


@pytest.fixture(scope="module")
def checkouts(team: Team, tmp_path_factory: pytest.TempPathFactory) -> list[Checkout]:
    folder = tmp_path_factory.mktemp("checkouts")
    return [Checkout(folder / name, team) for name in ("one", "two")]


def stages(experiment: Experiment) -> list[str]:
    """The stage of every run there is."""
    runs = connect(experiment).search_runs([experiment_id(experiment)])
    assert not [run for run in runs if LOCK in run.data.tags]
    return sorted(run.data.tags[STAGE] for run in runs if STAGE in run.data.tags)


def figures(board: str) -> list[dict[str, Any]]:
    """The rows of a leaderboard to the cent, without what is not the same in any two runs."""
    rows = [{key: value for key, value in row.items() if key not in SPARED} for row in json.loads(board)]
    return [{key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()} for row in rows]


def test_two_checkouts_at_the_same_moment_do_each_stage_once(
    team: Team, checkouts: list[Checkout], finished: Finished
) -> None:
    """Both exit with 0, there is one leaderboard, and it is that of SQLite and files to the cent."""
    both = [checkout.start("run") for checkout in checkouts]
    outputs = [checkout.output(process) for checkout, process in zip(checkouts, both, strict=True)]
    assert all(output.splitlines()[-1].endswith(".html") for output in outputs)
    experiment = checkouts[0].experiment()
    assert stages(experiment) == STAGES
    client = connect(experiment)
    versions = client.search_model_versions("name = 'pricewright-sample'")
    assert len({version.tags["pricewright.model_id"] for version in versions}) == len(versions)
    assert figures(here(team, "leaderboard", "--json")) == figures(finished.command("leaderboard", "--json")[1])


def test_a_worker_in_each_checkout_does_what_the_page_asks_for(team: Team, checkouts: list[Checkout]) -> None:
    """Two runs of a deployment, asked for at the same moment: one in each, and each stage once."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    # With a champion of its own: that of the other tests stays as it is.
    words = ["tracking.experiment=page", "promote.name=page", "baselines.models=[constant,tfidf_ridge]"]
    workers = [checkout.start("deploy", *words) for checkout in checkouts]
    try:
        for checkout, worker in zip(checkouts, workers, strict=True):
            assert worker.stdout is not None
            assert any(line.startswith("Running scheduled runs") for line in worker.stdout), checkout.said()
        with temporary_settings({PREFECT_API_URL: team.prefect}), get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("pricewright/smoke-team")
            asked = [client.create_flow_run_from_deployment(deployment.id) for _ in checkouts]

            def ended() -> list[FlowRun] | None:
                runs = [client.read_flow_run(run.id) for run in asked]
                return runs if all(run.state is not None and run.state.is_final() for run in runs) else None

            one, other = until(ended, workers[0], checkouts[0].log)
        assert [run.state.name for run in (one, other)] == ["Completed"] * 2
        # Each worker does one at a time, so they were done by two.
        assert one.start_time < other.end_time and other.start_time < one.end_time
    finally:
        for worker in workers:
            stop(worker)
    assert stages(checkouts[0].experiment(*words)) == STAGES


def store_of(team: Team) -> Any:
    """A client of the store that has its keys."""
    import boto3

    return boto3.client("s3", endpoint_url=team.environment["AWS_ENDPOINT_URL"], region_name="us-east-1",
                        aws_access_key_id=team.environment["AWS_ACCESS_KEY_ID"],
                        aws_secret_access_key=team.environment["AWS_SECRET_ACCESS_KEY"])  # fmt: skip


def test_data_in_the_store_are_those_of_a_folder(
    team: Team, checkouts: list[Checkout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read where they lie, with a key from the environment: the same dataset. Without a key it is said."""
    store, rows = store_of(team), list(generate(300, seed=3))
    for part in (0, 1):
        file = tmp_path / f"products-{part}.jsonl"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows[part::2]), encoding="utf-8")
        store.upload_file(str(file), BUCKET, f"data/{file.name}")
    places = (str(tmp_path), f"s3://{BUCKET}/data")

    def words(at: str) -> list[str]:
        return ["data.source=files", f"data.path={at}/*.jsonl", "data.name=products", f"tracking.experiment={at[:2]}"]

    with monkeypatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
            patch.setenv(name, team.environment[name])
        found = [here(team, "curate", *words(at)) for at in places]
    assert len({Path(output.split()[-1]).name for output in found}) == 1
    # In a process of its own: a client of the store that has been made keeps its key.
    expired = {**team.environment, "AWS_SECRET_ACCESS_KEY": "expired"}
    refused = checkouts[0].start("curate", *words(places[1]), **expired)
    refused.communicate(timeout=PATIENCE)
    assert refused.returncode == 2 and places[1] in checkouts[0].said()


def test_dask_workers_of_several_machines_clean_what_lies_in_the_store(
    team: Team, checkouts: list[Checkout], tmp_path: Path
) -> None:
    """Both work, with no folder in common; the dataset is that of one machine, whether they read the store or are sent
    what only one can read."""
    lines = "".join(f"{json.dumps(row)}\n" for row in generate(400, seed=4)).encode()
    zipped, address = tmp_path / "products.jsonl.gz", f"tcp://127.0.0.1:{free_port()}"
    zipped.write_bytes(gzip.compress(lines))
    store_of(team).put_object(Bucket=BUCKET, Key="dask/products.jsonl", Body=lines)

    def words(at: str, name: str) -> list[str]:
        return ["data.source=files", "data.name=products", f"data.path={at}", f"tracking.experiment={name}"]

    alone = Path(here(team, "curate", *words(str(zipped), "alone-zipped")).split()[-1]).name
    servers = [checkouts[0].python("dask", "scheduler", "--host", address, "--no-dashboard")]
    try:
        for checkout in checkouts:
            own = {**team.environment, "TMPDIR": str(checkout.folder)}
            options = ("--nthreads", "1", "--no-nanny", "--no-dashboard")
            servers.append(checkout.python("dask", "worker", address, *options, **own))
        with Client(address, timeout=PATIENCE) as client:
            client.wait_for_workers(len(checkouts), timeout=PATIENCE)
            for name, at in {"read": f"s3://{BUCKET}/dask/products.jsonl", "sent": str(zipped)}.items():
                with get_task_stream(client) as stream:
                    asked = {**team.environment, "SMALL_SHARDS": "1"}
                    asks = checkouts[0].start("curate", *words(at, name), f"data.runner={address}", **asked)
                    assert Path(checkouts[0].output(asks).split()[-1]).name == alone
                assert len({task["worker"] for task in stream.data}) == len(checkouts)
    finally:
        for server in reversed(servers):
            stop(server)


def adapters(experiment: Experiment, run_id: str) -> dict[int, str]:
    """The sha256 of the adapter of every checkpoint of a finished training, by its step."""
    client = connect(experiment)
    run = StageRun(client, client.get_run(run_id), "finetune", done=True)
    noted = run.read_json(MANIFEST)
    kept = {entry.step: noted[entry.model_id] for entry in run.candidates() if entry.step is not None}
    return {
        step: next(digest for name, digest in files.items() if name.endswith(ADAPTER)) for step, files in kept.items()
    }


def trainings(experiment: Experiment) -> dict[str, str]:
    """The status of every run of the stage, by its id."""
    runs = connect(experiment).search_runs([experiment_id(experiment)], f"tags.`{STAGE}` = 'finetune'")
    return {run.info.run_id: run.info.status for run in runs}


def test_a_training_goes_on_on_another_machine(team: Team, checkouts: list[Checkout]) -> None:
    """One is killed in the middle of fine-tuning. The other, which waited for it, takes its checkpoint from the store,
    trains what is left and ends with the adapters of a training that was left alone."""
    (lost, other), experiment = checkouts, checkouts[0].experiment(*MOVED)
    here(team, "curate", *MOVED)
    before = trainings(experiment)
    first = lost.start("finetune", *MOVED, STAND_STILL_AFTER=f"{KEEPING}@{lost.folder}")  # until it is killed
    (run_id,) = until(lambda: trainings(experiment).keys() - before.keys(), first, lost.log)
    second = other.start("finetune", *MOVED)
    until(lambda: "is already doing this" in other.said(), second, other.log)
    place = f"{connect(experiment).get_run(run_id).info.artifact_uri}/{FOLDER}"
    until(lambda: any(file.endswith(COMPLETE) for file in listing(place)), first, lost.log)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert trainings(experiment)[run_id] == "RUNNING"
    other.output(second)
    assert trainings(experiment) == {**before, run_id: "FINISHED"} and not listing(place)
    # No step before the checkpoint was trained twice; its own loss is logged with it as well.
    steps = [point.step for point in connect(experiment).get_metric_history(run_id, "train_loss")]
    assert min(step for step in steps if steps.count(step) > 1 or step == max(steps)) >= FIRST
    alone = [*MOVED, "tracking.experiment=alone"]
    here(team, "curate", *alone)
    here(team, "finetune", *alone)
    (reference,) = trainings(lost.experiment(*alone))
    assert adapters(lost.experiment(*alone), reference) == adapters(experiment, run_id)

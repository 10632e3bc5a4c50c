"""Unattended: a Prefect server and a worker on this machine; scheduled runs, single stages, interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import psutil
import pytest

from flows.cli.main import main
from flows.deployment import OURS, alive, deploy, go_on, reached, unfinished
from flows.schedule import find_runs, missed
from tasks.config.loading import anchored, load
from tasks.config.schedule import Schedule
from tasks.paths import PROJECT
from tasks.tracking.runs import STAGE
from tasks.tracking.store import connect, experiment_id
from tests.waiting import PATIENCE, STANDING_STILL, free_port, stop, until

SMOKE = "conf/smoke.yaml"
CRON = "0 2 * * *"  # once a day: the schedule of the conf makes no run while the tests go on
LONGER = ["finetune.sft.num_train_epochs=2"]


class Site:
    """A Prefect server, and a worker once it is wanted, for the smoke experiment with a store of its own."""

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder = folder
        self.overrides = [*overrides, "baselines.models=[constant,tfidf_ridge]", f"schedule.cron={CRON}"]
        self.port, self.training, self.curating = free_port(), folder / "training", folder / "curating"
        (folder / "sitecustomize.py").write_text(STANDING_STILL, encoding="utf-8")
        self.address = f"http://127.0.0.1:{self.port}/api"
        soon = {"SCHEDULER_LOOP_SECONDS": "1", "SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1"}
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(folder / "prefect"),
            "PYTHONPATH": f"{folder}{os.pathsep}{PROJECT}",
            "STAND_STILL_AFTER": f"tasks.training.checkpoints:finish_checkpoint@{self.training} "
            f"tasks.curation:deduplicate_and_split@{self.curating}",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",  # how soon a cancelled run is told
            **{f"PREFECT_SERVER_SERVICES_{name}": value for name, value in soon.items()},
        }
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self, name: str, *words: str) -> subprocess.Popen:
        log = (self.folder / f"{name}.log").open("a")
        process = subprocess.Popen(
            [sys.executable, "-m", *words], env=self.environment, cwd=PROJECT, stdout=log, stderr=log
        )
        self.processes[name] = process
        return process

    def start_worker(self) -> subprocess.Popen:
        """`pricewright deploy`, which registers everything again and works."""
        words = ["deploy", "-c", SMOKE, *self.overrides, "--prefect-port", str(self.port)]
        return self.start("worker", "flows.cli", *words)

    def stop(self) -> None:
        for process in reversed(self.processes.values()):  # the server last: the others take their leave of it
            stop(process)

    def run(self, deployment: str, *overrides: str) -> Any:
        """What the form of the dashboard does: a run of a deployment, now."""
        known = self.client.read_deployment_by_name(f"{deployment}/smoke")
        parameters = {**known.parameters, "overrides": [*self.overrides, *overrides]}
        return self.client.create_flow_run_from_deployment(known.id, parameters=parameters)

    def ended(self, run: Any) -> Any:
        """The state of a run, once it has ended."""
        return until(lambda: self._final(run), self.processes["worker"])

    def _final(self, run: Any) -> Any:
        state = self.client.read_flow_run(run.id).state
        return state if state.is_final() else None

    def stages(self, *overrides: str) -> list[tuple[str, str, str]]:
        """Stage, status and id of every run of a stage in MLflow."""
        experiment = load(SMOKE, [*self.overrides, *overrides])
        runs = connect(experiment).search_runs([experiment_id(experiment)])
        tagged = [run for run in runs if STAGE in run.data.tags]
        return sorted((run.data.tags[STAGE], run.info.status, run.info.run_id) for run in tagged)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, at: Callable) -> Iterator[Site]:
    from prefect.client.orchestration import get_client
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    folder = tmp_path_factory.mktemp("site")
    site = Site(folder, at(folder))
    server = site.start("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(site.port))
    try:
        until(lambda: reached(site.address), server, folder / "server.log")
        with temporary_settings({PREFECT_API_URL: site.address}), get_client(sync_client=True) as site.client:
            deploy(SMOKE, site.overrides, site.port, work=False)
            yield site
            # While the server is there: what they have left they would send when this process ends, again and again.
            APILogWorker.drain_all()
            EventsWorker.drain_all()
    finally:
        site.stop()


class Scheduled(NamedTuple):
    """The first two runs of a schedule that completed and those that were dropped, each by their time, and the runs of
    stages in MLflow when they had ended."""

    completed: list[Any]
    dropped: list[Any]
    stages: list[tuple[str, str, str]]


@pytest.fixture(scope="module")
def scheduled(site: Site) -> Scheduled:
    """An interval schedule, added as a person would in the dashboard, that the worker finds already late; once two of
    its runs have ended it is taken away again."""
    from prefect.client.schemas.schedules import IntervalSchedule

    deployment = site.client.read_deployment_by_name("pricewright/smoke")
    often = IntervalSchedule(interval=timedelta(seconds=2))
    (added,) = site.client.create_deployment_schedules(deployment.id, [(often, True)])

    def due(state: str) -> list[Any]:
        filters = {
            "deployment_id": {"any_": [str(deployment.id)]},
            "expected_start_time": {"before_": datetime.now(UTC).isoformat()},
            "state": {"type": {"any_": [state]}},
        }
        return sorted(find_runs(site.client, flow_runs=filters), key=lambda run: run.expected_start_time)

    until(lambda: len(due("SCHEDULED")) > 3)
    worker = site.start_worker()
    completed = until(lambda: len(runs := due("COMPLETED")) > 1 and runs, worker, site.folder / "worker.log")
    dropped = due("CANCELLED")
    # The worker has registered the deployments again: a schedule that is not the conf's stays, under a new id.
    (kept,) = [s for s in site.client.read_deployment_schedules(deployment.id) if s.schedule == often]
    assert kept.id != added.id
    site.client.delete_deployment_schedule(deployment.id, kept.id)
    until(lambda: not find_runs(site.client, flow_runs={"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}))
    return Scheduled(completed[:2], dropped, site.stages())


def test_the_conf_says_when_and_prefect_yaml_says_what(site: Site) -> None:
    """The pipeline has the conf's cron, stages have none, and every parameter of a form is explained."""
    names = {"pricewright": "again", "curate": "again", "baselines": "again", "finetune": "again"}
    for name, last in {**names, "evaluate": "again", "promote": "dry_run"}.items():
        deployment = site.client.read_deployment_by_name(f"{name}/smoke")
        fields = deployment.parameter_openapi_schema["properties"]
        assert list(fields) == ["conf", "overrides", last]
        assert all(field["description"] for field in fields.values()) and fields["overrides"]["type"] == "array"
        assert deployment.parameters["conf"] == SMOKE
        assert load(SMOKE, deployment.parameters["overrides"]) == load(SMOKE, site.overrides)
        assert deployment.work_queue_name == ("gpu" if name in ("pricewright", "finetune", "evaluate") else "default")
        assert deployment.description and "pricewright" in deployment.tags and ":" not in deployment.entrypoint
        ours = [schedule for schedule in deployment.schedules if schedule.slug == OURS]
        assert [schedule.schedule.cron for schedule in ours] == ([CRON] if name == "pricewright" else [])
    assert site.client.read_work_pool("pricewright").concurrency_limit is None


def test_a_deployment_that_ran_something_else_is_not_replaced_in_silence(
    site: Site, capsys: pytest.CaptureFixture
) -> None:
    """Both are named, as it may be another shop's; under a name of its own each stands beside the others."""
    words = ["deploy", "-c", SMOKE, "--no-worker", "--prefect-port", str(site.port), "--name"]
    for _ in range(2):
        assert main([*words, "shop"]) == 0
        assert "so far" not in capsys.readouterr().err
    assert main([*words, "shop", "data.rows=650"]) == 0
    said = capsys.readouterr().err
    assert f"called shop ran `pricewright run -c {SMOKE}` so far" in said and f"-c {SMOKE} data.rows=650`" in said
    overrides = {
        name: site.client.read_deployment_by_name(f"pricewright/{name}").parameters["overrides"]
        for name in ("smoke", "shop")
    }
    assert overrides == {"smoke": anchored(site.overrides), "shop": ["data.rows=650"]}
    assert main([*words, "a/b"]) == 2 and "'a/b'" in capsys.readouterr().err


def test_scheduled_runs_end_with_a_leaderboard_and_late_ones_do_not_pile_up(
    site: Site, scheduled: Scheduled, capsys: pytest.CaptureFixture
) -> None:
    """The first run does every stage; those that came due meanwhile are one run, which finds everything done."""
    first, second = scheduled.completed
    assert first.expected_start_time < min(run.expected_start_time for run in scheduled.dropped)
    assert first.end_time <= second.start_time
    assert len(scheduled.dropped) >= 3 and all("does its work" in run.state.message for run in scheduled.dropped)
    assert [stage[:2] for stage in scheduled.stages] == [
        (stage, "FINISHED") for stage in ("baselines", "curate", "evaluate", "finetune")
    ]
    assert main(["leaderboard", "--json", "-c", SMOKE, *site.overrides]) == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["finetuned"]["mae"] > 0 and rows["tfidf_ridge"]["status"] == "ran"
    assert sum(row["champion"] for row in rows.values()) == 1


@pytest.mark.usefixtures("scheduled")
def test_a_stage_alone_is_the_same_by_its_form_and_by_the_command_line(site: Site) -> None:
    """What a schedule did is not done again, neither by a deployment's form nor by a command; what changed is, once."""
    before = site.stages()
    assert site.ended(site.run("evaluate")).is_completed()
    assert main(["evaluate", "-c", SMOKE, *site.overrides]) == 0
    assert site.stages() == before
    assert site.ended(site.run("baselines", "baselines.models=[constant]")).is_completed()
    added = set(site.stages()) - set(before)
    assert [stage[:2] for stage in added] == [("baselines", "FINISHED")]
    assert main(["baselines", "-c", SMOKE, *site.overrides, "baselines.models=[constant]"]) == 0
    assert set(site.stages()) - set(before) == added


@pytest.mark.usefixtures("scheduled")
def test_a_cancelled_training_leaves_a_whole_checkpoint_that_the_next_run_goes_on_from(site: Site) -> None:
    """The process ends with its run, MLflow's run is KILLED, and the next flow run completes that same one."""
    from prefect.states import Cancelling

    from tasks.training.trainer import last_whole_checkpoint

    worker, before = site.processes["worker"], site.stages()
    site.training.touch()
    run = site.run("finetune", *LONGER)
    work = PROJECT / "mlruns" / "work"
    (started,) = until(lambda: [s for s in site.stages() if s not in before], worker)
    until(lambda: list((work / started[2]).glob("checkpoint-*/complete.json")), worker)
    site.client.set_flow_run_state(run.id, Cancelling())
    until(lambda: "finished and saved first" in (site.folder / "worker.log").read_text(), worker)
    site.training.unlink()
    # Its process says first that it was made to end, then the worker why.
    until(lambda: site.client.read_flow_run(run.id).state.is_cancelled(), worker)
    assert not alive(site.client.read_flow_run(run.id))
    assert [stage for stage in site.stages() if stage[2] == started[2]] == [("finetune", "KILLED", started[2])]
    assert last_whole_checkpoint(work / started[2]) is not None
    assert site.ended(site.run("finetune", *LONGER)).is_completed()
    assert ("finetune", "FINISHED", started[2]) in site.stages() and len(site.stages()) == len(before) + 1


@pytest.mark.usefixtures("scheduled")
def test_a_worker_that_is_stopped_leaves_its_run_to_the_next(site: Site, capsys: pytest.CaptureFixture) -> None:
    """Ctrl-C ends the run's process and schedules the run again; a second worker beside the first is refused."""
    assert main(["deploy", "-c", SMOKE, "--prefect-port", str(site.port)]) == 2
    assert "--no-worker" in capsys.readouterr().err
    site.curating.touch()
    run = site.run("curate", "data.rows=299", "promote.name=later")
    started = until(lambda: (r := site.client.read_flow_run(run.id)).state.is_running() and r, site.processes["worker"])
    site.processes["worker"].send_signal(signal.SIGINT)
    assert site.processes["worker"].wait(PATIENCE) == 0
    site.curating.unlink()
    assert not alive(started)
    assert site.client.read_flow_run(run.id).state.is_scheduled()
    assert site.start_worker() and site.ended(run).is_completed()


def test_runs_whose_machine_went_down_do_not_hold_their_place_for_good(site: Site) -> None:
    """A run that counts as running without a process goes on; one that ended so too often has crashed; one that was
    being cancelled is."""
    from prefect import flow
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelling, Scheduled, State

    @flow
    def lost() -> None: ...

    running, found = State(type=StateType.RUNNING), {}
    for case, attempts, last in (("goes on", 1, running), ("cancelled", 1, Cancelling()), ("crashed", 3, running)):
        found[case] = site.client.create_flow_run(lost)
        site.client.request("PATCH", f"/flow_runs/{found[case].id}/labels", json={"prefect.worker.name": "gone"})
        for state in [running, Scheduled()] * (attempts - 1) + [running, last]:
            site.client.set_flow_run_state(found[case].id, state, force=True)
    stuck = unfinished(site.client, "gone")
    assert {run.id for run in stuck} == {run.id for run in found.values()} and not any(map(alive, stuck))
    go_on(site.client, stuck)
    states = {case: site.client.read_flow_run(run.id).state.type.value for case, run in found.items()}
    assert states == {"goes on": "SCHEDULED", "cancelled": "CANCELLED", "crashed": "CRASHED"}


@pytest.mark.usefixtures("site")
def test_a_scheduled_run_is_skipped_where_the_conf_says_so(scheduled: Scheduled) -> None:
    """One whose time came while another was going, and no other; a run that somebody asked for never is."""
    first, second = scheduled.completed
    skip = Schedule(busy="skip")
    assert first.name in missed(skip, second) and "schedule.busy" in missed(skip, second)
    assert missed(Schedule(), second) is None
    assert missed(skip, first) is None
    assert missed(skip, second.model_copy(update={"auto_scheduled": False})) is None


def test_a_run_is_skipped_while_another_worker_s_run_goes_on(site: Site) -> None:
    """One that is active, or is being cancelled, counts as one that has ended since; one that ended before does not."""
    from prefect.states import Cancelled, Cancelling, Running

    deployment = site.client.read_deployment_by_name("curate/smoke")
    other = site.client.create_flow_run_from_deployment(deployment.id, state=Running())

    def came_due() -> str | None:
        now = {"id": uuid4(), "auto_scheduled": True, "expected_start_time": datetime.now(UTC)}
        return missed(Schedule(busy="skip"), other.model_copy(update=now))

    for state in (Running(), Cancelling()):
        site.client.set_flow_run_state(other.id, state, force=True)
        assert other.name in str(came_due())
    site.client.set_flow_run_state(other.id, Cancelled(), force=True)
    assert came_due() is None


def test_without_a_server_the_remedy_is_said(capsys: pytest.CaptureFixture) -> None:
    """Exit status 2, and which command starts one; a cron that is none is refused before anything is asked."""
    port = str(free_port())
    assert main(["deploy", "-c", SMOKE, "--prefect-port", port]) == 2
    assert "pricewright ui" in capsys.readouterr().err
    assert main(["deploy", "-c", SMOKE, "--prefect-port", port, "schedule.cron=0 25 * * *"]) == 2
    assert "The hour cannot be '25'" in capsys.readouterr().err


def test_a_worker_whose_server_is_gone_can_be_stopped(tmp_path: Path, at: Callable) -> None:
    """It ends its run as always, although no server can name it: where a machine is shut down, both get the signal."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    site = Site(tmp_path, at(tmp_path))
    site.environment["PREFECT_CLIENT_MAX_RETRIES"] = "1"
    server = site.start("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(site.port))
    try:
        until(lambda: reached(site.address), server, tmp_path / "server.log")
        site.curating.touch()
        worker, log = site.start_worker(), tmp_path / "worker.log"
        until(lambda: "Running scheduled" in log.read_text(), worker, log)
        with temporary_settings({PREFECT_API_URL: site.address}), get_client(sync_client=True) as site.client:
            run = site.run("curate")
            until(site.stages, worker, log)
            process = psutil.Process(int(site.client.read_flow_run(run.id).infrastructure_pid))
        stop(server)
        assert stop(worker) == 0
        assert not process.is_running() and [stage[:2] for stage in site.stages()] == [("curate", "KILLED")]
    finally:
        site.stop()


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGKILL", -9)])
def test_a_command_and_its_temporary_server_end_together(
    tmp_path: Path, at: Callable, number: str, status: int
) -> None:
    """Ctrl-C in a terminal and `timeout` signal the whole group: the server must not go first, as Prefect would wait
    for it. Nothing is left running, not even after SIGKILL."""
    site, log = Site(tmp_path, at(tmp_path)), tmp_path / "command.log"
    site.curating.touch()
    site.environment.pop("PREFECT_API_URL", None)
    # Of data of its own: others who curate the same would wait for it.
    command = [sys.executable, "-m", "flows.cli", "curate", "-c", SMOKE, *site.overrides, "data.rows=298"]
    options: Any = {"env": site.environment, "cwd": PROJECT, "start_new_session": True}
    # What was started in the background of a script ignores Ctrl-C, and so would what it starts.
    options["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with log.open("w") as output, subprocess.Popen(command, stderr=output, **options) as process:

        def server_and_watch() -> list[psutil.Process]:
            children = psutil.process_iter(["ppid", "cmdline"])
            lines = {child: child.info["cmdline"] or [] for child in children if child.info["ppid"] == process.pid}
            found = [child for child, line in lines.items() if "uvicorn" in line or line[:2] == ["sh", "-c"]]
            return found if len(found) == 2 else []

        both = until(server_and_watch, process)
        until(lambda: "It stands still" in log.read_text(), process, log)
        os.killpg(process.pid, getattr(signal, number))
        assert process.wait(PATIENCE) == status
    assert ("Interrupted" in log.read_text()) == (number == "SIGINT")
    _, left = psutil.wait_procs(both, timeout=PATIENCE)
    assert not left

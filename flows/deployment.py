"""Deployments: the flows registered at a Prefect server for one conf, and the worker that runs them here."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml

from flows.addresses import address_of, reached
from flows.schedule import find_runs
from tasks.config.loading import anchored, command_of, conf_files, load
from tasks.config.schedule import Schedule
from tasks.digests import digest
from tasks.errors import UserError
from tasks.locks import LockedError, locked
from tasks.paths import PROJECT
from tasks.progress import say
from tasks.tracking.store import LOCKS

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

OURS = "conf"  # the slug of the schedule that comes from the conf; a person added the others, and they stay
GRACE = 30  # seconds that a run gets to write its checkpoint, the same as when it is cancelled
# Each worker runs the code of its own checkout, in its own folder, whose name it puts into its environment.
PLACE = "PRICEWRIGHT_PROJECT"
HERE = {"prefect.deployments.steps.set_working_directory": {"directory": f"{{{{ ${PLACE} }}}}"}}
ATTEMPTS = 3  # a run whose process ended so often without a result is not started again


def deploy(
    conf: str,
    overrides: list[str],
    port: int | None,
    *,
    work: bool,
    queues: list[str] | None = None,
    name: str | None = None,
) -> None:
    """Register every deployment of prefect.yaml for a conf, called as its file or as `name`, and, if wanted, run what
    comes due until Ctrl-C.

    Raises:
        UserError: the conf is no experiment, its name is none for Prefect, no server is reached, or a worker of this
            project is running already.
    """
    from prefect.client.orchestration import get_client

    experiment = load(conf, overrides)
    name = name or "-".join(file.stem for file in conf_files(conf))
    if not re.fullmatch(r"[^/%&<>]+", name):
        raise UserError(f"Prefect takes no deployment called {name!r}. Give it a --name without / % & < and >.")
    with server(port) as address, get_client(sync_client=True) as client:
        pool, names = register(client, name, conf, overrides, experiment.schedule)
        print("\n".join(names), flush=True)
        print(f"Prefect: {address.removesuffix('/api')}/deployments", flush=True)
        if work:
            run_worker(client, pool, address, queues)


@contextmanager
def server(port: int | None) -> Generator[str]:
    """The address of Prefect's API, which everything inside talks to: that of `pricewright ui`, or PREFECT_API_URL.

    Raises:
        UserError: nobody answers there.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    address = address_of(port)
    if not reached(address):
        raise UserError(
            f"No Prefect server answers at {address}. Start one with `pricewright ui` in another terminal, or set "
            "PREFECT_API_URL to the API of yours."
        )
    with temporary_settings({PREFECT_API_URL: address}):
        yield address


def register(
    client: SyncPrefectClient, name: str, conf: str, overrides: list[str], schedule: Schedule
) -> tuple[str, list[str]]:
    """Create or update the deployments of prefect.yaml; returns the work pool, and a line for each deployment. If those
    of this name run something else so far, that is said.

    Where two workers start at the same moment, what one of them was about to make may be there by then: it looks again.
    """
    from prefect.exceptions import ObjectAlreadyExists

    for wait in (0.5, 1, 2):
        with suppress(ObjectAlreadyExists):
            return _register(client, name, conf, overrides, schedule)
        time.sleep(wait)
    return _register(client, name, conf, overrides, schedule)


def _register(
    client: SyncPrefectClient, name: str, conf: str, overrides: list[str], schedule: Schedule
) -> tuple[str, list[str]]:
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    from flows.pipeline import pipeline

    files = conf_files(conf)
    # Of a file of the project each worker takes its own copy, wherever that lies.
    places = [file.relative_to(PROJECT) if file.is_relative_to(PROJECT) else file for file in files]
    parameters = {"conf": ",".join(map(str, places)), "overrides": anchored(overrides)}
    lines = []
    deployments = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    pool = deployments[0]["work_pool"]["name"]  # they share one, and a worker takes one run at a time
    ensure_pool(client, pool)
    for deployment in deployments:
        flow = load_flow_from_entrypoint(deployment["entrypoint"])
        known = deployed(client, f"{flow.name}/{name}")
        schedules = schedules_of(known, schedule if flow is pipeline else Schedule())
        if flow is pipeline and known:
            say_what_is_replaced(name, known.parameters, parameters)
        client.create_deployment(
            flow_id=client.create_flow_from_name(flow.name),
            name=name,
            entrypoint=deployment["entrypoint"],
            description=deployment["description"],
            tags=deployment["tags"],
            parameters=parameters,
            parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
            enforce_parameter_schema=True,
            work_pool_name=pool,
            work_queue_name=deployment["work_pool"]["work_queue_name"],
            pull_steps=[HERE],
            schedules=schedules,
        )
        lines.append(f"{flow.name}/{name}".ljust(24) + ", ".join(map(described, schedules)))
    return pool, lines


def deployed(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """The deployment of this name, if there is one."""
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def say_what_is_replaced(name: str, *parameters: dict[str, Any]) -> None:
    """Say so where deployments of this name have run something else: it may be what somebody else relies on."""
    before, now = (command_of(one.get("conf", ""), one.get("overrides")) for one in parameters)
    if before != now:
        say(f"The deployments called {name} ran `{before}` so far. From now on they run `{now}`.")
        say("To have both, deploy one of them with a --name of its own.")


def schedules_of(deployment: DeploymentResponse | None, schedule: Schedule) -> list[DeploymentScheduleCreate]:
    """The schedules that a deployment should have: that of the conf, and those that a person added in the dashboard."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    known = deployment.schedules if deployment else []
    kept = {"schedule", "active", "parameters", "slug"}
    schedules = [DeploymentScheduleCreate(**old.model_dump(include=kept)) for old in known if old.slug != OURS]
    if schedule.cron:
        cron = CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
        active = all(old.active for old in known if old.slug == OURS)  # who paused it in the dashboard meant it
        schedules.append(DeploymentScheduleCreate(schedule=cron, active=active, slug=OURS))
    return schedules


def described(schedule: DeploymentScheduleCreate) -> str:
    """A schedule in a few words."""
    when = getattr(schedule.schedule, "cron", None) or "by a schedule added in the dashboard"
    timezone = getattr(schedule.schedule, "timezone", None) or "UTC"
    return f"{when} ({timezone})" + ("" if schedule.active else ", paused in the dashboard")


def ensure_pool(client: SyncPrefectClient, name: str) -> None:
    """Make the work pool if it is not there. It has no limit: each worker carries out one run at a time."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    try:
        pool = WorkPoolCreate(name=name, type="process", base_job_template=template)
        client.create_work_pool(pool)
    except ObjectAlreadyExists:
        pass


def run_worker(client: SyncPrefectClient, pool: str, address: str, queues: list[str] | None = None) -> None:
    """Run what comes due, in these work queues or in all of them, one run at a time until Ctrl-C or SIGTERM; a run that
    this interrupts goes on with the next worker.

    Raises:
        UserError: another worker of this project is running for this server.
    """
    try:
        with locked(LOCKS / f"worker-{digest([address, pool])}.lock", wait=False):
            os.environ[PLACE] = str(PROJECT)
            os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
            # Two checkouts of one machine may have folders of the same name.
            name = f"{platform.node()}-{PROJECT.name}-{digest(str(PROJECT))[:6]}".replace("/", "-").replace("%", "-")
            go_on(client, [run for run in unfinished(client, name) if not alive(run)])
            go_on(client, asyncio.run(_work(address, pool, name, queues)))
    except LockedError:
        raise UserError(
            "A worker of this project is already running, and runs these deployments too. To only register them, use "
            "`--no-worker`."
        ) from None


async def _work(address: str, pool: str, name: str, queues: list[str] | None) -> list[FlowRun]:
    """Work until a signal; returns the runs that it interrupted, as far as the server could name them."""
    from prefect.workers.process import ProcessWorker

    loop, this, interrupted = asyncio.get_running_loop(), asyncio.current_task(), []
    assert this is not None

    async def end() -> None:
        # Prefect's worker would kill what it runs (PrefectHQ/prefect#16746), before a checkpoint could be written.
        runs = going(address, name)
        interrupted.extend(runs or [])
        processes = children() if runs is None else [int(str(run.infrastructure_pid)) for run in runs]
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGTERM)
        until = time.monotonic() + GRACE
        while any(map(is_run, processes)) and time.monotonic() < until:
            await asyncio.sleep(0.2)

    def stop() -> None:
        loop.create_task(end()).add_done_callback(lambda _: this.cancel())  # also where `end` fails

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    print(
        "Running scheduled runs, one at a time. An interrupted run continues when the worker starts again.", flush=True
    )
    with suppress(asyncio.CancelledError):
        worker = ProcessWorker(pool, queues, name, create_pool_if_not_found=False, limit=1)
        await worker.start(printer=lambda _: None)
    return interrupted


def going(address: str, worker: str) -> list[FlowRun] | None:
    """The runs of a worker that have a process; None where the server is gone, which may stop together with us."""
    import httpx
    from prefect.client.orchestration import get_client

    if not reached(address):
        return None
    try:
        with get_client(sync_client=True) as client:  # one that has been answered before would try again for a minute
            return [run for run in unfinished(client, worker) if alive(run)]
    except httpx.HTTPError:
        return None


def children() -> list[int]:
    """The processes of the runs that this one started: each leads a group of its own."""
    return [child.pid for child in psutil.Process().children() if os.getpgid(child.pid) == child.pid]


def unfinished(client: SyncPrefectClient, worker: str) -> list[FlowRun]:
    """The runs that a worker took and that have not ended, as far as the server knows."""
    going = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
    return [run for run in find_runs(client, flow_runs=going) if run.labels.get("prefect.worker.name") == worker]


def alive(run: FlowRun) -> bool:
    """Whether the process of a run is there."""
    return bool(run.infrastructure_pid) and is_run(int(run.infrastructure_pid))


def is_run(process: int) -> bool:
    """Whether this is the process of a run: the number may be another program's by now."""
    command = Path(f"/proc/{process}/cmdline")
    try:
        if Path("/proc/self").exists():
            return b"prefect" in command.read_bytes()
        os.kill(process, 0)
    except OSError:
        return False
    return True


def go_on(client: SyncPrefectClient, runs: list[FlowRun]) -> None:
    """Schedule runs again whose process ended too early: finished stages are skipped, and a training goes on.

    Otherwise they would count as running forever, and hold the only place in the work pool.
    """
    from prefect.states import Cancelled, Crashed, Scheduled

    for run in runs:
        if run.state is not None and run.state.is_cancelling():
            state = Cancelled(message="It was cancelled, and its process ended.")
        elif run.run_count >= ATTEMPTS:
            state = Crashed(message=f"Its process ended {run.run_count} times without a result.")
        else:
            state = Scheduled(message="Its worker was stopped; it goes on where it stopped.")
        client.set_flow_run_state(run.id, state, force=True)

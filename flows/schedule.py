"""Scheduled runs that are late or meet another run: only one of several runs, and the conf says whether it waits."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tasks.config.schedule import Schedule

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun


def drop_late(flow: Any, flow_run: FlowRun, state: Any) -> None:  # noqa: ARG001 - Prefect names the arguments
    """A hook for flows that start running: it cancels the other runs of the same schedule that are due by now.

    One run does the work of all of them. Prefect by itself runs each of them (PrefectHQ/prefect#15886).
    """
    if not flow_run.auto_scheduled:
        return
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    due = {
        "deployment_id": {"any_": [str(flow_run.deployment_id)]},
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "next_scheduled_start_time": {"before_": datetime.now(UTC).isoformat()},
    }
    reason = f"It was due before {flow_run.name!r} started, and that run does its work."
    with get_client(sync_client=True) as client:
        while late := [other for other in find_runs(client, flow_runs=due) if other.auto_scheduled]:
            for other in late:
                client.set_flow_run_state(other.id, Cancelled(message=reason), force=True)


def missed(schedule: Schedule, run: FlowRun | None = None) -> str | None:
    """Why this run should not start: with `busy: skip`, another run of its work pool was active when it was due."""
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    run = run or (context.flow_run if context else None)
    if schedule.busy == "wait" or run is None or not run.auto_scheduled or run.expected_start_time is None:
        return None
    time, pool = run.expected_start_time.isoformat(), {"name": {"any_": [run.work_pool_name]}}
    begun = {"start_time": {"before_": time}}
    ended_since = begun | {"end_time": {"after_": time}}
    not_ended = begun | {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}
    with get_client(sync_client=True) as client:
        active = [
            *find_runs(client, flow_runs=ended_since, work_pools=pool),
            *find_runs(client, flow_runs=not_ended, work_pools=pool),
        ]
    names = [other.name for other in active if other.id != run.id]
    return f"Skipped: {names[0]!r} was active when this run was due, and schedule.busy is skip." if names else None


def find_runs(client: SyncPrefectClient, **filters: Any) -> list[FlowRun]:
    """Flow runs by the filters of Prefect's API; at most 200."""
    from prefect.client.schemas.objects import FlowRun

    # The client's own `read_flow_runs` sends empty values that its server refuses.
    return [FlowRun.model_validate(run) for run in client.request("POST", "/flow_runs/filter", json=filters).json()]

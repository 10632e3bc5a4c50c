"""Who works on a run: a claim in MLflow, so that of several checkouts and machines on one store only one does a stage.

A claim is a param of the run. MLflow writes a param once and refuses another value by the primary key of its table, so
that of two processes that claim the same number at the same moment one is refused: it is a compare-and-set on any
database, behind a server too. Whoever has the highest number works on the run.

The owner renews a heartbeat. Clocks of machines differ, so that no time is read off it: an owner is dead when its
heartbeat did not change while somebody watched it for DEAD seconds, or when its process is gone from this machine. An
owner that could not renew for nearly as long asks whether the run is still its own before it writes.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

from tasks.errors import UserError
from tasks.progress import say

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

OWNER, HEARTBEAT = "pricewright.owner", "pricewright.heartbeat"  # who made the run, and how often the owner renewed
CLAIM = "pricewright.claim."  # and a number: a param, since those are never changed
NOBODY = "nobody"  # claims a run that nobody may ever work on, as another one was elected
LEFT = "pricewright.left"  # the number of the last claim whose owner has left the run in good order
BEAT = 20.0  # seconds between two heartbeats
DEAD = 180.0  # seconds without one after which a run counts as dead
MARGIN = 40.0  # seconds before that at which an owner that could not renew asks before it writes
POLL = 2.0  # seconds between two looks

_held: set[str] = set()  # the owners that this process is or is about to be


class Claim:
    """This process's claim to a run; inside `with` its heartbeat is renewed by a thread."""

    def __init__(self, client: MlflowClient, run_id: str, number: int, owner: str | None = None) -> None:
        self.client, self.run_id, self.number, self.owner = client, run_id, number, owner or _owner()
        self._left = threading.Event()
        self._renewed = _now()

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process only checks: who made the claim renews it."""
        return {name: value for name, value in vars(self).items() if name != "_left"}

    @classmethod
    def of_new_run(cls, client: MlflowClient, where: str, name: str, tags: Mapping[str, str]) -> Self:
        """A run of this process's own; it is not to be worked on before `is_elected` says so."""
        owner = _owner()
        run = client.create_run(where, run_name=name, tags={**tags, OWNER: owner})
        return cls(client, run.info.run_id, 1, owner)

    @classmethod
    def taken_over(cls, client: MlflowClient, run: Run) -> Self | None:
        """The claim to a run as `await_owner` saw it, when nobody worked on it; None if another process was quicker."""
        claim = cls(client, run.info.run_id, len(_claims(run)) + 1)
        if not claim.seize():
            return None
        client.set_tag(claim.run_id, HEARTBEAT, "0")
        client.update_run(claim.run_id, status="RUNNING")
        return claim

    def seize(self) -> bool:
        """Claim the run; False if somebody else had this number, or the run is deleted."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.log_param(self.run_id, f"{CLAIM}{self.number}", self.owner)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            return False
        return True

    def __enter__(self) -> Self:
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        _held.discard(self.owner)

    def holds(self) -> bool:
        """Whether the run is still this process's."""
        return owner_of(self.client.get_run(self.run_id)) == self.owner

    def check(self, *, at_once: bool = False) -> None:
        """Refuse to write to a run that another process has taken over; nobody is asked (unless `at_once`) while the
        heartbeat was renewed so lately that nobody can have.

        Raises:
            UserError: one has, since this process gave no sign of life for minutes.
        """
        if (at_once or _now() > self._renewed + DEAD - MARGIN) and not self.holds():
            raise UserError(
                f"Another process has taken over the run {self.run_id}, since this one gave no sign of life for "
                f"{DEAD:.0f} seconds. Start the same command again: it waits for that one."
            )

    def leave(self, status: str) -> None:
        """End the run before it is done, if it is still this process's: from now on anybody may take it over."""
        run = self.client.get_run(self.run_id)
        if owner_of(run) == self.owner:
            abandon(self.client, run, status)

    def _renew(self) -> None:
        count = 0
        while not self._left.wait(BEAT):
            with contextlib.suppress(Exception):  # a store that cannot be reached now may be reached the next time
                before = _now()
                if not self.holds():
                    say(f"Another process has taken over the run {self.run_id}: this one leaves.")
                    _thread.interrupt_main()
                    return
                count += 1
                self.client.set_tag(self.run_id, HEARTBEAT, str(count))
                self._renewed = before


def is_elected(client: MlflowClient, claim: Claim, rivals: Sequence[Run]) -> bool:
    """Whether a new run is the one to work on, of all that were made for the same at the same moment.

    Each process looks for rivals once its own run is there, so that of two at least one sees the other. A rival that is
    claimed works. Of those that are not yet the lowest id wins: it claims the others in nobody's name, which forbids
    them to begin. The run of who does not work is deleted.
    """
    for rival in rivals:
        while rival.info.status == "RUNNING" and rival.info.lifecycle_stage == "active" and owner_of(rival):
            if owner_of(rival) == NOBODY:  # another one forbade it, and has not deleted it yet
                break
            if _claims(rival) or rival.info.run_id < claim.run_id:
                _delete(client, claim.run_id)
                return False
            if Claim(client, rival.info.run_id, 1, NOBODY).seize():
                _delete(client, rival.info.run_id)
                break
            rival = client.get_run(rival.info.run_id)
    if not claim.seize():
        _delete(client, claim.run_id)
        return False
    client.set_tag(claim.run_id, HEARTBEAT, "0")
    return True


def _delete(client: MlflowClient, run_id: str) -> None:
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException):  # the other one was quicker
        client.delete_run(run_id)


def owner_of(run: Run) -> str | None:
    """Who works on a run: the last one that claimed it, or else who made it; None if nobody ever said so."""
    claims = _claims(run)
    return claims[max(claims)] if claims else run.data.tags.get(OWNER)


def _claims(run: Run) -> dict[int, str]:
    params = run.data.params.items()
    return {int(key.removeprefix(CLAIM)): owner for key, owner in params if key.startswith(CLAIM)}


def abandon(client: MlflowClient, run: Run, status: str) -> None:
    """Mark a run as one that nobody works on any more."""
    client.set_tag(run.info.run_id, LEFT, str(len(_claims(run))))
    client.set_terminated(run.info.run_id, status)


def await_owner(client: MlflowClient, run_id: str) -> Run | None:
    """Wait while somebody works on a run: the run as it can be taken over, or None if it is finished, deleted or
    forbidden.

    A run that has failed is somebody's again from the moment it is claimed, before its status says so.
    """
    seen, since, said = None, time.monotonic(), False
    while True:
        run = client.get_run(run_id)
        owner = owner_of(run)
        if run.info.status == "FINISHED" or run.info.lifecycle_stage != "active" or owner == NOBODY:
            return None
        left = run.info.status != "RUNNING" and int(run.data.tags.get(LEFT, 0)) >= len(_claims(run))
        if left or owner is None or _gone(owner):
            return run
        if (now := (owner, run.data.tags.get(HEARTBEAT))) != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() > since + DEAD:
            return run
        if not said:
            machine, process, _ = owner.split()
            say(
                f"Process {process} on {machine.partition('/')[0]} is already doing this, or was stopped. Waiting "
                f"until it ends, or sends no heartbeat for {DEAD:.0f} seconds."
            )
            said = True
        time.sleep(POLL)


def alive(client: MlflowClient, runs: Iterable[Run]) -> set[str]:
    """The ids of the runs that somebody works on, watched together: it takes a heartbeat, or DEAD seconds."""
    seen = {run.info.run_id: _pulse(run) for run in runs}
    found, until = set(), time.monotonic() + DEAD
    while (pending := {key: pulse for key, pulse in seen.items() if pulse and key not in found}) and (
        time.monotonic() < until
    ):
        found |= {key for key, pulse in pending.items() if _pulse(client.get_run(key)) not in (pulse, None)}
        time.sleep(POLL)
    return found


def _pulse(run: Run) -> tuple[str, str | None] | None:
    """What changes while somebody works on a run; None if nobody does."""
    owner = owner_of(run)
    if run.info.status != "RUNNING" or owner is None or _gone(owner):
        return None
    return owner, run.data.tags.get(HEARTBEAT)


def _now() -> float:
    """Seconds that also pass while a laptop is closed, where the system counts those."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _owner() -> str:
    owner = f"{_machine()} {os.getpid()} {uuid.uuid4().hex}"
    _held.add(owner)
    return owner


def _machine() -> str:
    """What tells one set of process ids from another: host and, in a container, its namespace."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = Path("/proc/self/ns/pid").readlink().name
    return f"{socket.gethostname()}/{namespace}".replace(" ", "-")


def _gone(owner: str) -> bool:
    """Whether the owner was a process of this machine and is no more."""
    if owner == NOBODY:
        return True
    machine, process, _ = owner.split()
    if machine != _machine():
        return False
    return owner not in _held if int(process) == os.getpid() else not psutil.pid_exists(int(process))

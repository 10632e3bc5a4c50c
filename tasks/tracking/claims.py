"""Who works on a run: a claim in MLflow, so that of several checkouts on one store only one does a stage.

The owner notes itself on the run and renews a heartbeat. Clocks of machines differ, so that no time is read off it: a
run is dead when its heartbeat did not change while somebody watched it for DEAD seconds, or when its process is gone
from this machine. MLflow has no way to change a tag only if it is as expected; what follows needs none.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from tasks.errors import UserError
from tasks.progress import say

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

OWNER, HEARTBEAT = "pricewright.owner", "pricewright.heartbeat"
BEAT = 20.0  # seconds between two heartbeats
DEAD = 180.0  # seconds without one after which a run counts as dead
POLL, SETTLE = 2.0, 1.0  # seconds between two looks; and from a claim to the look whether it was the last one

_held: set[str] = set()  # the owners that this process is or is about to be


class Claim:
    """This process's claim to a run; inside `with` its heartbeat is renewed by a thread."""

    def __init__(self, client: MlflowClient, run_id: str, owner: str) -> None:
        self.client, self.run_id, self.owner = client, run_id, owner
        self._left = threading.Event()

    @classmethod
    def of_new_run(cls, client: MlflowClient, where: str, name: str, tags: Mapping[str, str]) -> Self:
        """A run of this process's own; it is not to be worked on before `is_elected` says so."""
        owner = _owner()
        run = client.create_run(where, run_name=name, tags={**tags, OWNER: owner})
        return cls(client, run.info.run_id, owner)

    @classmethod
    def taken_over(cls, client: MlflowClient, run: Run) -> Self | None:
        """The claim to a run that nobody works on; None if another process was quicker."""
        run_id, owner = run.info.run_id, _owner()
        if client.get_run(run_id).data.tags.get(OWNER) != run.data.tags.get(OWNER):
            return None
        client.set_tag(run_id, OWNER, owner)
        client.set_tag(run_id, HEARTBEAT, "0")
        client.update_run(run_id, status="RUNNING")
        time.sleep(SETTLE)  # whoever saw it unowned as well has noted itself by then, and the last one has it
        claim = cls(client, run_id, owner)
        return claim if claim.holds() else None

    def __enter__(self) -> Self:
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        _held.discard(self.owner)

    def holds(self) -> bool:
        """Whether the run is still this process's."""
        return self.client.get_run(self.run_id).data.tags.get(OWNER) == self.owner

    def check(self) -> None:
        """Refuse to end a run that another process has taken over.

        Raises:
            UserError: one has, since this process gave no sign of life for minutes.
        """
        if not self.holds():
            raise UserError(
                f"Another process has taken over the run {self.run_id}, since this one gave no sign of life for "
                f"{DEAD:.0f} seconds. Start the same command again: it waits for that one."
            )

    def _renew(self) -> None:
        count = 0
        while not self._left.wait(BEAT):
            with contextlib.suppress(Exception):  # a store that cannot be reached now may be reached the next time
                if not self.holds():
                    say(f"Another process has taken over the run {self.run_id}: this one leaves.")
                    _thread.interrupt_main()
                    return
                count += 1
                self.client.set_tag(self.run_id, HEARTBEAT, str(count))


def is_elected(client: MlflowClient, claim: Claim, rivals: Sequence[Run]) -> bool:
    """Whether a new run is the one to work on, of all that were made for the same at the same moment.

    Each process looks for rivals once its own run is there, so that of two at least one sees the other. One that has a
    heartbeat has looked and found nobody; of those that have none yet the lowest id wins. The run of who does not is
    deleted.
    """
    deadline = time.monotonic() + DEAD
    for rival in rivals:
        while rival.info.status == "RUNNING" and rival.info.lifecycle_stage == "active" and OWNER in rival.data.tags:
            if HEARTBEAT in rival.data.tags or rival.info.run_id < claim.run_id:
                client.delete_run(claim.run_id)
                return False
            if _gone(rival.data.tags[OWNER]) or time.monotonic() > deadline:
                break
            time.sleep(0.1)  # it decides as soon as it has looked
            rival = client.get_run(rival.info.run_id)
    client.set_tag(claim.run_id, HEARTBEAT, "0")
    return True


def await_owner(client: MlflowClient, run_id: str) -> bool:
    """Wait while somebody works on a run: True if it is dead, so that it can be taken over, False if it has ended."""
    seen, since, said = None, time.monotonic(), False
    while True:
        run = client.get_run(run_id)
        owner = run.data.tags.get(OWNER)
        if run.info.status != "RUNNING" or run.info.lifecycle_stage != "active":
            return False
        if owner is None or _gone(owner):
            return True
        if (now := (owner, run.data.tags.get(HEARTBEAT))) != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() > since + DEAD:
            return True
        if not said:
            machine, process, _ = owner.split()
            say(
                f"Process {process} on {machine.partition('/')[0]} is doing this already, or was stopped: waiting for "
                f"it to end, or for {DEAD:.0f} seconds without a sign of life."
            )
            said = True
        time.sleep(POLL)


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
    machine, process, _ = owner.split()
    if machine != _machine():
        return False
    return owner not in _held if int(process) == os.getpid() else not psutil.pid_exists(int(process))

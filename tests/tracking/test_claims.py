"""Of several checkouts on one store, one does a stage; what is dead is taken over, whatever the clocks say."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.config.experiment import Experiment
from tasks.errors import UserError
from tasks.paths import PROJECT
from tasks.tracking import claims, stages
from tasks.tracking.claims import CLAIM, HEARTBEAT, NOBODY, OWNER, Claim, alive, await_owner, is_elected, owner_of
from tasks.tracking.runs import DIGEST, STAGE
from tasks.tracking.stages import alone, stage
from tasks.tracking.store import connect, experiment_id
from tests.waiting import PATIENCE

WORKER = """
import sys
from tasks.config.loading import load
from tasks.tracking import claims
from tasks.tracking.stages import stage
claims.BEAT, claims.DEAD, claims.POLL = 0.2, float(sys.argv[1]), 0.1
print("ready", flush=True)
sys.stdin.readline()
with stage(load("conf/smoke.yaml", sys.argv[2:]), "curate", "d1", command="", resume=True) as run:
    print("done" if run.done else "working", run.id, flush=True)
    sys.stdin.readline()
print("left", flush=True)
"""
ELSEWHERE = "another-machine/pid:[1] 1 0000"


@pytest.fixture
def overrides(tmp_path: Path, at: Callable) -> list[str]:
    return at(tmp_path / "store")


@pytest.fixture
def checkout(tmp_path: Path, overrides: list[str]) -> Callable[..., subprocess.Popen]:
    """Starts a process of a checkout of its own, with locks of its own, on the store that all of them share."""
    started = []

    def start(name: str, dead: float = PATIENCE) -> subprocess.Popen:
        folder = tmp_path / name
        if not folder.exists():
            folder.mkdir()
            for part in ("tasks", "conf"):
                shutil.copytree(PROJECT / part, folder / part)  # with what is compiled of it
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(dead), *overrides],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen) -> None:
    """Let it go on: into the stage, or out of it."""
    process.stdin.write("\n")
    process.stdin.flush()


def test_of_two_checkouts_one_works_and_the_other_waits(checkout: Callable) -> None:
    """Started at the same moment on one store, they do the stage once: the second finds it done by the first."""
    both = [checkout("one"), checkout("two")]
    for process in both:
        go(process)
    first = threading.Event()
    said: list[tuple[subprocess.Popen, str]] = []

    def listen(process: subprocess.Popen) -> None:
        said.append((process, process.stdout.readline()))
        first.set()

    listeners = [threading.Thread(target=listen, args=(process,), daemon=True) for process in both]
    for listener in listeners:
        listener.start()
    assert first.wait(PATIENCE)
    worker, line = said[0]
    other = next(process for process in both if process is not worker)
    assert "is already doing this" in other.stderr.readline() and len(said) == 1
    go(worker)
    assert worker.stdout.readline() == "left\n"
    for listener in listeners:
        listener.join(PATIENCE)
    assert line.startswith("working ") and said[1] == (other, line.replace("working", "done"))


def test_what_another_checkout_left_when_it_was_killed_is_taken_over(checkout: Callable) -> None:
    """At once, as its process is gone from this machine: the same run goes on."""
    killed, heir = checkout("one"), checkout("two")
    go(killed)
    line = killed.stdout.readline()
    killed.kill()
    killed.wait(PATIENCE)
    go(heir)
    assert heir.stdout.readline() == line


def test_a_process_that_stands_still_loses_its_run_and_leaves_when_it_wakes(checkout: Callable) -> None:
    """A laptop that was closed, say: after a while without a heartbeat another process has the run, and the first one
    neither works on it nor ends it."""
    import signal

    asleep, heir = checkout("one"), checkout("two", dead=2)
    go(asleep)
    line = asleep.stdout.readline()
    asleep.send_signal(signal.SIGSTOP)
    go(heir)
    assert heir.stdout.readline() == line
    asleep.send_signal(signal.SIGCONT)
    _, said = asleep.communicate(timeout=PATIENCE)
    assert asleep.returncode != 0 and "Another process has taken over the run" in said
    go(heir)
    assert heir.stdout.readline() == "left\n"


def test_a_heartbeat_is_watched_and_no_time_is_read(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of another machine is alive while its heartbeat changes, and dead once it does not for long enough."""
    client, where, now = connect(experiment), experiment_id(experiment), [0.0]
    tags = {STAGE: "curate", DIGEST: "d1", OWNER: ELSEWHERE, HEARTBEAT: "7"}
    run_id = client.create_run(where, tags=tags).info.run_id

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] < 3 * claims.DEAD:  # three times as long as it takes to count as dead
            client.set_tag(run_id, HEARTBEAT, str(now[0]))

    monkeypatch.setattr(claims, "POLL", claims.DEAD / 10)
    monkeypatch.setattr(claims, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    found = await_owner(client, run_id)
    assert found is not None and found.info.run_id == run_id and now[0] > 3.5 * claims.DEAD
    client.set_terminated(run_id, "FINISHED")
    assert await_owner(client, run_id) is None


@pytest.mark.parametrize("first", ["mine", "rival"])
def test_of_two_runs_that_nobody_has_claimed_the_lowest_id_is_elected(experiment: Experiment, first: str) -> None:
    """Whose id is higher deletes its own run, or finds that it is forbidden to begin, however late it comes."""
    client, where = connect(experiment), experiment_id(experiment)
    mine = Claim.of_new_run(client, where, "mine", {})
    while True:  # ids are random
        rival = Claim.of_new_run(client, where, "rival", {})
        if (mine.run_id < rival.run_id) == (first == "mine"):
            break
    rivals = [client.get_run(rival.run_id)]
    assert is_elected(client, mine, rivals) == (first == "mine")
    loser, winner = (rival, mine) if first == "mine" else (mine, rival)
    assert is_elected(client, rival, []) == (first == "rival")  # it had looked before the other was there
    assert client.get_run(loser.run_id).info.lifecycle_stage == "deleted"
    assert client.get_run(winner.run_id).data.params == {f"{CLAIM}1": winner.owner}


def test_a_run_that_is_claimed_is_elected_and_one_that_has_ended_is_no_rival(experiment: Experiment) -> None:
    """Who has claimed its run has looked before, found nobody and works, whatever the ids are."""
    client, where = connect(experiment), experiment_id(experiment)
    working = Claim.of_new_run(client, where, "works", {})
    assert is_elected(client, working, [])
    assert not is_elected(client, Claim.of_new_run(client, where, "again", {}), [client.get_run(working.run_id)])
    client.set_terminated(working.run_id, "FINISHED")
    ended = client.get_run(working.run_id)
    assert is_elected(client, Claim.of_new_run(client, where, "after", {}), [ended])


def test_of_many_that_take_a_run_over_at_the_same_moment_one_has_it(experiment: Experiment) -> None:
    """All saw the same dead owner; the database refuses all claims of one number but the first."""
    client, where = connect(experiment), experiment_id(experiment)
    run = client.get_run(client.create_run(where, tags={OWNER: ELSEWHERE}).info.run_id)
    start, found = threading.Barrier(8), []

    def take() -> None:
        start.wait()
        found.append(Claim.taken_over(client, run))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (claim,) = filter(None, found)
    assert len(found) == 8 and owner_of(client.get_run(run.info.run_id)) == claim.owner and claim.holds()


def test_a_failed_run_is_somebodys_again_before_its_status_says_so(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes between the claim and the status waits; whoever saw it before that is refused."""
    monkeypatch.setattr(claims, "POLL", 0.02)
    monkeypatch.setattr(claims, "DEAD", 0.5)
    client, where = connect(experiment), experiment_id(experiment)
    with pytest.raises(ZeroDivisionError), stage(experiment, "curate", "d1", command=""):
        1 / 0  # noqa: B018
    (run,) = client.search_runs([where])
    seen = await_owner(client, run.info.run_id)
    assert seen is not None and run.info.status == "FAILED"
    assert Claim(client, run.info.run_id, 2, ELSEWHERE).seize()  # of another machine, which may be alive
    assert Claim.taken_over(client, seen) is None
    start = time.monotonic()
    again = await_owner(client, run.info.run_id)
    assert again is not None and time.monotonic() - start >= claims.DEAD
    claim = Claim.taken_over(client, again)
    assert claim is not None and claim.number == 3


def test_what_is_forbidden_is_neither_taken_over_nor_a_rival(experiment: Experiment) -> None:
    """Whoever forbade it works on another run already, and may have been killed before it could delete this one."""
    client, where = connect(experiment), experiment_id(experiment)
    tags = {STAGE: "curate", DIGEST: "d1", OWNER: ELSEWHERE}
    run_id = client.create_run(where, tags=tags).info.run_id
    assert Claim(client, run_id, 1, NOBODY).seize() and await_owner(client, run_id) is None
    assert is_elected(client, Claim.of_new_run(client, where, "new", {}), [client.get_run(run_id)])
    with stage(experiment, "curate", "d1", command="", resume=True) as run:
        assert not run.done and run.id != run_id


def test_the_runs_that_somebody_works_on_are_watched_together(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose heartbeat changes is alive; one whose heartbeat does not, or whose process is gone, is not."""
    monkeypatch.setattr(claims, "POLL", 0.02)
    monkeypatch.setattr(claims, "DEAD", 1.0)
    client, where = connect(experiment), experiment_id(experiment)
    here = ELSEWHERE.replace("another-machine/pid:[1]", claims._machine()).replace(" 1 ", f" {2**22 + 1} ")
    owners = {"beats": ELSEWHERE, "silent": ELSEWHERE, "gone": here}
    runs = {name: client.create_run(where, tags={OWNER: owner, HEARTBEAT: "0"}) for name, owner in owners.items()}
    client.set_tag(runs["beats"].info.run_id, HEARTBEAT, "1")
    assert alive(client, runs.values()) == {runs["beats"].info.run_id}


def test_a_stage_that_was_taken_over_is_not_ended_by_who_had_it(experiment: Experiment) -> None:
    """Its run stays as the new owner has it, and the old one says so."""
    client = connect(experiment)
    with pytest.raises(UserError, match="has taken over"), stage(experiment, "curate", "d1", command="") as run:
        assert Claim(client, run.id, 2, ELSEWHERE).seize()
    assert client.get_run(run.id).info.status == "RUNNING"


def test_who_could_not_renew_for_long_asks_before_it_writes(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back from where no network was, it does not write over what another machine does by now."""
    client, now = connect(experiment), claims._now()
    with pytest.raises(UserError, match="has taken over"), stage(experiment, "curate", "d1", command="") as run:
        run.log_json({"a": 1}, "result.json")
        assert Claim(client, run.id, 2, ELSEWHERE).seize()
        monkeypatch.setattr(claims, "_now", lambda: now + claims.DEAD)
        with pytest.raises(UserError, match="has taken over"):
            run.log_json({"a": 2}, "result.json")
        assert run.read_json("result.json") == {"a": 1}
        monkeypatch.undo()


def test_one_at_a_time_does_what_is_to_be_done_alone(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several checkouts too, whose locks on disk are not the same; nothing of the lock stays."""
    monkeypatch.setattr(stages, "once", lambda _digest: contextlib.nullcontext())
    monkeypatch.setattr(claims, "POLL", 0.1)
    client, where, inside, most = connect(experiment), experiment_id(experiment), 0, []

    def work() -> None:
        nonlocal inside
        with alone(experiment, "d1"):
            inside += 1
            most.append(inside)
            time.sleep(0.2)  # in which others would come in; their own runs may be there, and are not elected
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1] and not client.search_runs([where])

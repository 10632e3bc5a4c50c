"""What is said of long work: one line for each piece of it, in a terminal and in a log."""

from __future__ import annotations

import io
import re
import sys

import pytest

from tasks import progress
from tasks.progress import Outlook, Progress, say


class Terminal(io.StringIO):
    """Standard error of somebody who looks at it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets, and nothing that renews a line but the test."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_renew", lambda *_: None)
    monkeypatch.setattr(progress, "outlook", Outlook())
    for others in ("watchers", "_open"):  # of what else was done in this process
        monkeypatch.setattr(Progress, others, [])
    return now


def test_a_log_has_a_line_at_the_start_at_the_end_and_every_five_minutes(
    clocked: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the work says how far it is, and however often somebody looks."""
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    with Progress("training", 1000, "steps") as work:
        for _ in range(1000):
            clocked[0] += 1
            work.advance()
            work.renew()
    lines = log.getvalue().splitlines()
    assert [re.search(r"[\d,]+ of", line)[0] for line in lines] == ["2 of", "302 of", "602 of", "902 of", "1,000 of"]
    assert lines[-1].endswith("in 16:40") and lines[1].endswith("11:38 left")


def test_work_that_is_done_at_once_says_nothing(clocked: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Within two seconds."""
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    with Progress("reading", 3) as work:
        clocked[0] += 1.5
        work.update(3)
        work.renew()
    assert log.getvalue() == ""


def test_a_terminal_has_one_line_that_is_written_over(clocked: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Never wider than the terminal; it ends when the work does, and a remark stands on a line of its own."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: progress.shutil.os.terminal_size((40, 20)))
    with Progress("training a model with a name that is long", 10, "steps") as work:
        for _ in range(3):
            clocked[0] += 3
            work.renew()
        say("a remark")
    said = terminal.getvalue()
    assert said.count("\n") == 2 and said.count(progress.CLEAR) == 5
    assert all(len(line.rstrip("\n")) < 40 for line in said.split(progress.CLEAR))


def test_of_pieces_within_each_other_the_innermost_has_the_line(
    clocked: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outer one has it again when that has ended."""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Progress("outer", 10) as outer:
        with Progress("inner", 10) as inner:
            clocked[0] += 5
            outer.renew()
            assert terminal.getvalue() == ""
            inner.renew()
        clocked[0] += 5
        outer.renew()
    assert re.findall("outer|inner", terminal.getvalue()) == ["inner", "inner", "outer", "outer"]


def test_the_rest_of_the_run_is_told_by_what_its_stages_took_the_last_time(clocked: list[float]) -> None:
    """A stage that is done takes nothing; where one was never timed, nobody knows."""
    outlook = Outlook()
    outlook.expect({"curate": 10.0, "baselines": 60.0, "finetune": 300.0, "evaluate": 100.0})
    outlook.skip("curate")
    with outlook.at("baselines"):
        clocked[0] += 20
        assert outlook.left(None) == (40, 440)
        assert outlook.left(90) == (90, 490)  # what it does now says that it takes longer than the last time
    outlook.expect({"finetune": 300.0, "evaluate": None})
    with outlook.at("finetune"):
        assert outlook.left(250) == (300, None)
    with outlook.at("evaluate"):
        assert outlook.left(70) == (70, None) and outlook.left(None) == (None, None)


def test_a_line_renews_itself_while_the_work_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is fitted for minutes does not look dead."""
    from tests.waiting import until

    monkeypatch.setattr(progress, "QUIET", 0.0)
    monkeypatch.setattr(progress, "RENEWED", 0.01)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Progress("fitting", 10):
        until(lambda: terminal.getvalue().count("fitting") > 2)

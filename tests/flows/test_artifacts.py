"""What Prefect's dashboard shows: the leaderboard, and the progress of what takes long."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import Any

import pytest

from tasks.progress import Progress
from tests.smoke import Finished


def prefect_artifact(key: str) -> dict[str, Any]:
    """The last artifact of a key, as Prefect's server has it."""
    from prefect.client.orchestration import get_client

    # The client's own `read_artifacts` sends empty values that its server refuses.
    query = {"artifacts": {"key": {"any_": [key]}}, "sort": "UPDATED_DESC", "limit": 1}
    with get_client(sync_client=True) as client:
        return client.request("POST", "/artifacts/filter", json=query).json()[0]


def test_prefect_shows_the_leaderboard(finished: Finished) -> None:
    """A table artifact, best first, with the conclusion as its description."""
    assert finished.command("promote")[0] == 0
    artifact = prefect_artifact("leaderboard")
    rows = json.loads(finished.command("leaderboard", "--json")[1])
    assert artifact["type"] == "table" and "off on average" in artifact["description"]
    assert len(json.loads(artifact["data"])) == len(rows)


def test_what_takes_long_has_a_progress_artifact(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a flow that is watched, a piece of work is shown with its share done, up to all of it."""
    monkeypatch.setattr(Progress, "watchers", [])  # those of this flow alone
    from prefect import flow

    from flows.artifacts import watch_progress

    @flow(on_running=[watch_progress])
    def long() -> None:
        progress = Progress("Long work: 2", total=4)
        for _ in range(4):
            progress.due = 0
            progress.advance()

    long()
    artifact = prefect_artifact("long-work-2")
    assert artifact["type"] == "progress" and artifact["data"] == 100


def test_a_dashboard_that_is_gone_is_not_asked_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is raised, and after one failure the work goes on without another try."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from flows import artifacts

    monkeypatch.setattr(artifacts, "EVERY", 0)
    monkeypatch.setattr(artifacts, "_silent_until", 0.0)
    monkeypatch.setattr(artifacts, "PATIENCE", 10_000)  # times what asking costs, in which it is not asked
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = []

        def refuse() -> None:
            with contextlib.suppress(OSError):  # until the socket is closed
                while True:
                    connection, _ = server.accept()
                    asked.append(connection)
                    time.sleep(0.01)  # what asking costs
                    connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        gone = {PREFECT_API_URL: f"http://127.0.0.1:{server.getsockname()[1]}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
        with temporary_settings(gone):
            progress = Progress("a thing", 10)
            for progress.done in range(10):
                artifacts.show_progress(progress)
        assert len(asked) == 1

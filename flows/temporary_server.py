"""Prefect's temporary server lives as long as the command that started it: Ctrl-C does not end it before that, and
nothing leaves it behind."""

from __future__ import annotations

import subprocess
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

from tasks.errors import check_writable


def end_server_with_process() -> None:
    """From now on, a small process watches this one, and ends its temporary server when this one is gone.

    Prefect ends the server when Python exits. A process that is killed (SIGKILL, out of memory) never gets there.

    Raises:
        UserError: the server could not make its database.
    """
    from prefect.server.api import server

    _check_home()

    class WatchedServer(server.SubprocessASGIServer):
        def _run_uvicorn_command(self) -> subprocess.Popen:
            # The watcher reads from a pipe into which nobody writes. It closes when this process ends, however it ends.
            quiet = subprocess.DEVNULL
            self.watcher = subprocess.Popen(
                ["sh", "-c", "read _; kill 0"], stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, process_group=0
            )
            # The server starts in the watcher's process group, for which Prefect has no setting. Signals of a terminal,
            # and of `timeout`, go to our whole group. Without a server, Prefect would wait at exit for one to take its
            # last events, for good.
            aside = SimpleNamespace(Popen=partial(subprocess.Popen, process_group=self.watcher.pid))
            with patch.object(server, "subprocess", aside):
                return super()._run_uvicorn_command()

    WatchedServer()  # Prefect keeps one server for each port, and starts this one, which is for any port


def _check_home() -> None:
    """Refuse a home of Prefect that cannot hold the server's database: Prefect would try for two minutes."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    database = settings.server.database.connection_url
    if settings.api.url is None and database and str(settings.home) in database.get_secret_value():
        check_writable(settings.home, "Set PREFECT_HOME to another folder.")

"""Prefect's temporary server ends with the command that started it, even if that is killed."""

from __future__ import annotations

import subprocess


def end_server_with_process() -> None:
    """From now on, a small process watches this one, and ends its temporary server when this one is gone.

    Prefect ends the server when Python exits. A process that is killed (SIGKILL, out of memory) never gets there.
    """
    from prefect.server.api.server import SubprocessASGIServer

    class WatchedServer(SubprocessASGIServer):
        def _run_uvicorn_command(self) -> subprocess.Popen:
            server = super()._run_uvicorn_command()
            # The watcher reads from a pipe into which nobody writes. It closes when this process ends, however it ends.
            command = ["sh", "-c", f"read _; kill {server.pid}"]
            quiet = subprocess.DEVNULL
            self.watcher = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
            )
            return server

    WatchedServer()  # Prefect keeps one server for each port, and starts this one, which is for any port

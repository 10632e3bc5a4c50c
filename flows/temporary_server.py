"""Prefect's temporary server ends with the command that started it, however that ends."""

from __future__ import annotations

import subprocess


def end_server_with_process() -> None:
    """From now on a temporary server has a watch beside it, which ends it when this process is gone.

    Prefect ends its server when Python exits, which a process that is killed (SIGKILL, out of memory) never does.
    """
    from prefect.server.api.server import SubprocessASGIServer

    class TiedServer(SubprocessASGIServer):
        def _run_uvicorn_command(self) -> subprocess.Popen:
            server = super()._run_uvicorn_command()
            # The watch reads from a pipe that nobody writes to, and that closes with this process.
            command = ["sh", "-c", f"read _; kill {server.pid}"]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self.watch = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **quiet)
            return server

    TiedServer()  # one instance for each port, and none for any port: this is the one that Prefect will start

"""Prefect's temporary server lives as long as the command that started it: Ctrl-C does not end it before that, and
nothing leaves it behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from tasks.errors import writing_to


def end_server_with_process() -> None:
    """From now on, a small process watches this one, and ends its temporary server when this one is gone.

    Prefect ends the server when Python exits. A process that is killed (SIGKILL, out of memory) never gets there.

    Raises:
        UserError: the server could not make its database.
    """
    import prefect
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import get_current_settings

    _check_home()

    class WatchedServer(SubprocessASGIServer):
        def _run_uvicorn_command(self) -> subprocess.Popen:
            # The watcher reads from a pipe into which nobody writes. It closes when this process ends, however it ends.
            quiet = subprocess.DEVNULL
            self.watcher = subprocess.Popen(
                ["sh", "-c", "read _; kill 0"], stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, process_group=0
            )
            # As Prefect starts it, but in the watcher's process group. Signals of a terminal, and of `timeout`, go to
            # our whole group. Without a server, Prefect would wait at exit for one to take its last events, for good.
            settings = get_current_settings().to_environment_variables(exclude_unset=True)
            temporary = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
            command = [sys.executable, "-m", "uvicorn", "--app-dir", str(prefect.__module_path__.parent)]
            command += ["--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1"]
            command += ["--port", str(self.port), "--log-level", "error", "--lifespan", "on"]
            environment = {**os.environ, **temporary, **settings}
            return subprocess.Popen(command, env=environment, process_group=self.watcher.pid)

    WatchedServer()  # Prefect keeps one server for each port, and starts this one, which is for any port


def _check_home() -> None:
    """Refuse a home of Prefect that cannot hold the server's database: Prefect would try for two minutes."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    database = settings.server.database.connection_url
    if settings.api.url is None and database and str(settings.home) in database.get_secret_value():
        with writing_to(settings.home, "Set PREFECT_HOME to another folder."):
            settings.home.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=settings.home).close()

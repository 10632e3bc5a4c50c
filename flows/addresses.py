"""Where the servers of this machine listen, whether one answers, and what one said that does not."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tasks.errors import UserError

HOST, PREFECT_PORT = "127.0.0.1", 4200


def check_free(port: int, option: str) -> None:
    """Refuse a port that another program listens on, or that no program can.

    Raises:
        UserError: it is in use, or there is no such port.
    """
    if not 0 < port < 65_536:
        raise UserError(f"There is no port {port}: they go from 1 to 65535. Choose another with {option}.")
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((HOST, port)) == 0:
            raise UserError(f"Port {port} is in use. Stop what listens there, or choose another with {option}.")


def end_of(log: Path) -> str:
    """The last lines of what a server said, which tell why it ended."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:])


def address_of(port: int | None = None) -> str:
    """Prefect's API: at a port of this machine, or else as the user's settings say, or else where `ui` starts it."""
    configured = configured_server() if port is None else None
    return (configured or f"http://{HOST}:{port or PREFECT_PORT}/api").rstrip("/")


def configured_server() -> str | None:
    """The API of the Prefect server that the user's settings name; None if they name none.

    Prefect, which takes seconds to import, is asked only where there are any settings of its own: in the environment,
    in a profile, or in a file of the current folder.
    """
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    variables = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH")
    marks = {home / "profiles.toml": "api_url", Path("prefect.toml"): "url", Path(".env"): "prefect_"}
    marks[Path("pyproject.toml")] = "[tool.prefect"
    if not any(map(os.environ.get, variables)) and not any(_holds(file, mark) for file, mark in marks.items()):
        return None
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value()


def _holds(file: Path, mark: str) -> bool:
    try:
        return mark in file.read_text(encoding="utf-8", errors="replace").lower()
    except OSError:
        return False


def reached(address: str) -> bool:
    """Whether a Prefect server answers."""
    try:
        with urlopen(f"{address}/health", timeout=10) as answer:
            return answer.status == 200
    except (URLError, OSError, ValueError):
        return False

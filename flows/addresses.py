"""Where the servers of this machine listen, and whether one answers."""

from __future__ import annotations

import socket
from urllib.error import URLError
from urllib.request import urlopen

from tasks.errors import UserError

HOST, PREFECT_PORT = "127.0.0.1", 4200


def check_free(port: int, option: str) -> None:
    """Refuse a port that another program listens on.

    Raises:
        UserError: it is in use.
    """
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex((HOST, port)) == 0:
            raise UserError(f"Port {port} is in use. Stop what listens there, or choose another with {option}.")


def address_of(port: int | None = None) -> str:
    """Prefect's API: at a port of this machine, or else as the user's settings say, or else where `ui` starts it."""
    from prefect.settings import PREFECT_API_URL

    configured = PREFECT_API_URL.value() if port is None else None
    return (configured or f"http://{HOST}:{port or PREFECT_PORT}/api").rstrip("/")


def reached(address: str) -> bool:
    """Whether a Prefect server answers."""
    try:
        with urlopen(f"{address}/health", timeout=10) as answer:
            return answer.status == 200
    except (URLError, OSError, ValueError):
        return False

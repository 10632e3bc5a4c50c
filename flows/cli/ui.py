"""Both web interfaces on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

from flows.addresses import HOST, PREFECT_PORT, check_free, end_of
from tasks.config.experiment import Experiment
from tasks.errors import UserError
from tasks.paths import PROJECT
from tasks.scoring.comparisons import FLOOR
from tasks.tracking.reading import latest_evaluation
from tasks.tracking.runs import KIND, PARENT, STATUS
from tasks.tracking.store import address, experiment_id

LOGS = PROJECT / "mlruns" / "ui"


class Server(NamedTuple):
    """One of the servers, and what it says."""

    name: str
    process: subprocess.Popen
    log: Path


def serve_ui(experiment: Experiment, mlflow_port: int, prefect_port: int) -> None:
    """Start the MLflow UI and the Prefect dashboard on 127.0.0.1, and stop both on Ctrl-C or when one of them ends.

    Where tracking.uri is a server, its own pages are named and none is started for it.

    Raises:
        UserError: a port is in use, or a server ended by itself.
    """
    store = address(experiment)
    served = store.startswith(("http://", "https://"))
    ports = {"--prefect-port": prefect_port} | ({} if served else {"--mlflow-port": mlflow_port})
    for option, port in ports.items():
        check_free(port, option)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's stop is a Ctrl-C too
    where = experiment_id(experiment)
    mlflow = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
    prefect = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(prefect_port)]
    api = f"http://{HOST}:{prefect_port}/api"
    # The dashboard runs in the browser and asks port 4200, unless it is told another.
    servers = [_start("Prefect", prefect_port, prefect, PREFECT_SERVER_UI_API_URL=api)]
    if not served:  # the store's address may hold a password, and every user of the machine sees command lines
        servers.append(_start("MLflow", mlflow_port, mlflow, MLFLOW_BACKEND_STORE_URI=store))
    try:
        for port in ports.values():
            _await(port, servers)
        # Without the kind of work, MLflow 3 opens its pages for agents and hides the columns of metrics.
        pages = f"{store.rstrip('/') if served else f'http://{HOST}:{mlflow_port}'}/#/experiments/{where}"
        print(f"MLflow:  {pages}/models?workflowType=machine_learning", flush=True)
        if evaluation := latest_evaluation(experiment):
            print(f"Compare: {pages}/runs?{comparison(evaluation)}", flush=True)
        print(f"Prefect: http://{HOST}:{prefect_port}", flush=True)
        where = "" if prefect_port == PREFECT_PORT else f" --prefect-port {prefect_port}"
        print(f"Schedules, and runs by the dashboard: pricewright deploy{where}, in another terminal.", flush=True)
        print("Ctrl-C stops what was started.", flush=True)
        while True:
            _check_all_run(servers)
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        for server in servers:
            server.process.terminate()
        for server in servers:
            server.process.wait()


def _start(name: str, port: int, command: list[str], **environment: str) -> Server:
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name.lower()}-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
    return Server(name, process, log)


def _check_all_run(servers: Sequence[Server]) -> None:
    for name, process, log in servers:
        if process.poll() is not None:
            beside = " What was started beside it was stopped." if len(servers) > 1 else ""
            raise UserError(f"The server of {name} ended by itself.{beside} The end of {log}:\n{end_of(log)}")


def comparison(evaluation: str) -> str:
    """The query that makes MLflow's page of runs a chart for each metric, over the models of one evaluation: those that
    ran, and not the best possible guess, which is no model."""
    models = f"tags.`{PARENT}` = '{evaluation}' and tags.`{KIND}` != '{FLOOR}' and tags.`{STATUS}` = 'ran'"
    return urlencode(
        {
            "workflowType": "machine_learning",
            "searchFilter": models,
            "orderByKey": "metrics.`test_mae`",
            "orderByAsc": "true",
            "compareRunsMode": "CHART",
        },
        quote_via=quote,
    )


def _await(port: int, servers: Sequence[Server]) -> None:
    while True:
        _check_all_run(servers)
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.2)

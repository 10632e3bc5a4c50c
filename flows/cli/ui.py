"""Both web interfaces on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import quote, urlencode

from flows.addresses import HOST, PREFECT_PORT, check_free
from tasks.config.experiment import Experiment
from tasks.scoring.comparisons import FLOOR
from tasks.tracking.reading import latest_evaluation
from tasks.tracking.runs import KIND, PARENT, STATUS
from tasks.tracking.store import address, experiment_id


def serve_ui(experiment: Experiment, mlflow_port: int, prefect_port: int) -> None:
    """Start the MLflow UI and the Prefect dashboard on 127.0.0.1, and stop both on Ctrl-C or when one of them ends.

    Where tracking.uri is a server, its own pages are named and none is started for it.

    Raises:
        UserError: a port is in use.
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
    servers = [_start(prefect, PREFECT_SERVER_UI_API_URL=api)]
    if not served:  # the store's address may hold a password, and every user of the machine sees command lines
        servers.append(_start(mlflow, MLFLOW_BACKEND_STORE_URI=store))
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
        while all(server.poll() is None for server in servers):
            time.sleep(0.5)
        raise RuntimeError("one of the servers ended by itself, so the other one was stopped")
    except KeyboardInterrupt:
        pass
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()


def _start(command: list[str], **environment: str) -> subprocess.Popen:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=os.environ | environment, stdout=quiet, stderr=quiet)


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


def _await(port: int, servers: list[subprocess.Popen]) -> None:
    while all(server.poll() is None for server in servers):
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.2)

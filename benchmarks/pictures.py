"""The pictures of the README and of docs/mlflow.md, made from a real run, and those of docs/schedules.md.

    python -m benchmarks.pictures [-c CONF] [key=value ...]
    python -m benchmarks.pictures --schedules -c conf/smoke.yaml schedule.cron="* * * * *"

The first needs a finished `pricewright run` of the same conf, the second runs what is scheduled; both need Chromium,
start `pricewright ui`, open its pages and the report in it, and write docs/images/*.png in 64 colours.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image

from flows.pipeline import recall_scores
from tasks.config.experiment import Experiment
from tasks.config.loading import DEFAULT_CONF, load
from tasks.paths import PROJECT
from tasks.report.board import open_run
from tasks.report.publishing import REPORT
from tests.browser import Browser, find

IMAGES = PROJECT / "docs" / "images"
WIDE = (1400, 800)
REST = 15  # seconds until a page has drawn itself, on a busy machine
ASSISTANT = "document.querySelector('button[aria-label=\"Close\"]')?.click()"  # it opens by itself, over the page


def main(conf: str, overrides: list[str]) -> None:
    """Take every picture."""
    chromium = find()
    if chromium is None:
        sys.exit("Chromium is needed: apt-get install chromium")
    experiment = load(conf, overrides)
    with Browser(chromium) as browser:
        shoot_report(browser, experiment)
        ports = [str(free_port()), str(free_port())]
        options = ["-c", conf, "--mlflow-port", ports[0], "--prefect-port", ports[1]]
        ui = subprocess.Popen([sys.executable, "-m", "flows.cli", "ui", *options], stdout=subprocess.PIPE, text=True)
        try:
            said = dict(line.split(maxsplit=1) for line in (next(ui.stdout) for _ in range(3)))
            shoot(browser, "compare", said["Compare:"])
            run = f"{said['MLflow:'].partition('/models?')[0]}/runs/{recall_scores(experiment, 'read').run_id}"
            shoot(browser, "run", run + "?workflowType=machine_learning", "Show more")
            shoot(browser, "figures", run + "/artifacts/figures/models.svg?workflowType=machine_learning")
            shoot(browser, "prefect", table_artifact(said["Prefect:"].strip()))
        finally:
            ui.terminate()
            ui.wait()


def main_schedules(conf: str, overrides: list[str]) -> None:
    """Deploy, wait for a scheduled run to end, and take the pictures of its pages; Prefect's database is a new one."""
    chromium = find()
    if chromium is None:
        sys.exit("Chromium is needed: apt-get install chromium")
    ports = [str(free_port()), str(free_port())]
    prefect, command = f"http://127.0.0.1:{ports[1]}", [sys.executable, "-m", "flows.cli"]
    with Browser(chromium) as browser, tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "PREFECT_HOME": home}
        options = ["-c", conf, "--mlflow-port", ports[0], "--prefect-port", ports[1]]
        ui = subprocess.Popen([*command, "ui", *options], stdout=subprocess.PIPE, text=True, env=environment)
        deploy = None
        try:
            while "Ctrl-C" not in next(ui.stdout):
                pass
            options = ["-c", conf, *overrides, "--prefect-port", ports[1]]
            deploy = subprocess.Popen([*command, "deploy", *options], env=environment)
            ended = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
            while not (runs := ask(prefect, "flow_runs/filter", ended)):
                time.sleep(1)
            shoot(browser, "deployments", f"{prefect}/deployments")
            names = {"deployments": {"name": {"any_": [Path(conf).stem]}}, "flows": {"name": {"any_": ["finetune"]}}}
            (finetune,) = ask(prefect, "deployments/filter", names)
            shoot(browser, "form", f"{prefect}/deployments/deployment/{finetune['id']}/run")
            shoot(browser, "scheduled", f"{prefect}/runs/flow-run/{runs[0]['id']}")
        finally:
            for process in filter(None, (deploy, ui)):
                process.terminate()
                process.wait()


def shoot_report(browser: Browser, experiment: Experiment) -> None:
    """The head of the report on a desk; and its scatter, on a phone in the dark, with a dot pointed at."""
    report = open_run(experiment, recall_scores(experiment, "read").run_id).artifact(REPORT)
    browser.screen(1100, 930)
    browser.open(report.as_uri())
    keep(browser, "report")
    browser.screen(390, 760, scheme="dark", scale=2)
    browser.open(report.as_uri())
    browser.evaluate(
        "document.getElementById('guesses').scrollIntoView(); visit(order[Math.floor(order.length * 0.6)])"
    )
    keep(browser, "phone")


def shoot(browser: Browser, name: str, url: str, press: str = "") -> None:
    """A page of a user interface, once it has come to rest."""
    browser.screen(*WIDE)
    browser.open(url)
    time.sleep(REST)
    browser.evaluate(ASSISTANT)
    if press:
        browser.evaluate(f"[...document.querySelectorAll('button')].find((b) => b.textContent === {press!r})?.click()")
    time.sleep(2)
    keep(browser, name)


def table_artifact(prefect: str) -> str:
    """The page of the last leaderboard in Prefect's dashboard."""
    query = {"artifacts": {"key": {"any_": ["leaderboard"]}}, "sort": "UPDATED_DESC", "limit": 1}
    return f"{prefect}/artifacts/artifact/{ask(prefect, 'artifacts/filter', query)[0]['id']}"


def ask(prefect: str, what: str, query: dict) -> list[dict]:
    """What Prefect's API answers to a filter."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{prefect}/api/{what}", json.dumps(query).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def keep(browser: Browser, name: str) -> None:
    """Write the picture with a palette: a third of the size, and nobody sees it."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Image.open(browser.picture(Path(folder) / "picture.png")).convert("RGB")
        picture.quantize(64, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)
    print(f"{IMAGES / name}.png, {(IMAGES / f'{name}.png').stat().st_size // 1000} kB")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--conf", default=DEFAULT_CONF)
    parser.add_argument("--schedules", action="store_true")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    (main_schedules if arguments.schedules else main)(arguments.conf, arguments.overrides)

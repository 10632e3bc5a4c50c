"""All pictures of the README and of the docs, made from real runs: docs/images/*.png, in 64 colours and of one size.

    python -m benchmarks.shown.pictures [--only report|mlflow|terminal|schedules] [-c CONF] [key=value ...]

It needs a finished `pricewright run` of the same conf, and Chromium, in which it opens the report, the pages of
`pricewright ui` and what benchmarks.shown.recording recorded. For the pictures of docs/schedules.md it deploys the
smoke experiment every minute, in a store and with a Prefect database of their own. The window is 1400 x 800, but for a
phone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image

from benchmarks.faults import free_port
from benchmarks.shown.recording import CAST, record, write
from benchmarks.shown.recording import page as as_page
from tasks.config.loading import DEFAULT_CONF, load
from tasks.paths import PROJECT
from tasks.report.publishing import REPORT
from tasks.scoring.question import expected_answer
from tasks.scoring.record import read_run
from tests.browser import Browser, find

IMAGES = PROJECT / "docs" / "images"
WIDE = (1400, 800)
REST = 15  # seconds until a page has drawn itself, on a busy machine
# The folder that the project lies in on this machine is not shown.
PLACE = f"""{{
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (texts.nextNode())
        texts.currentNode.data = texts.currentNode.data.replaceAll({f"{PROJECT.as_uri()}/"!r}, "")
}}"""
ASSISTANT = "document.querySelector('button[aria-label=\"Close\"]')?.click()"  # it opens by itself, over the page


def main(conf: str, overrides: list[str], only: str | None) -> None:
    """Take every picture, or those of one kind."""
    chromium = find()
    if chromium is None:
        sys.exit("Chromium is needed: apt-get install chromium")
    with Browser(chromium) as browser:
        for kind, shoot_all in KINDS.items():
            if only in (None, kind):
                shoot_all(browser, conf, overrides)


def shoot_mlflow(browser: Browser, conf: str, overrides: list[str]) -> None:
    """The pages of MLflow, and the leaderboard in Prefect's dashboard."""
    ports = [str(free_port()), str(free_port())]
    options = ["-c", conf, *overrides, "--mlflow-port", ports[0], "--prefect-port", ports[1]]
    ui = subprocess.Popen([sys.executable, "-m", "flows.cli", "ui", *options], stdout=subprocess.PIPE, text=True)
    try:
        said = dict(line.split(maxsplit=1) for line in (next(ui.stdout) for _ in range(3)))
        shoot(browser, "compare", said["Compare:"])
        run = f"{said['MLflow:'].partition('/models?')[0]}/runs/{expected_answer(load(conf, overrides))}"
        shoot(browser, "run", run + "?workflowType=machine_learning", "Show more")
        shoot(browser, "figures", run + "/artifacts/figures/models.svg?workflowType=machine_learning")
        shoot(browser, "prefect", table_artifact(said["Prefect:"].strip()))
    finally:
        ui.terminate()
        ui.wait()


def shoot_terminal(browser: Browser, conf: str, overrides: list[str]) -> None:
    """The first hour in a terminal, recorded, and its end as a picture."""
    events = record(conf, overrides, skip_run=True)  # the run may take long
    write(events)
    print(CAST)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "terminal.html"
        page.write_text(as_page(events), encoding="utf-8")
        browser.screen(*WIDE)
        browser.open(page.as_uri())
        browser.screen(WIDE[0], int(browser.evaluate("document.documentElement.scrollHeight")))
        keep(browser, "terminal")


def shoot_schedules(browser: Browser, _conf: str, _overrides: list[str]) -> None:
    """Deploy, wait for a scheduled run to end, and take the pictures of its pages."""
    ports = [str(free_port()), str(free_port())]
    prefect, command, conf = f"http://127.0.0.1:{ports[1]}", [sys.executable, "-m", "flows.cli"], "conf/smoke.yaml"
    with tempfile.TemporaryDirectory() as home:
        overrides = [f"tracking.uri=sqlite:///{home}/mlflow.db", f"tracking.artifacts={home}/artifacts"]
        overrides.append("schedule.cron=* * * * *")
        environment = {**os.environ, "PREFECT_HOME": home}
        options = ["-c", conf, *overrides, "--mlflow-port", ports[0], "--prefect-port", ports[1]]
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


def shoot_report(browser: Browser, conf: str, overrides: list[str]) -> None:
    """The head of the report on a desk; and its scatter, on a phone in the dark, with a dot pointed at."""
    experiment = load(conf, overrides)
    report = read_run(experiment, expected_answer(experiment)).artifact(REPORT)
    browser.screen(*WIDE)
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
    browser.evaluate(PLACE)
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


KINDS = {
    "report": shoot_report,
    "terminal": shoot_terminal,
    "mlflow": shoot_mlflow,
    "schedules": shoot_schedules,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--conf", default=DEFAULT_CONF)
    parser.add_argument("--only", choices=KINDS, help="the pictures of one kind")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    main(arguments.conf, arguments.overrides, arguments.only)

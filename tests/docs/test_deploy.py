"""deploy/: what can be checked of it without Docker. (`docker compose config` checks the rest, where there is one.)"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli.parser import parse
from tasks.config.loading import load
from tasks.paths import PROJECT

SECRET = re.compile(r"(?i)password|secret|access|connection")  # in the name of what is one

DEPLOY = PROJECT / "deploy"
COMPOSE = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
SETTINGS = dict(
    line.partition("=")[::2]
    for line in (DEPLOY / ".env.example").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
SECRETS = {"POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"}


def filled(text: str) -> str:
    """The compose file with the settings of the example in it, as Compose fills them in."""
    return re.sub(r"\$\{(\w+)[^}]*\}", lambda found: SETTINGS[found[1]] or "given", text)


def services() -> dict[str, Any]:
    return yaml.safe_load(filled(COMPOSE))["services"]


def test_the_example_has_every_setting_and_no_secret() -> None:
    """A secret that nobody set is refused by Compose, and git ignores the file that holds them."""
    assert set(re.findall(r"\$\{(\w+)", COMPOSE)) == set(SETTINGS)
    assert {name for name, value in SETTINGS.items() if not value} == SECRETS
    assert all(f"${{{name}:?" in COMPOSE for name in SECRETS)
    assert "deploy/.env" in (PROJECT / ".gitignore").read_text().split()


def test_every_service_waits_for_what_it_needs() -> None:
    """By their health, which each that others need can tell."""
    for name, service in services().items():
        for needed, how in service.get("depends_on", {}).items():
            done = how["condition"] == "service_completed_successfully"
            assert done or "healthcheck" in services()[needed], f"{name} waits for {needed}"


def test_the_worker_runs_a_command_of_ours() -> None:
    """With the conf of the example under that of the team."""
    program, *words = shlex.split(services()["worker"]["command"])
    arguments = parse(words)
    assert program == "pricewright" and arguments.name == "deploy"
    experiment = load(arguments.conf, arguments.overrides)
    assert experiment.tracking.uri == "http://mlflow:5000" and experiment.finetune.checkpoints_in == "store"


def test_several_workers_share_the_cache_alone() -> None:
    """`--scale worker=3` starts three: each has locks of its own, of which a checkout's worker holds one."""
    named = [volume for volume in services()["worker"]["volumes"] if ":" in volume]
    assert named == ["cache:/cache"]


def test_only_the_pages_are_published_and_on_loopback_alone() -> None:
    """The database and the store are for the other containers."""
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published == {"mlflow": ["127.0.0.1:5000:5000"], "prefect": ["127.0.0.1:4200:4200"]}


def test_the_image_is_built_of_files_that_are_there() -> None:
    """The lock files, and the project itself without its secrets."""
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lock = re.findall(r"^ARG LOCK=(\S+)$", dockerfile, re.MULTILINE)
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()]
    assert all((PROJECT / name.replace("${LOCK}", lock[0])).exists() for name in copied)
    assert "deploy/.env" in (PROJECT / ".dockerignore").read_text().split()


@pytest.mark.parametrize("chart", sorted((DEPLOY / "helm").glob("*.yaml")), ids=lambda path: path.stem)
def test_helm_values_hold_no_secret(chart: Path) -> None:
    """They name secrets of the cluster."""

    def secrets(values: object, key: str = "") -> list[str]:
        if isinstance(values, dict):
            return [found for name, value in values.items() for found in secrets(value, str(name))]
        if isinstance(values, list):
            return [found for value in values for found in secrets(value, key)]
        named = key.startswith(("existing", "keyOf")) or key.endswith("Key")
        return [key] if isinstance(values, str) and SECRET.search(key) and not named else []

    assert secrets({"auth": {"secret": "x", "passwordKey": "password"}, "keys": [{"accessKeyId": "y"}]}) == [
        "secret",
        "accessKeyId",
    ]
    values = yaml.safe_load(chart.read_text(encoding="utf-8"))
    assert values and not secrets(values)


def composes() -> bool:
    """Whether Docker is here with Compose, which checks a file without a daemon."""
    words = ["docker", "compose", "version"]
    return bool(shutil.which("docker")) and subprocess.run(words, capture_output=True).returncode == 0


@pytest.mark.skipif(not composes(), reason="Docker Compose is not installed")
def test_compose_itself_takes_the_file(tmp_path: Path) -> None:
    """By its own check."""
    (tmp_path / "env").write_text("".join(f"{name}={value or 'given'}\n" for name, value in SETTINGS.items()))
    words = [
        "docker",
        "compose",
        "--env-file",
        str(tmp_path / "env"),
        "-f",
        str(DEPLOY / "compose.yaml"),
        "config",
        "-q",
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

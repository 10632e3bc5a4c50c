"""Exit statuses and messages: 0 done, 2 for what the user can mend, 1 for a stage that failed."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.cli import ui
from flows.cli.main import main
from flows.cli.parser import parse
from flows.cli.remedies import remedy
from tasks.paths import PROJECT, cache_folder
from tests.waiting import free_port

SMOKE = "conf/smoke.yaml"


def outcome(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str]:
    """The exit status and what was said on standard error; nothing may be on standard output."""
    status = main([*words])
    captured = capsys.readouterr()
    assert captured.out == ""
    return status, captured.err


def test_what_the_user_can_mend_exits_with_2_and_says_how(
    capsys: pytest.CaptureFixture, tmp_path: Path, at: Callable
) -> None:
    """One message with the remedy, and no traceback."""
    store = at(tmp_path)
    for words, expected in (
        (["run", "-c", SMOKE, "data.row=5"], "Did you mean rows?"),
        (["run", "-c", "conf/nothing.yaml"], "conf/laptop.yaml"),
        (["evaluate", "-c", SMOKE, *store], "Run `pricewright curate` first"),
        (["baselines", "-c", SMOKE, *store, "data.rows=200"], "Run `pricewright curate`"),
        (["leaderboard", "-c", SMOKE, *store], "Run `pricewright"),
        (["curate", "-c", SMOKE, *store, "data.source=files", f"data.path={tmp_path}/none.csv"], "No data at"),
        (["run", "-c", SMOKE, *store, "finetune.sft.lerning_rate=1"], "Did you mean learning_rate?"),
        (["run", "-c", SMOKE, *store, "finetune.sft.learning_rate=low"], "learning_rate: expected a number such as"),
        (["leaderboard", "-c", SMOKE, *store, "--html", str(tmp_path)], "this is a folder. Give the file to write"),
        (["leaderboard", "-c", SMOKE, *store, "--html", "x" * 300], "cannot be written: File name too long"),
        (["predict", "-c", SMOKE], "nothing to price"),
        (["predict", "-c", SMOKE, "Kettle", "K\udce4se 1 kg"], "Text 2 of 2 is not in UTF-8"),
        (["predict", "-c", SMOKE, "Kettle", "dta.rows=5"], "dta: there is no such key. Did you mean data?"),
        (["predict", "-c", SMOKE, "--file", f"{tmp_path}/none.jsonl"], "No data at"),
    ):
        status, message = outcome(capsys, *words)
        assert (status, expected in message, "Traceback" in message) == (2, True, False), (words, message)


@pytest.mark.parametrize(
    ("typed", "place", "overrides"),
    [
        ("human seed=3 sheet.csv -n 3", "sheet.csv", ["seed=3"]),
        ("human sheet.csv seed=3 -n 3 data.rows=5", "sheet.csv", ["seed=3", "data.rows=5"]),
        ("human seed=3 data.rows=5 -n 3 data.rows=6 sheet.csv", "sheet.csv", ["seed=3", "data.rows=5", "data.rows=6"]),
        ("init data.columns.price=Cost na.csv", "na.csv", ["data.columns.price=Cost"]),
        ("export seed=3 --adapter taken", "taken", ["seed=3"]),
        ("init data.rows=5", "data.rows=5", []),
        ("init data.rows=5 seed=3", "data.rows=5", ["seed=3"]),
        ("init a=b na.csv", "a=b", ["na.csv"]),
    ],
)
def test_overrides_may_stand_before_a_file(typed: str, place: str, overrides: list[str]) -> None:
    """And before a sheet or a folder, in their order: the last one of a key counts. A file may be called as an override
    is, where nothing else can be the file."""
    found = parse(typed.split())
    name = {"human": "sheet", "init": "file", "export": "folder"}[found.name]
    assert (getattr(found, name), found.overrides) == (place, overrides)


def test_a_port_in_use_is_said(capsys: pytest.CaptureFixture) -> None:
    """Before any server is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, message = outcome(capsys, "ui", "-c", SMOKE, "--mlflow-port", str(port))
    assert status == 2
    assert f"Port {port} is in use" in message and "--mlflow-port" in message


def test_a_port_that_there_is_not_is_said(capsys: pytest.CaptureFixture) -> None:
    """Whoever is to listen there."""
    for words in (["ui", "--prefect-port", "-1"], ["ui", "--mlflow-port", "65536"], ["serve", "--port", "70000"]):
        status, message = outcome(capsys, *words, "-c", SMOKE)
        assert status == 2 and f"There is no port {words[-1]}: they go from 1 to 65535" in message
        assert f"Choose another with {words[1]}." in message


@pytest.mark.parametrize(("ends", "goes_on"), [("Prefect", "mlflow"), ("MLflow", "prefect")])
def test_a_server_of_ui_that_ends_is_named_with_what_it_said(
    ends: str,
    goes_on: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    at: Callable,
) -> None:
    """And nobody is sent to the address of a server that is not there; the other one is stopped."""
    program = tmp_path / "python"  # -m mlflow server ...
    program.write_text(
        f'#!/bin/sh\n[ "$2" = {goes_on} ] && echo $$ > "{tmp_path}/pid" && exec sleep 3600\n'
        f'until [ -s "{tmp_path}/pid" ]; do sleep 0.05; done\necho "the database is damaged"; exit 3\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(ui, "sys", SimpleNamespace(executable=str(program)))
    monkeypatch.setattr(ui, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    ports = {"MLflow": str(free_port()), "Prefect": str(free_port())}
    options = [word for name, port in ports.items() for word in (f"--{name.lower()}-port", port)]
    status, message = outcome(capsys, "ui", "-c", SMOKE, *at(tmp_path), *options)
    assert status == 2 and f"The server of {ends} ended by itself." in message
    assert f"The end of {tmp_path}/logs/{ends.lower()}-{ports[ends]}.log:\nthe database is damaged" in message
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_stage_that_fails_exits_with_1(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: Callable
) -> None:
    """The error in one line; the traceback only with --debug."""
    from tasks import curation

    def fails(*_: object, **__: object) -> object:
        raise RuntimeError("the catalogue fell over")

    monkeypatch.setattr(curation, "deduplicate_and_split", fails)
    status, message = outcome(capsys, "curate", "-c", SMOKE, *at(tmp_path))
    assert status == 1
    assert "RuntimeError: the catalogue fell over" in message and "Traceback" not in message
    status, message = outcome(capsys, "curate", "-c", SMOKE, *at(tmp_path), "--debug")
    assert status == 1 and "Traceback" in message


def test_a_full_disk_is_said_however_deep_it_hides(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: Callable
) -> None:
    """Exit status 2 and what to do; the stage is not done, and with room again it is."""
    from tasks import curation

    def fails(*_: object) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not log the artifact") from error

    with monkeypatch.context() as patch:
        patch.setattr(curation, "write_split", fails)
        status, message = outcome(capsys, "curate", "-c", SMOKE, *at(tmp_path))
    assert status == 2 and "The disk is full" in message and "Make room" in message
    assert main(["curate", "-c", SMOKE, *at(tmp_path)]) == 0


@pytest.mark.parametrize(
    "said",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",  # of safetensors
        'TransactionContext Error: Failed to commit: Could not write file "/x": No space left on device',  # of DuckDB
        "Disk quota exceeded (os error 122)",
        "(sqlite3.OperationalError) database or disk is full",
    ],
)
def test_a_full_disk_is_known_by_what_other_libraries_say(said: str) -> None:
    """Their errors are no OSError."""
    assert str(remedy(Exception(said))).startswith(f"The disk is full ({said}). Make room.")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Timed out while attempting to connect to ephemeral Prefect API server.", "PREFECT_HOME (~/.prefect"),
        ("Failed to reach API at http://127.0.0.1:9/api/", "`prefect config view`"),
        ("No Prefect API URL provided. Please set it", "unset PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"),
    ],
)
def test_what_keeps_prefect_from_working_is_said_with_its_own_remedy(said: str, expected: str) -> None:
    """A server of the user's that is gone is another thing than one of ours that did not start."""
    message = str(remedy(RuntimeError(said)))
    assert f"({said})" in message and expected in message


def test_a_database_that_was_left_half_made_is_said() -> None:
    """By a command that was interrupted while it made one."""
    error = Exception("(sqlite3.OperationalError) table _alembic_tmp_experiments already exists\n[SQL: CREATE TABLE")
    message = str(remedy(error))
    assert "half made ((sqlite3.OperationalError) table _alembic" in message and "[SQL" not in message


def test_a_settings_file_of_prefect_that_cannot_be_read_is_named() -> None:
    """Python names no file."""
    with pytest.raises(tomllib.TOMLDecodeError) as caught:
        tomllib.loads('active = "x')
    assert "profiles.toml in PREFECT_HOME" in str(remedy(caught.value))


def test_a_home_that_prefect_cannot_write_is_refused_at_once(
    capsys: pytest.CaptureFixture, tmp_path: Path, at: Callable
) -> None:
    """Where its temporary server needs it: a database elsewhere needs none."""
    from prefect.settings import PREFECT_HOME, PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

    from flows.temporary_server import end_server_with_process

    (tmp_path / "file").touch()
    home = tmp_path / "file" / "prefect"
    with temporary_settings({PREFECT_HOME: home}):
        status, message = outcome(capsys, "curate", "-c", SMOKE, *at(tmp_path))
        with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{tmp_path}/x.db"}):
            end_server_with_process()
    assert status == 2 and f"{home} cannot be written: Not a directory. Set PREFECT_HOME to another folder." in message


@pytest.mark.parametrize(
    ("place", "elsewhere"),
    [
        (Path("/home/other/products.csv"), ""),
        (PROJECT / "mlruns" / "mlflow.db", ", or point tracking.* at another place"),
        (PROJECT / "mlruns" / "artifacts" / "run", ", or point tracking.* at another place"),
        (PROJECT / "mlruns" / "locks" / "store.lock", ", or use a checkout of your own"),
        (cache_folder() / "estimates", ", or point PRICEWRIGHT_CACHE at another folder"),
    ],
)
def test_what_is_closed_is_named_with_a_way_out_that_is_one(place: Path, elsewhere: str) -> None:
    """A file of the user's may be closed for reading, and no setting of ours moves it."""
    error = PermissionError(errno.EACCES, "Permission denied", str(place))
    assert remedy(error) == f"Something cannot be read or written ({error}). Fix its permissions{elsewhere}."


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError("Unable to allocate 3.2 GiB for an array with shape (9, 9)"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_said_with_what_to_lower(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Wherever a model answers: exit status 2, and no bare words of an allocator."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("flows.cli.commands.load", fails)
    status, message = outcome(capsys, "evaluate", "-c", SMOKE)
    assert status == 2 and f"({str(error) or 'MemoryError'})" in message and "finetune.answer.batch_tokens" in message


def test_doctor_says_what_is_there(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, at: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    """Machine, device, base model and tracking, one line each; that it cannot remember what it found is no obstacle."""
    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "estimates").touch()
    assert main(["doctor", "-c", SMOKE, *at(tmp_path)]) == 0
    output = capsys.readouterr().out
    for word in ("machine", "device", "tiny-random", "tracking", "reached"):
        assert word in output


def test_doctor_does_not_work_out_twice_what_training_takes(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, at: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    """It takes torch, transformers and seconds; another conf is worked out anew."""
    from tasks.training.memory import TrainingCost

    def works_it_out(*_: object) -> None:
        raise AssertionError("it was worked out")

    def said(*overrides: str) -> str:
        assert main(["doctor", "-c", SMOKE, *at(tmp_path), *overrides]) == 0
        lines = capsys.readouterr().out.splitlines()
        return next(line for line in lines if line.startswith("training  ") and "steps" in line)

    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path))
    first, other = said(), said("finetune.train_items=24")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingCost, "foreseen", works_it_out)
        assert (said(), said("finetune.train_items=24")) == (first, other) and first != other
        assert main(["doctor", "-c", SMOKE, "finetune.train_items=16"]) == 1

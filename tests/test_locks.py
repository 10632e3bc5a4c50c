"""Locks between processes: one holder at a time, and none that outlives its process."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.locks import LockedError, is_free, locked
from tasks.models.language import hardware
from tasks.paths import PROJECT
from tests.waiting import PATIENCE, until

HOLDER = """
import sys
from pathlib import Path
from tasks.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holding(file: Path) -> subprocess.Popen:
    """Another process that holds the lock of a file until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(file)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    return holder


def test_a_lock_has_one_holder_and_is_free_when_that_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Another process is told who holds it, or waits and says so."""
    file = tmp_path / "gpu.lock"
    assert is_free(file)
    with holding(file) as holder:
        assert not is_free(file)
        with pytest.raises(LockedError, match=f"process {holder.pid} holds gpu"), locked(file, wait=False):
            raise AssertionError("two have it")
        with locked(tmp_path / "another.lock", wait=False):
            pass
        got, heard = threading.Event(), []

        def wait() -> None:
            with locked(file, notice="Waiting for a GPU."):
                got.set()

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        until(lambda: heard.append(capsys.readouterr().err) or "Waiting" in "".join(heard))
        assert not got.is_set()
        holder.kill()
        assert got.wait(PATIENCE)
        waiting.join()
    assert f"Waiting for a GPU. (process {holder.pid})" in "".join(heard)
    assert is_free(file)


def test_a_gpu_is_for_one_training_and_a_cpu_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With busy=fail a second training is refused, and told which process has the GPU."""
    monkeypatch.setattr(hardware, "device_name", lambda device, index: f"{device}-{index}")
    with holding(tmp_path / "cuda-1.lock") as holder:
        with hardware.lock_gpus("cuda", 1, tmp_path, "fail"):
            pass
        refused = pytest.raises(UserError, match=rf"cuda-1 \(process {holder.pid} .*finetune.busy=wait")
        with refused, hardware.lock_gpus("cuda", 2, tmp_path, "fail"):
            raise AssertionError("two have it")
        holder.kill()
    with hardware.lock_gpus("cpu", 2, tmp_path), hardware.lock_gpus("cpu", 1, tmp_path, "fail"):
        pass

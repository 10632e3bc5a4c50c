"""One training in several processes of this machine, one for each GPU: accelerate does the work, here they are started.

    python -m tasks.training.launch FILE    # one of them; RANK and WORLD_SIZE as torchrun sets them

Each process gets its share of every batch. The first logs, saves and scores, the others wait for it meanwhile.

torch's own launcher (torch.distributed.launcher, torch 2.13) was tried in its place: a launcher that is killed leaves
its processes running. It also puts handlers of its own in the place of Prefect's for SIGTERM and Ctrl-C, and never
gives them back.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.config.experiment import Experiment
from tasks.data.splits import Dataset
from tasks.errors import UserError
from tasks.models.language.hardware import Settings, use_own_gpu
from tasks.paths import PROJECT
from tasks.tracking.runs import StageRun
from tasks.tracking.store import connect
from tasks.training.checkpoints import Interruption

if TYPE_CHECKING:
    from tasks.training.plan import TrainingPlan

ORDER, TROUBLE = "processes.json", "trouble.json"
GRACE = 300  # seconds that a step and its checkpoint may take once the training was told to leave


def train_in_processes(run: StageRun, plan: TrainingPlan) -> None:
    """Carry out a plan in `finetune.processes` processes; told to leave, they save first.

    Each makes the plan again for itself from what it was made of: the libraries' configs know their process.

    Raises:
        UserError: what one of them met and a user can mend.
        MemoryError: one of them had too little.
        RuntimeError: one of them ended otherwise.
    """
    work = Path(plan.arguments.output_dir)
    work.mkdir(parents=True, exist_ok=True)
    order: dict[str, Any] = {"experiment": plan.experiment.model_dump(mode="json"), "dataset": vars(plan.dataset)}
    order |= {"settings": vars(plan.settings), "run": run.id}
    (work / ORDER).write_text(json.dumps(order), encoding="utf-8")
    (work / TROUBLE).unlink(missing_ok=True)
    interruption = Interruption()
    with interruption.postponed():
        interruption.unsaved = True
        processes = _start(plan.conf.processes, work)
        try:
            ends = _wait(processes, interruption)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        interruption.saved()
    if any(ends):
        _say(work, ends)


def _start(count: int, work: Path) -> list[subprocess.Popen]:
    threads = str(max(1, (os.cpu_count() or 1) // count))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    known = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    paths = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"OMP_NUM_THREADS": threads, **os.environ, **known, "PYTHONPATH": paths}
    command = [sys.executable, "-m", "tasks.training.launch", str(work / ORDER)]
    return [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # closed when this process is gone, however it went: then they go too
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=PROJECT,
            start_new_session=True,  # Ctrl-C is for this process to pass on
        )
        for rank in range(count)
    ]


def _wait(processes: list[subprocess.Popen], interruption: Interruption) -> list[int | None]:
    """Their exit statuses, once all have ended, or some and one of them badly."""
    told = None
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            time.sleep(1)  # the others may have something to say as well
            break
        if interruption.asked is not None and told is None:
            told = time.monotonic()
            for process in processes:
                process.send_signal(signal.SIGTERM)
        if told is not None and time.monotonic() > told + GRACE:
            break
        time.sleep(0.1)
    return [process.poll() for process in processes]


def _say(work: Path, ends: list[int | None]) -> None:
    if (work / TROUBLE).is_file():
        trouble = json.loads((work / TROUBLE).read_text(encoding="utf-8"))
        raise (MemoryError if trouble["memory"] else UserError)(trouble["said"])
    raise RuntimeError(f"A process of the training has ended: exit statuses {ends}. What it said stands above.")


def _leave_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nobody writes: it returns when the other end is closed
    os._exit(1)


def main(order: Path) -> None:
    """Train in this process, as one of several."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    from tasks.models.language import base_model

    base_model.quiet()
    from tasks.training.memory import out_of_memory
    from tasks.training.plan import TrainingPlan
    from tasks.training.trainer import train

    given = json.loads(order.read_text(encoding="utf-8"))
    experiment, dataset = Experiment.model_validate(given["experiment"]), Dataset(**given["dataset"])
    settings, run = Settings(**given["settings"]), None
    use_own_gpu(settings.device)
    if os.environ["RANK"] == "0":
        client = connect(experiment)
        run = StageRun(client, client.get_run(given["run"]), "finetune", done=False, rules=experiment.data.rules())
    try:
        train(run, TrainingPlan.of(experiment, dataset, settings, order.parent))
    except (UserError, MemoryError, RuntimeError) as error:
        memory = out_of_memory(error)
        if not memory and not isinstance(error, UserError):
            raise
        trouble = {"said": str(error), "memory": memory}
        (order.parent / TROUBLE).write_text(json.dumps(trouble), encoding="utf-8")
        sys.exit(2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

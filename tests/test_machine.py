"""What follows from a machine, for each kind of machine, and who has its GPU."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.config import PROJECT, load
from tasks.errors import UserError
from tasks.machine import Machine, alone, hold, settings

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
CPU, MPS, OLD = Machine("cpu"), Machine("mps"), Machine("cuda")
RECENT = Machine("cpu", bf16=True)
GPU = Machine("cuda", bf16=True, flash_attention=True, liger=True)


@pytest.mark.parametrize(
    ("machine", "dtype", "attention", "quantized", "sft"),
    [
        (CPU, "float32", "sdpa", True, {"bf16": False, "use_cpu": True, "dataloader_pin_memory": False}),
        (RECENT, "bfloat16", "sdpa", True, {"bf16": True, "use_cpu": True}),
        (MPS, "float32", "sdpa", False, {"bf16": False, "use_cpu": False, "dataloader_pin_memory": False}),
        (OLD, "float32", "sdpa", True, {"bf16": False, "use_cpu": False, "optim": "paged_adamw_32bit"}),
        (GPU, "bfloat16", "flash_attention_2", True, {"bf16": True, "use_liger_kernel": True}),
    ],
    ids=["CPU", "CPU with bfloat16", "MPS", "GPU without bfloat16", "GPU with everything"],
)
def test_each_machine_takes_what_it_has(
    machine: Machine, dtype: str, attention: str, quantized: bool, sft: dict[str, object]
) -> None:
    """bfloat16, the kernels, 4 bits and the paged optimizer where they are there, and nowhere else."""
    plan = settings(machine, NF4, {"learning_rate": 1e-4})
    assert (plan.dtype, plan.attention, plan.quantization) == (dtype, attention, NF4 if quantized else None)
    assert plan.sft.items() >= {**sft, "learning_rate": 1e-4}.items()
    assert ("optim" in plan.sft) == (machine.device == "cuda")
    assert bool(plan.notes) == (machine.device == "mps")


@pytest.mark.parametrize("machine", [CPU, RECENT, OLD, GPU])
def test_the_conf_can_say_what_is_computed_in(machine: Machine) -> None:
    """float32 for answers that are the same on any machine; bfloat16 where the hardware has it unknown to us."""
    for dtype in ("float32", "bfloat16"):
        plan = settings(machine, NF4, {}, dtype)
        assert (plan.dtype, plan.sft["bf16"]) == (dtype, dtype == "bfloat16")


def test_what_the_conf_says_stands_where_it_can() -> None:
    """Its optimizer on a GPU; where that has no kernels the same one of torch, and the note says so."""
    conf = load("conf/amazon.yaml").finetune
    assert settings(GPU, None, {"optim": "adamw_torch", "bf16": False}).sft.items() >= {"optim": "adamw_torch"}.items()
    assert settings(GPU, conf.quantization, conf.sft).sft["optim"] == "paged_adamw_32bit"
    plan = settings(CPU, conf.quantization, {**conf.sft, "use_liger_kernel": True})
    assert (plan.sft["optim"], plan.sft["use_liger_kernel"]) == ("adamw_torch", False)
    assert "paged_adamw_32bit needs CUDA" in plan.notes[0] and "liger" in plan.notes[1]


@pytest.mark.parametrize(
    ("machine", "quantization", "sft", "message"),
    [
        (
            Machine("cpu", bitsandbytes=False),
            NF4,
            {},
            "bitsandbytes, which it needs, is not installed. Run `make setup`",
        ),
        (CPU, None, {"optim": "paged_lion_32bit"}, "finetune.sft.optim: paged_lion_32bit needs CUDA"),
        (Machine("cuda", bitsandbytes=False), None, {"optim": "lion_8bit"}, "Expected, here, adamw_torch"),
    ],
)
def test_what_no_setting_can_mend_is_refused(machine: Machine, quantization: dict, sft: dict, message: str) -> None:
    """4 bits without bitsandbytes, and an optimizer that nothing else replaces, with the remedy."""
    with pytest.raises(UserError) as caught:
        settings(machine, quantization, sft)
    assert message in str(caught.value)


HOLDER = """
import sys
from pathlib import Path
from tasks.machine import alone
with alone("gpu", Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_gpu_is_held_by_one_training_at_a_time(tmp_path: Path) -> None:
    """Another process that wants it is told who has it, or waits; when the holder is killed it is free."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT) as holder:
        assert holder.stdout.readline() == b"held\n"
        refused = pytest.raises(UserError, match=rf"training \(process {holder.pid}\) has gpu.*finetune.busy=wait")
        with refused, alone("gpu", tmp_path, "fail"):
            raise AssertionError("two have it")
        with alone("another", tmp_path, "fail"):
            pass
        got = threading.Event()

        def wait() -> None:
            with alone("gpu", tmp_path):
                got.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(0.3)
        holder.kill()
        waiting.join(30)
        assert got.is_set()
    with hold("cpu", 2, tmp_path), hold("cpu", 1, tmp_path, "fail"):
        pass  # a CPU is shared


def test_each_process_needs_a_gpu_of_its_own() -> None:
    """More processes than GPUs are refused; several on a CPU are a trial of the machinery."""
    Machine("cuda", count=2).check_processes(2)
    CPU.check_processes(4)
    with pytest.raises(UserError, match=r"finetune.processes: got 3, but the devices of kind cuda here are 2"):
        Machine("cuda", count=2).check_processes(3)

"""What follows from a machine, for each kind of machine, and who has its GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.config.loading import load
from tasks.errors import UserError
from tasks.models.language.hardware import GIB, Hardware, free_memory, pick_device, settings, use_own_gpu

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
CPU, MPS, OLD = Hardware("cpu"), Hardware("mps"), Hardware("cuda")
RECENT = Hardware("cpu", bf16=True)
GPU = Hardware("cuda", bf16=True, flash_attention=True, liger=True)


@pytest.mark.parametrize(
    ("hardware", "dtype", "attention", "quantized", "sft"),
    [
        (CPU, "float32", "sdpa", True, {"bf16": False, "use_cpu": True, "dataloader_pin_memory": False}),
        (RECENT, "bfloat16", "eager", True, {"bf16": True, "use_cpu": True}),
        (MPS, "float32", "sdpa", False, {"bf16": False, "use_cpu": False, "dataloader_pin_memory": False}),
        (OLD, "float32", "sdpa", True, {"bf16": False, "use_cpu": False, "optim": "paged_adamw_32bit"}),
        (GPU, "bfloat16", "flash_attention_2", True, {"bf16": True, "use_liger_kernel": True}),
    ],
    ids=["CPU", "CPU with bfloat16", "MPS", "GPU without bfloat16", "GPU with everything"],
)
def test_each_machine_takes_what_it_has(
    hardware: Hardware, dtype: str, attention: str, quantized: bool, sft: dict[str, object]
) -> None:
    """bfloat16, the kernels, 4 bits and the paged optimizer where they are there, and nowhere else."""
    plan = settings(hardware, NF4, {"learning_rate": 1e-4})
    assert (plan.dtype, plan.attention, plan.quantization) == (dtype, attention, NF4 if quantized else None)
    assert plan.sft.items() >= {**sft, "learning_rate": 1e-4}.items()
    assert ("optim" in plan.sft) == (hardware.device == "cuda")
    assert bool(plan.notes) == (hardware.device == "mps")


@pytest.mark.parametrize("hardware", [CPU, RECENT, OLD, GPU])
def test_the_conf_can_say_what_is_computed_in(hardware: Hardware) -> None:
    """float32 for answers that are the same on any machine; bfloat16 where the hardware has it unknown to us."""
    for dtype in ("float32", "bfloat16"):
        plan = settings(hardware, NF4, {}, dtype)
        assert (plan.dtype, plan.sft["bf16"]) == (dtype, dtype == "bfloat16")


def test_what_the_conf_says_stands_where_it_can() -> None:
    """Its optimizer on a GPU; where that has no kernels the same one of torch, and the note says so."""
    conf = load("conf/amazon.yaml").finetune
    assert settings(GPU, None, {"optim": "adamw_torch", "bf16": False}).sft.items() >= {"optim": "adamw_torch"}.items()
    assert settings(GPU, conf.quantization, conf.sft).sft["optim"] == "paged_adamw_32bit"
    plan = settings(CPU, conf.quantization, {**conf.sft, "use_liger_kernel": True, "activation_offloading": True})
    assert plan.sft["optim"] == "adamw_torch"
    assert not plan.sft["use_liger_kernel"] and not plan.sft["activation_offloading"]
    computing, optimizer, liger, offloading = plan.notes
    assert "paged_adamw_32bit needs CUDA" in optimizer and "liger" in liger and "needs CUDA" in offloading
    assert computing == (
        "bnb_4bit_compute_dtype is bfloat16, but 4-bit layers compute in float32: cpu has no bfloat16 here"
    )


@pytest.mark.parametrize(
    ("hardware", "dtype", "computing", "said"),
    [
        (CPU, "auto", "float32", "cpu has no bfloat16 here"),
        (OLD, "auto", "float32", "cuda has no bfloat16 here"),
        (GPU, "float32", "float32", "finetune.dtype says so"),
        (CPU, "bfloat16", "bfloat16", None),
        (GPU, "auto", "bfloat16", None),
    ],
)
def test_four_bit_layers_compute_in_what_the_rest_computes_in(
    hardware: Hardware, dtype: str, computing: str, said: str | None
) -> None:
    """bnb_4bit_compute_dtype gives way to finetune.dtype and to what the machine has, and that is said."""
    plan = settings(hardware, {**NF4, "bnb_4bit_compute_dtype": "bfloat16"}, {}, dtype)
    assert plan.quantization["bnb_4bit_compute_dtype"] == plan.dtype == computing
    assert [said in note for note in plan.notes] == ([True] if said else [])


def test_this_machine_is_what_torch_says_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although torch, which takes seconds to import, is not asked where there can be no GPU."""
    import torch

    from tasks.models.language import hardware

    here = Hardware.here()
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    assert here.device == next(name for name, present in there.items() if present)
    if here.device == "cpu":
        has = torch.cpu.get_capabilities()
        assert here.bf16 == bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    with pytest.raises(UserError, match=r"this machine has no (cuda|mps)\. Expected auto or one of"):
        pick_device("mps" if here.device == "cuda" else "cuda")
    monkeypatch.setattr(hardware, "DRIVERS", ("/",))  # a driver is there: torch is asked
    assert Hardware.here() == here


def test_files_that_a_container_read_leave_its_memory_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of 4 GiB 400 MiB are in use; 3 GiB more hold what was read of files, which gives way. Without a limit, and on
    other systems, the machine's memory counts."""
    import psutil

    from tasks.models.language import hardware

    monkeypatch.setattr(hardware, "CONTAINER", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))
    assert free_memory("cpu") == 64 * GIB
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GIB + 400 * 2**20}\n")
    (tmp_path / "memory.stat").write_text(f"anon {400 * 2**20}\nfile {3 * GIB}\ninactive_file {3 * GIB}\nslab 7\n")
    assert free_memory("cpu") == 4 * GIB - 400 * 2**20
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory("cpu") == 64 * GIB


def test_a_process_takes_the_gpu_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded; alone it takes the first, and without a GPU none."""
    import torch

    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    use_own_gpu("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    use_own_gpu("cuda")
    use_own_gpu("cpu")
    assert taken == [0, 1]


@pytest.mark.parametrize(
    ("hardware", "quantization", "sft", "message"),
    [
        (
            Hardware("cpu", bitsandbytes=False),
            NF4,
            {},
            "bitsandbytes, which it needs, is not installed. Run `make setup`",
        ),
        (CPU, None, {"optim": "paged_lion_32bit"}, "finetune.sft.optim: paged_lion_32bit needs CUDA"),
        (Hardware("cuda", bitsandbytes=False), None, {"optim": "lion_8bit"}, "Expected, here, adamw_torch"),
    ],
)
def test_what_no_setting_can_mend_is_refused(hardware: Hardware, quantization: dict, sft: dict, message: str) -> None:
    """4 bits without bitsandbytes, and an optimizer that nothing else replaces, with the remedy."""
    with pytest.raises(UserError) as caught:
        settings(hardware, quantization, sft)
    assert message in str(caught.value)


def test_each_process_needs_a_gpu_of_its_own() -> None:
    """More processes than GPUs are refused; several on a CPU are a trial of the machinery."""
    Hardware("cuda", count=2).check_processes(2)
    CPU.check_processes(4)
    with pytest.raises(UserError, match=r"finetune.processes: got 3, but the devices of kind cuda here are 2"):
        Hardware("cuda", count=2).check_processes(3)

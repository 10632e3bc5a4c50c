"""Fine-tune: QLoRA by TRL's SFTTrainer; every checkpoint is scored by the price it would answer, and kept.

An interrupted training is the same MLflow run when it is started again, and the work folder is named by that run: so it
finds its checkpoints.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.config.experiment import Experiment, Finetune, Prompt
from tasks.data.splits import Dataset
from tasks.digests import code_digest, digest, versions
from tasks.errors import UserError
from tasks.models.language import base_model, encoder
from tasks.models.language.hardware import Hardware, Settings, lock_gpus, settings, use_own_gpu
from tasks.models.language.model import ModelSpec
from tasks.models.language.prompts import TOLD_LIBRARIES
from tasks.models.language.suitability import check_base
from tasks.paths import PROJECT, cache_folder
from tasks.progress import say
from tasks.tracking.runs import WEIGHTS, Candidate, Mode, StageRun
from tasks.tracking.stages import once, stage
from tasks.training.checkpoints import bring, forget_checkpoints
from tasks.training.launch import train_in_processes
from tasks.training.memory import TrainingCost, out_of_memory

# What the stage decides itself, so that a conf cannot ask for two things at once.
OURS = {
    "output_dir": "the stage's run names it",
    "seed": "set `seed` of the experiment",
    "save_strategy": "set finetune.checkpoints",
    "save_steps": "set finetune.checkpoints",
    "save_total_limit": "set finetune.keep",
    "report_to": "the stage logs to MLflow",
    "push_to_hub": "checkpoints are kept in MLflow",
    "task_type": "it is CAUSAL_LM",
    "shuffle_dataset": "set `seed` of the experiment, which shuffles the items",
    "bf16": "set finetune.dtype",
    "use_cpu": "set finetune.device",
    "max_length": "set finetune.prompt.text_tokens",
    **dict.fromkeys(("packing", "padding_free"), "each price is learned behind a prompt of its own"),
    **dict.fromkeys(("completion_only_loss", "assistant_only_loss"), "prices are learned, and nothing else"),
    **dict.fromkeys(("loss_type", "label_smoothing_factor", "router_aux_loss_coef"), "the loss is that of the price"),
    **dict.fromkeys(("eval_strategy", "load_best_model_at_end"), "checkpoints are scored: set finetune.checkpoints"),
    **dict.fromkeys(("save_only_model", "ignore_data_skip"), "an interrupted training goes on where it was"),
}
# What changes nothing that a training leaves behind.
INDIFFERENT: Any = dict.fromkeys(("enabled", "busy", "oversize", "checkpoints_in"), True)
INDIFFERENT |= {"answer": {"batch_tokens"}}
# What checkpoints answer by and on, how they are scored, averaged and kept: their weights are the same in any case.
ASKING: Any = {"answer", "score_items", "average", "patience", "keep", "device", "dtype"}
PATIENT: Any = {"average", "keep", "device", "dtype"}  # of these, what does not decide when patience ends a training
HEAD: Any = {"by", "bins", "rate"}  # of the answer, where a head gives it: it is trained with the weights
ASKING_CODE = frozenset(
    (
        *("tasks.training.candidates", "tasks.models.predictor"),
        *("tasks.models.language.price_distribution", "tasks.models.language.price_trie"),
    )
)
# With patience the answers decide when the training ends; of the scoring this still comes after it.
AFTERWARDS = frozenset(f"tasks.scoring.{module}" for module in ("checkpoint_choice", "comparisons", "wording"))
# What asks for opinions, what finds comparables, and what both need; nothing else in a training does.
OPINIONS_CODE = frozenset(
    (
        "tasks.models.language.opinions",
        *(f"tasks.models.{module}" for module in ("classic", "features", "network", "intervals")),
    )
)
COMPARABLES_CODE = frozenset({"tasks.models.language.retrieval", "tasks.models.language.encoder"})
TOLD_CODE = frozenset(f"tasks.models.{module}" for module in ("terms", "neighbours", "estimator_files"))
LIBRARIES = ("trl", "peft", "accelerate")
NOT_AVERAGED = ("use_dora", "modules_to_save", "bias", "lora_bias", "trainable_token_indices")
CHANGE_BASE = ("pissa", "olora", "corda", "loftq")  # of init_lora_weights: they change the weights of the base model


def finetune(experiment: Experiment, dataset: Dataset, mode: Mode = "reuse") -> list[Candidate]:
    """The checkpoints of the fine-tuned model, each with its step and its validation error.

    Raises:
        UserError: the conf asks for what the libraries or this machine do not have.
    """
    conf = experiment.finetune
    resolved = settings(Hardware.here(conf.device), conf.quantization, conf.sft, conf.dtype)
    weights = weights_digest(experiment, dataset)
    asking = conf.model_dump(mode="json", include=ASKING, exclude={"answer": INDIFFERENT["answer"]})
    code = code_digest("tasks.finetuning", untold(conf))
    key = digest({"stage": "finetune", "weights": weights, "base": conf.base, "conf": asking, "code": code})
    asked = {"conf": conf.model_dump(mode="json", exclude=INDIFFERENT), "data": dataset.digest, "seed": experiment.seed}
    libraries = _libraries(conf) | base_model.base_model_digest_parts(conf)["libraries"]
    means = {"libraries": libraries, "code": code}
    means |= {"computing": f"{resolved.device} in {resolved.dtype}"}
    opened = {"mode": mode, "resume": True, "tags": {WEIGHTS: weights}, "inputs": asked | means}
    with once(weights), stage(experiment, "finetune", key, command="pricewright finetune", **opened) as run:
        if not run.done:
            work = PROJECT / "mlruns" / "work" / run.id
            before = [] if mode == "again" else run.others(WEIGHTS)
            train_checkpoints(run, experiment, dataset, resolved, work, before)
            shutil.rmtree(work, ignore_errors=True)
            forget_checkpoints(run)
        return run.candidates()


def weights_digest(experiment: Experiment, dataset: Dataset) -> str:
    """What names the weights of the checkpoints: all that they depend on, and nothing that only asks or scores them.

    With `finetune.patience` the answers decide when the training ends, so they count.
    """
    conf = experiment.finetune
    patient = conf.patience is not None
    without = AFTERWARDS if patient else {"tasks.scoring", *ASKING_CODE}
    # The base model counts by what it is, and not by where it lies; device and dtype by what they come to, as it does.
    without_conf = INDIFFERENT | dict.fromkeys((*(PATIENT if patient else ASKING), "base"), True)
    head = conf.answer.model_dump(mode="json", include=HEAD) if conf.answer.by == "head" else None
    return digest(
        {
            "conf": conf.model_dump(mode="json", exclude=without_conf | {"prompt": _unspoken(conf.prompt)}),
            "head": head,
            "base": base_model.base_model_digest_parts(conf),
            "encoder": encoder.identity_for(conf.prompt),
            "near": experiment.data.near if conf.prompt.tells_more else None,
            "libraries": _libraries(conf),
            "seed": experiment.seed,
            "dataset": dataset.digest,
            "code": code_digest("tasks.training.trainer", untold(conf) | without),
        }
    )


def _unspoken(prompt: Prompt) -> Any:
    """The keys of a prompt that say how something is told or found which is not told."""
    said = {"similar": prompt.comparables, "opinion": prompt.opinions, "encoder": encoder.asked_for(prompt)}
    return {key for key, told in said.items() if not told}


def _libraries(conf: Finetune) -> dict[str, str | None]:
    return versions(*LIBRARIES, *(TOLD_LIBRARIES if conf.prompt.tells_more else ()))


def untold(conf: Finetune) -> frozenset[str]:
    """The code of what the conf does not have a model told."""
    comparables, opinions = bool(conf.prompt.comparables), bool(conf.prompt.opinions)
    without = (frozenset() if opinions else OPINIONS_CODE) | (frozenset() if comparables else COMPARABLES_CODE)
    if conf.prompt.sizes:
        without -= {"tasks.models.features"}
    return without if conf.prompt.tells_more else without | TOLD_CODE


@task(name="train", cache_policy=NO_CACHE)
def train_checkpoints(
    run: StageRun,
    experiment: Experiment,
    dataset: Dataset,
    resolved: Settings,
    work: Path,
    before: Sequence[StageRun] = (),
) -> None:
    """Train from the last whole checkpoint in `work`, or from the base model; what runs `before` this one trained of
    the same weights is asked and scored again, and not trained.

    Raises:
        UserError: the items do not fit the conf, or the training does not fit this machine.
    """
    from tasks.training.candidates import adapters_needed
    from tasks.training.earlier import ask_again, finished, take_over
    from tasks.training.plan import TrainingPlan
    from tasks.training.trainer import train

    conf, device = experiment.finetune, resolved.device
    params = {"dataset": dataset.digest, "seed": experiment.seed, "device": device, "dtype": resolved.dtype}
    run.log_params({**params, "finetune": conf.model_dump(mode="json")})
    for note in resolved.notes:
        say(note)
    plan = TrainingPlan.of(experiment, dataset, resolved, work)
    cost = TrainingCost.of(conf, resolved, plan.items)
    with lock_gpus(device, conf.processes, cache_folder() / "locks", conf.busy):
        try:
            if (trained := finished(before, adapters_needed(conf))) is not None:
                use_own_gpu(device)
                ask_again(run, plan, trained)
                return
            cost.check(device, conf)
            if conf.checkpoints_in == "store":
                bring(run, work)
            take_over(run, plan, before)
            if conf.processes > 1:
                train_in_processes(run, plan)
            else:
                use_own_gpu(device)
                train(run, plan)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise UserError(cost.exceeded(device, str(error))) from error


def check(experiment: Experiment) -> None:
    """Refuse upstream keys that upstream does not know, with the nearest one that it does, values that it will not
    have, and a base model that cannot be used.

    Raises:
        UserError: there is such a key or value, or a key that the stage sets itself, or such a model.
    """
    base_model.quiet()
    from peft import LoraConfig
    from trl import SFTConfig

    conf = experiment.finetune
    ModelSpec.of(conf)
    hardware = Hardware.here(conf.device)
    resolved = settings(hardware, conf.quantization, conf.sft, conf.dtype)
    hardware.check_processes(conf.processes)
    if conf.answer.by == "head" and conf.processes > 1:
        raise UserError("finetune.answer.by: a head is trained in one process alone. Set finetune.processes=1.")
    for key in NOT_AVERAGED:
        if conf.average and conf.lora.get(key) not in (None, False, "none"):
            raise UserError(
                f"finetune.average: adapters with lora.{key} cannot be averaged. Remove one of the two settings."
            )
    if (how := str(conf.lora.get("init_lora_weights", ""))).startswith(CHANGE_BASE):
        raise UserError(
            f"finetune.lora.init_lora_weights: {how} changes the weights of the base model, on which all checkpoints "
            "are scored. Expected an initialization that leaves them as they are: true or gaussian."
        )
    if how == "orthogonal" and resolved.quantization:
        raise UserError(
            "finetune.lora.init_lora_weights: orthogonal takes weights that are not quantized. Expected true or "
            "gaussian, or finetune.quantization=null."
        )
    for section, values, config in (("sft", conf.sft, SFTConfig), ("lora", conf.lora, LoraConfig)):
        _check_names(f"finetune.{section}", values, [field.name for field in dataclasses.fields(config) if field.init])
        for name, value in values.items():
            number = isinstance(default := getattr(config, name, None), int | float) and not isinstance(default, bool)
            if number and isinstance(value, str):  # the libraries would fail on it much later
                raise UserError(f"finetune.{section}.{name}: expected a number such as {default}, found {value!r}.")
    if conf.quantization:
        from transformers import BitsAndBytesConfig

        names = [name for name in inspect.signature(BitsAndBytesConfig).parameters if name != "kwargs"]
        _check_names("finetune.quantization", conf.quantization, names)
    _check_values(experiment, resolved)


def _check_values(experiment: Experiment, resolved: Settings) -> None:
    """Make what a training is made of but weights and items: whatever refuses its values does so now."""
    from tasks.training.memory import check_adapter
    from tasks.training.plan import lora_config, sft_config

    conf = experiment.finetune
    sft_config(conf, resolved, experiment.seed, conf.train_items or 1, PROJECT / "mlruns" / "work")
    lora_config(conf)
    base_model.loading_options(resolved)
    check_base(conf)
    check_adapter(conf, base_model.load_config(conf.base))


def _check_names(section: str, values: dict[str, Any], names: Iterable[str]) -> None:
    names = list(names)
    for name in values:
        if name in OURS:
            raise UserError(f"{section}.{name} is not for the conf: {OURS[name]}.")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {near[0]}?" if near else "See the fields of the library's config of that name."
            raise UserError(f"{section}.{name}: there is no such key. {hint}")

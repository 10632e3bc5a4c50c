"""The training loop around TRL's SFTTrainer: what is learned, where it resumes, and what becomes of each checkpoint."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset as ArrowDataset
from peft import LoraConfig
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from trl import SFTConfig, SFTTrainer

from tasks.batching import LikeLengths
from tasks.config import Experiment, Finetune
from tasks.digests import folder_digests
from tasks.errors import UserError
from tasks.items import Item
from tasks.losses import NumberLoss
from tasks.predictors.language import LanguageModel
from tasks.progress import Progress
from tasks.prompts import completion, render
from tasks.scoring import score
from tasks.splits import Dataset, read_split, set_apart
from tasks.tracking import STEP, StageRun

WHOLE = "whole.json"
KEEP = 2  # checkpoints on disk: the last, and the one before it in case the last turns out damaged


class PriceTrainer(SFTTrainer):
    """SFTTrainer that computes the head where there is a completion, and tells when a checkpoint is whole."""

    def __init__(
        self,
        *args: Any,
        on_checkpoint: Callable[[int], None],
        number_loss: NumberLoss | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.on_checkpoint, self.number_loss = on_checkpoint, number_loss

    def _get_train_sampler(self, train_dataset: ArrowDataset | None = None) -> Sampler | None:
        """Batches of like length, if they are asked for, in an order that a resumed training finds again; upstream's
        depends on the random state at the start of the epoch."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        return LikeLengths(lengths, self._train_batch_size * self.args.world_size, self.args.data_seed)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross-entropy of the completion tokens, and what the conf adds to it; logits of shape [batch, columns with a
        completion, vocabulary]."""
        labels = inputs["labels"]
        columns = (labels[:, 1:] != -100).any(dim=0).nonzero().squeeze(1)
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
            logits_to_keep=columns,
        )
        targets = labels[:, columns + 1]
        total = F.cross_entropy(
            outputs.logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
        )
        if self.number_loss is not None:
            total = total + self.number_loss(outputs.logits, targets)
        count = (targets != -100).sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / count
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir)
        step = self.state.global_step
        mark_whole(folder / f"checkpoint-{step}")
        for old in sorted(folder.glob("checkpoint-*[0-9]"), key=_step)[:-KEEP]:
            shutil.rmtree(old)
        self.on_checkpoint(step)


class Watch(TrainerCallback):
    """Shows progress, logs the loss, and stops a training whose loss is no number."""

    def __init__(self, run: StageRun) -> None:
        self.run, self.progress = run, None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress = Progress("fine-tuning", state.max_steps, "steps", done=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.update(state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise UserError(
                f"The training loss is {logs['loss']} at step {state.global_step}. Lower finetune.sft.learning_rate, "
                "or set finetune.sft.max_grad_norm."
            )
        metrics = {"train_loss": logs["loss"], "learning_rate": logs.get("learning_rate")}
        self.run.log_metrics(metrics, step=state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.__exit__(None)


class Clock(TrainerCallback):
    """Adds up the seconds that training steps take, scoring left out, over every interruption: the sum is saved with
    each checkpoint, in the log."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.seconds = spent(state)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.seconds += time.perf_counter() - self.start
        if control.should_save:
            state.log_history.append({"step": state.global_step, "spent": self.seconds})


def spent(state: TrainerState) -> float:
    """The seconds of training up to the last checkpoint."""
    return max((entry["spent"] for entry in state.log_history if "spent" in entry), default=0.0)


def train(
    run: StageRun,
    language: LanguageModel,
    items: Sequence[Item],
    validation: Sequence[Item],
    dataset: Dataset,
    experiment: Experiment,
    work: Path,
) -> None:
    """Fine-tune on `items`, from the last whole checkpoint in `work` if there is one; keep and score each checkpoint.

    Raises:
        UserError: the conf asks for impossible settings, the labels are not the prices, or the loss is no number.
    """
    conf, tokenizer = experiment.finetune, language.tokenizer
    prompts = render(items, conf.prompt, tokenizer)
    answers = [completion(item.price, conf.prompt) for item in items]
    examples = ArrowDataset.from_dict({"prompt": prompts, "completion": answers})

    apart = set_apart(read_split(dataset, "validation"), conf.score_items, experiment.seed)
    language.recipe.check_fit(apart)  # before the training, not after its first checkpoint

    def keep(step: int) -> None:
        tuned = LanguageModel(language.recipe, trainer.model, tokenizer).calibrated(apart)
        known = {model.tags[STEP]: model.model_id for model in run.models()}
        model_id = known.get(str(step)) or _log_checkpoint(run, tuned, step, len(items), trainer.state)
        what = f"scoring checkpoint {step}"
        score(
            run,
            model_id,
            validation,
            lambda: tuned.predict(validation, what),
            dataset=dataset,
            split="validation",
            step=step,
        )

    set_seed(experiment.seed)
    trainer = PriceTrainer(
        model=language.model,
        args=_sft_config(conf, experiment.seed, len(items), work, language.model.device.type),
        train_dataset=examples,
        processing_class=tokenizer,
        peft_config=_lora_config(conf),
        callbacks=[Watch(run), Clock()],
        on_checkpoint=keep,
        number_loss=NumberLoss(tokenizer, conf.number_loss, conf.prompt.highest) if conf.number_loss else None,
    )
    trainer.remove_callback(PrinterCallback)
    # TRL turns the adapters of a quantized model into bfloat16, where a step of the optimizer is often too small to be
    # one; in float32 they learn more from the same items. On a GPU autocast computes in bfloat16 all the same.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    check_labels(trainer, answers)
    resume = last_whole_checkpoint(work)
    if resume is not None:
        trainer.add_callback(_KeepOnResume(keep))
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)


class _KeepOnResume(TrainerCallback):
    """Scores the checkpoint that is resumed from, in case the interruption came between its writing and its scoring."""

    def __init__(self, keep: Callable[[int], None]) -> None:
        self.keep = keep

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.keep(state.global_step)


def _log_checkpoint(run: StageRun, tuned: LanguageModel, step: int, n_train: int, state: TrainerState) -> str:
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    params = {"n_train": n_train, "fit_seconds": f"{spent(state):.3f}"}
    candidate = run.log_model(tuned.save, "finetuned", "finetuned", step=step, params=params)
    run.log_metrics({"train_loss": losses[-1] if losses else None}, step=step, model_id=candidate.model_id)
    return candidate.model_id


def _lora_config(conf: Finetune) -> LoraConfig:
    try:
        return LoraConfig(task_type="CAUSAL_LM", **conf.lora)
    except (TypeError, ValueError) as error:
        raise UserError(f"finetune.lora: {error}") from error


def _sft_config(conf: Finetune, seed: int, n_items: int, work: Path, device: str) -> SFTConfig:
    """The conf's `sft` with what the stage decides: folders, seeds, and checkpoints evenly spaced to the last step."""
    half = device == "cuda" and torch.cuda.is_bf16_supported()
    ours = {"output_dir": str(work), "seed": seed, "data_seed": seed, "report_to": "none", "save_strategy": "steps"}
    machine = {"bf16": half, "use_cpu": device == "cpu", "dataloader_pin_memory": device == "cuda"}
    quiet = {"disable_tqdm": True, "logging_steps": 5, "train_sampling_strategy": "group_by_length"}
    lengths = {"max_length": None, "completion_only_loss": True}  # prompts are cut where they are made
    try:
        config = SFTConfig(**{**machine, **quiet, **lengths, **conf.sft, **ours})
    except (TypeError, ValueError) as error:
        raise UserError(f"finetune.sft: {error}") from error
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    total = config.max_steps
    if total <= 0:
        total = math.ceil(math.ceil(n_items / batch) * config.num_train_epochs)
    config.save_steps = max(1, math.ceil(total / conf.checkpoints))
    return config


def check_labels(trainer: SFTTrainer, answers: Sequence[str]) -> None:
    """Refuse to train if what the loss is taken on, decoded, is not the price: masks have been wrong after upgrades.

    Raises:
        UserError: an example's labels are something else, or it does not fit into the model's context.
    """
    tokenizer = trainer.processing_class
    context = getattr(trainer.model.config, "max_position_embeddings", None)
    for index, answer in enumerate(answers):
        example = trainer.train_dataset[index]
        if context and len(example["input_ids"]) > context:
            raise UserError(
                f"A prompt of {len(example['input_ids'])} tokens exceeds the model's context of {context}. Lower "
                "finetune.prompt.text_tokens."
            )
        if index < 100:
            learned = tokenizer.decode(
                [token for token in example["labels"] if token != -100], skip_special_tokens=True
            )
            if learned != answer:
                raise UserError(f"The labels of a training example say {learned!r}, but its price is {answer!r}.")


def mark_whole(checkpoint: Path) -> None:
    """Note the digests of a checkpoint's files, last of all, so that one cut short is recognised."""
    noted = json.dumps(folder_digests(checkpoint))
    temporary = checkpoint.with_suffix(".part")
    temporary.write_text(noted, encoding="utf-8")
    temporary.rename(checkpoint / WHOLE)


def last_whole_checkpoint(work: Path) -> Path | None:
    """The latest checkpoint whose files are all as they were written; later ones that are not are removed."""
    for checkpoint in sorted(work.glob("checkpoint-*[0-9]"), key=_step, reverse=True):
        if _is_whole(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        noted = json.loads((checkpoint / WHOLE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    found = folder_digests(checkpoint)
    return {name: value for name, value in found.items() if name != WHOLE} == noted


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])

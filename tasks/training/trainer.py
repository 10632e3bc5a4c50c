"""The training loop around TRL's SFTTrainer: what is learned, where it resumes, and what becomes of each checkpoint."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from datasets import Dataset as ArrowDataset
from peft import PeftModel
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from trl import SFTTrainer

from tasks.data.items import Item
from tasks.errors import UserError
from tasks.models.language.model import LanguageModel
from tasks.models.language.price_head import PriceHead, last_states
from tasks.models.language.prompts import completion
from tasks.progress import Progress
from tasks.tracking.runs import StageRun
from tasks.training.batching import LikeLengths, pays
from tasks.training.candidates import Candidates
from tasks.training.checkpoints import Interruption, finish_checkpoint, keep_in_store, last_whole_checkpoint
from tasks.training.head_lesson import HeadLesson
from tasks.training.plan import TrainingPlan

CHECKED = 100  # examples whose labels are looked at before anything is learned
ROW = "row"  # of an example: which of the training items it is


class PriceTrainer(SFTTrainer):
    """SFTTrainer that computes the layer over the vocabulary where there is a completion, or a price head in its place,
    and tells when a checkpoint is whole."""

    def __init__(
        self,
        *args: Any,
        items: Sequence[Item],
        lesson: HeadLesson | None = None,
        on_checkpoint: Callable[[int], None],
        interruption: Interruption,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.items, self.lesson, self.on_checkpoint, self.interruption = items, lesson, on_checkpoint, interruption
        if lesson is not None:  # its loss is the mean of a batch, whatever the model's own would be
            self.loss_is_scaled_for_ga = False
        self.copy: Callable[[Path], None] | None = None  # keeps a checkpoint elsewhere too
        self.data_collator = _WithRows(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if ROW not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, ROW]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Upstream's, and the head at a rate of its own."""
        optimizer = super().create_optimizer(model)
        if self.lesson is not None and len(optimizer.param_groups) < 3:
            # A head that is told nothing has an empty one, on which bitsandbytes' kernels fail.
            parameters = [parameter for parameter in self.lesson.head.parameters() if parameter.numel()]
            optimizer.add_param_group({"params": parameters, "lr": self.lesson.rate, "weight_decay": 0.0})
        return optimizer

    def _get_train_sampler(self, train_dataset: ArrowDataset | None = None) -> Sampler | None:
        """Batches of like length, where they are asked for and pay, in an order that a resumed training finds again;
        upstream's depends on the random state at the start of the epoch."""
        if self.args.train_sampling_strategy == "group_by_length":
            lengths, batch = _lengths(self.train_dataset), self._train_batch_size
            if pays(lengths, batch):
                return LikeLengths(lengths, batch * self.args.world_size, self.args.data_seed)
            self.args.train_sampling_strategy = "random"  # otherwise upstream sorts them in its way
        return super()._get_train_sampler(train_dataset)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One batch forward and back.

        Raises:
            UserError: its loss is no number; the message names the step and the items of the batch.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        # Looked at here: what transformers logs in place of such a loss is the mean of those before it.
        if not torch.isfinite(loss):
            shown = ", ".join(self.items[row].id for row in inputs[ROW].tolist())
            raise UserError(
                f"The training loss is {loss.item()} at step {self.state.global_step + 1}, of the items {shown}. Lower "
                "finetune.sft.learning_rate, set finetune.sft.max_grad_norm (0.3, say), or look at these items."
            )
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross-entropy of the completion tokens, with logits of shape [batch, columns with a completion, vocabulary];
        or that of the head, on the state from which the first of them would be written."""
        labels = inputs["labels"]
        if self.lesson is not None:
            last = (labels != -100).int().argmax(dim=1) - 1
            with self.accelerator.autocast():
                states = last_states(model, inputs["input_ids"], inputs["attention_mask"], last)
            loss = self.lesson.loss(states, inputs[ROW]).mean()
            return (loss, None) if return_outputs else loss
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
        count = (targets != -100).sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / count
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        step = self.state.global_step
        if self.lesson is not None:
            self.lesson.head.save(Path(self.args.output_dir) / f"checkpoint-{step}")
        self.accelerator.wait_for_everyone()  # each process has saved its random state
        if self.is_world_process_zero():
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{step}"
            finish_checkpoint(checkpoint)
            if self.copy:
                self.copy(checkpoint)
        self.interruption.saved()
        self.on_checkpoint(step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.lesson is not None:
            kept = PriceHead.load(Path(resume_from_checkpoint))
            self.lesson.head.load_state_dict(kept.state_dict())

    def agreed(self, said: bool) -> bool:
        """Whether any of the processes says so."""
        if self.accelerator.num_processes == 1:
            return said
        votes = self.accelerator.reduce(torch.tensor(float(said), device=self.accelerator.device), reduction="sum")
        return bool(votes.item())


class _WithRows:
    """Upstream's collator; the batch tells as well which training items it is made of."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        rows = torch.tensor([example[ROW] for example in examples])
        return {**self.collate(examples), ROW: rows}


def _lengths(examples: ArrowDataset) -> list[int]:
    """How many tokens each example has, without making Python numbers of all of them."""
    columns = examples.with_format("arrow").iter(batch_size=10_000)
    return [length for part in columns for length in pc.list_value_length(part["input_ids"]).to_pylist()]


class Watch(TrainerCallback):
    """Shows progress and logs the loss. The training stands within it: of one that fails upstream tells no end."""

    def __init__(self, run: StageRun) -> None:
        self.run, self.progress = run, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.progress is not None:
            self.progress.__exit__(*raised)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress = Progress("fine-tuning", state.max_steps, "steps", done=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.update(state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **_: Any
    ) -> None:
        if "loss" in logs:
            metrics = {"train_loss": logs["loss"], "learning_rate": logs.get("learning_rate")}
            self.run.log_metrics(metrics, step=state.global_step)


class Postpone(TrainerCallback):
    """Saves a checkpoint at the end of a step in which the training was told to leave."""

    def __init__(self, interruption: Interruption, agreed: Callable[[bool], bool]) -> None:
        self.interruption, self.agreed = interruption, agreed

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.interruption.unsaved = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.agreed(self.interruption.asked is not None):
            self.interruption.asked = self.interruption.asked or signal.SIGTERM
            control.should_save = True


class ZeroHeadGradients(TrainerCallback):
    """Sets the gradients of the head to zero before each step: upstream does so only for those of the model."""

    def __init__(self, lesson: HeadLesson) -> None:
        self.lesson = lesson

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.lesson.head.zero_grad()


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


def train(run: StageRun | None, plan: TrainingPlan) -> None:
    """Fine-tune in this process, from the last whole checkpoint in the plan's folder if there is one; keep and score
    each checkpoint.

    Of several processes only the first has a `run`: it logs, saves and scores for all.

    Raises:
        UserError: the labels are not the prices, or the loss is no number.
    """
    language = plan.load()
    candidates = Candidates(run, plan) if run else None
    if candidates:
        language.spec.check_fit(candidates.calibration)  # before the training, not after its first checkpoint
    interruption = Interruption()

    def keep(step: int) -> None:
        if step % trainer.args.save_steps and step < trainer.state.max_steps:
            return  # saved because of an interruption: it would make the choice depend on when that came
        enough = False
        if candidates:
            losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            tuned = LanguageModel(language.spec, trainer.model, language.tokenizer, language.head)
            with attending(trainer.model, "sdpa"):
                candidates.add(tuned, step, losses, spent(trainer.state))
            enough = candidates.exhausted(step)
        if trainer.agreed(enough):
            trainer.control.should_training_stop = True

    trainer = make_trainer(plan, language, keep, interruption)
    with trainer.accelerator.main_process_first():  # it removes what is not whole
        resume = last_whole_checkpoint(Path(plan.arguments.output_dir))
    if resume is not None:
        trainer.add_callback(_KeepOnResume(keep))
    with contextlib.ExitStack() as around:
        if run:
            trainer.add_callback(around.enter_context(Watch(run)))  # after what may end it before its first step
            if plan.conf.checkpoints_in == "store":
                trainer.copy = partial(keep_in_store, run)
        around.enter_context(interruption.postponed())
        around.enter_context(contextlib.suppress(_EnoughError))
        around.enter_context(attending(trainer.model, plan.settings.attention))
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if candidates is None:
        return
    if plan.conf.average:
        language.model = trainer.model.unload()
        candidates.average(language.with_adapter)
    candidates.conclude()


def make_trainer(
    plan: TrainingPlan, language: LanguageModel, keep: Callable[[int], None], interruption: Interruption
) -> PriceTrainer:
    """The trainer of a plan, ready to start; `keep` is called with the step of every checkpoint.

    Raises:
        UserError: the labels are not the prices.
    """
    answers = [completion(item.known_price, plan.conf.prompt) for item in plan.items]
    set_seed(plan.experiment.seed)
    by_head = plan.conf.answer.by == "head"
    told = language.spec.told(plan.items, plan.conf.prompt) if by_head else None
    texts = language.texts(plan.items, told)
    lesson = HeadLesson.of(plan, language, told, texts) if told is not None else None
    examples = {"prompt": texts, "completion": answers, ROW: range(len(answers))}
    trainer = PriceTrainer(
        model=language.model,
        args=plan.arguments,
        train_dataset=ArrowDataset.from_dict(examples),
        processing_class=language.tokenizer,
        peft_config=plan.lora,
        items=plan.items,
        lesson=lesson,
        on_checkpoint=keep,
        interruption=interruption,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Postpone(interruption, trainer.agreed))
    trainer.add_callback(Clock())
    if lesson is not None:
        trainer.add_callback(ZeroHeadGradients(lesson))
    # TRL turns the adapters of a quantized model into bfloat16, where a step of the optimizer is often too small to be
    # one; in float32 they learn more from the same items. On a GPU autocast computes in bfloat16 all the same.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    check_labels(trainer, answers, language.tokenizer(texts[:CHECKED])["input_ids"])
    return trainer


@contextlib.contextmanager
def attending(model: PeftModel, attention: str) -> Iterator[None]:
    """Another kernel of attention inside, if the model has it: what trains fastest may not take the tree mask, with
    which prices are scored, or not score fastest."""
    inner = model.get_base_model()
    before = inner.config._attn_implementation
    if not {"sdpa": inner._supports_sdpa, "flash_attention_2": inner._supports_flash_attn, "eager": True}[attention]:
        attention = before
    if attention != before:
        inner.set_attn_implementation(attention)
    try:
        yield
    finally:
        if attention != before:
            inner.set_attn_implementation(before)


class _EnoughError(Exception):
    """The checkpoint that is resumed from was the last one: of all, or that patience allows."""


class _KeepOnResume(TrainerCallback):
    """Scores the checkpoint that is resumed from, in case the interruption came between its writing and its scoring."""

    def __init__(self, keep: Callable[[int], None]) -> None:
        self.keep = keep

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.keep(state.global_step)
        # The loop would take one more step before it looks: from the last step too, where that ends no epoch.
        if control.should_training_stop or state.global_step >= state.max_steps:
            raise _EnoughError


def check_labels(trainer: SFTTrainer, answers: Sequence[str], prompts: Sequence[list[int]]) -> None:
    """Refuse to train if what the loss is taken on, decoded, is not the price, or does not stand behind the prompt that
    the model is asked with: masks have been wrong after upgrades.

    Raises:
        UserError: an example's labels or its prompt are something else.
    """
    tokenizer = trainer.processing_class
    for index, (answer, prompt) in enumerate(zip(answers, prompts, strict=False)):
        example = trainer.train_dataset[index]
        labels = example["labels"]
        learned = tokenizer.decode([token for token in labels if token != -100], skip_special_tokens=True)
        if learned != answer:
            raise UserError(f"The labels of a training example say {learned!r}, but its price is {answer!r}.")
        before = example["input_ids"][: next(place for place, token in enumerate(labels) if token != -100)]
        if before != prompt:
            raise UserError(
                f"A price is learned behind the tokens {tokenizer.decode(before)!r}, but would be asked for behind "
                f"{tokenizer.decode(prompt)!r}. Expected the same: take a base model with another tokenizer."
            )

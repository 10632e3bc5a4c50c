"""What becomes of a training's checkpoints: each is logged, scored on validation and compared; the best are kept.

Every checkpoint keeps its predictions and figures, so that the curve is whole and the choice can be made again. The
adapters of those that are not worth keeping go: a LoggedModel without a model remains.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.config.experiment import Finetune
from tasks.models.language.model import LanguageModel
from tasks.models.language.price_head import mean_head
from tasks.models.predictor import Predictions
from tasks.progress import say
from tasks.scoring.checkpoint_choice import choice, chosen, curve, curve_table, runner_up
from tasks.scoring.metrics import absolute_error
from tasks.scoring.predictions import recall, score
from tasks.scoring.roles import Roles, mean_error, selection_key
from tasks.tracking.runs import REASON, StageRun
from tasks.tracking.store import model_folder
from tasks.training.plan import TrainingPlan

ADAPTER = "adapter_model.safetensors"


def adapters_needed(conf: Finetune) -> int | None:
    """How many of the best adapters are needed until a training ends, those that it averages too; None: all of them."""
    return None if conf.keep is None else max(conf.keep, conf.average or 0)


class Candidates:
    """The checkpoints of one training, by step, as far as they are scored."""

    def __init__(self, run: StageRun, plan: TrainingPlan) -> None:
        self.run, self.dataset, self.conf = run, plan.dataset, plan.conf
        self.judged: dict[str, Any] = {"seed": plan.experiment.seed, "resamples": plan.experiment.evaluate.resamples}
        self.n_train, self.unit = len(plan.items), plan.experiment.data.unit
        roles = Roles.of(plan.experiment, plan.dataset)
        self.validation, self.calibration = roles.first, roles.temperature
        self.truth = np.array([item.price for item in self.validation])
        self.models = {model.step: model.model_id for model in run.candidates() if model.step is not None}
        kept = {step: self.recall(model_id) for step, model_id in self.models.items()}
        self.answers = {step: answer for step, answer in kept.items() if answer is not None}

    def add(self, tuned: LanguageModel, step: int, losses: Sequence[float], seconds: float) -> None:
        """Log and score the checkpoint of a step, as far as it is not yet; then let go of what is not worth keeping."""
        if step not in self.answers:
            tuned = tuned.calibrated(self.calibration)
            if step not in self.models:
                params = {"n_train": self.n_train, "fit_seconds": f"{seconds:.3f}"}
                model = self.run.log_model(tuned.save, "finetuned", "finetuned", step=step, params=params)
                self.models[step] = model.model_id
                loss = losses[-1] if losses else None
                self.run.log_metrics({"train_loss": loss}, step=step, model_id=model.model_id)
            self.answers[step] = self.score(tuned, self.models[step], step)
        self._drop(step, adapters_needed(self.conf))

    def recall(self, model_id: str) -> Predictions | None:
        """The answers of a candidate on validation, if it gave them before."""
        return recall(self.run, model_id, "validation", self.validation)

    def score(self, tuned: LanguageModel, model_id: str, step: int | None) -> Predictions:
        """The answers of a candidate on validation, kept with it."""
        what = "scoring the mean" if step is None else f"scoring checkpoint {step}"
        return score(
            self.run,
            model_id,
            self.validation,
            lambda: tuned.predict(self.validation, what),
            dataset=self.dataset,
            split="validation",
            step=step or 0,
            **self.judged,
        )

    def best(self, until: float = math.inf) -> list[int]:
        """The steps scored so far, best first: more items answered, then a lower error, then the earlier."""
        return sorted((step for step in self.answers if step <= until), key=lambda step: (*self._key(step), step))

    def _key(self, step: int) -> tuple[int, float]:
        errors = absolute_error(self.truth, self.answers[step].price)
        return selection_key(int((~np.isnan(errors)).sum()), mean_error(errors))

    def exhausted(self, step: int) -> bool:
        """Whether `finetune.patience` is at its end: so many checkpoints, up to this one, came after the best."""
        best = self.best(until=step)[0]
        since = sum(best < other <= step for other in self.answers)
        return self.conf.patience is not None and since >= self.conf.patience

    def _drop(self, last: int, most: int | None) -> None:
        """Let go of the adapters that are neither among so many best nor the last; of none if `most` is None."""
        if most is not None:
            for step in self.best(until=last)[most:]:
                if step != last:
                    self.run.drop_model(self.models[step])

    def average(self, load: Callable[[Path], LanguageModel]) -> None:
        """Make one more candidate of the `finetune.average` best checkpoints: the mean of their adapters."""
        steps = sorted(self.best()[: self.conf.average])
        if len(steps) < 2:
            return
        reason = f"the mean of the adapters of steps {', '.join(map(str, steps))}"
        known = [model.model_id for model in self.run.candidates() if model.reason == reason]
        if known and self.recall(known[0]) is not None:
            return
        with tempfile.TemporaryDirectory() as folder:
            adapters = [model_folder(self.run.client, self.models[step]) / "adapter" for step in steps]
            mean_adapter(adapters, Path(folder))
            if self.conf.answer.by == "head":
                mean_head(adapters, Path(folder))
            tuned = load(Path(folder)).calibrated(self.calibration)
        if not known:
            trained = self.run.client.get_logged_model(self.models[steps[-1]]).params
            params = {key: trained[key] for key in ("n_train", "fit_seconds")}
            logged = self.run.log_model(tuned.save, "finetuned", "finetuned", tags={REASON: reason}, params=params)
            known = [logged.model_id]
        self.score(tuned, known[0], None)

    def conclude(self) -> None:
        """Write down with the run which candidate is best on validation, and by how much; drop what is not kept."""
        if not self.answers:
            return
        self._drop(max(self.answers), self.conf.keep)
        candidates = self.run.candidates()
        kept = {model.model_id: self.recall(model.model_id) for model in candidates}
        answers = {model_id: answer for model_id, answer in kept.items() if answer is not None}
        checkpoints = curve(candidates, answers, self.truth, **self.judged)
        best, following = chosen(checkpoints), runner_up(checkpoints)
        figures = {f"chosen_{key}": getattr(best, key) for key in ("step", "mae", "mae_low", "mae_high")}
        if following:
            differences = ("step", "mae", "difference", "difference_low", "difference_high")
            figures |= {f"runner_up_{key}": getattr(following, key) for key in differences}
        self.run.log_metrics(figures)
        self.run.log_choice(best.model_id, best.label)
        sentence = choice(checkpoints, self.unit)
        self.run.describe(f"**{sentence}**\n\n{curve_table(checkpoints, self.unit)}")
        say(sentence)


def mean_adapter(adapters: Sequence[Path], folder: Path) -> None:
    """Write the LoRA adapter whose effect on every layer is the mean of the effects of these.

    The factors stand side by side, [B1 B2] [A1; A2] = B1 A1 + B2 A2, so it is exact: the model is the mean of the tuned
    models' weights (a model soup, arXiv 2203.05482; along one training, arXiv 1803.05407). The mean of the A and of the
    B by themselves would be another model, with products of one checkpoint's A and another's B in it. The price is a
    rank that is as many times higher, until the adapter is merged.
    """
    from safetensors.numpy import load_file, save_file

    several = [load_file(adapter / ADAPTER) for adapter in adapters]
    joined = {}
    for name in several[0]:
        axis = 0 if "lora_A" in name or "lora_embedding_A" in name else 1
        joined[name] = np.concatenate([tensors[name] for tensors in several], axis=axis)
    save_file(joined, folder / ADAPTER, metadata={"format": "pt"})
    config, k = json.loads((adapters[0] / "adapter_config.json").read_text(encoding="utf-8")), len(adapters)
    # An adapter is scaled by alpha / r, or alpha / sqrt(r): of a rank k times higher that must become a kth.
    shrink = math.sqrt(k) if config.get("use_rslora") else 1
    config["r"], config["lora_alpha"] = k * config["r"], config["lora_alpha"] / shrink
    config["rank_pattern"] = {name: k * rank for name, rank in config["rank_pattern"].items()}
    config["alpha_pattern"] = {name: alpha / shrink for name, alpha in config["alpha_pattern"].items()}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")

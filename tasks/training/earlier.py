"""What an earlier run trained of the same weights: it is asked and scored as the conf says now, and not trained again.

Each checkpoint becomes a LoggedModel of the new run, with the old adapter and the new way to answer, so that whatever
is loaded answers as its own run says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.models.language.model import LanguageModel
from tasks.paths import PROJECT
from tasks.progress import say
from tasks.tracking.runs import TRAINED_IN, StageRun
from tasks.tracking.store import model_folder
from tasks.training.candidates import Candidates, adapters_needed
from tasks.training.plan import TrainingPlan


def finished(before: Sequence[StageRun], needed: int | None) -> StageRun | None:
    """A run that ended with the same weights, all files of which are as they were, and that kept as many adapters as
    are `needed` now; None if there is none."""
    found = next((run for run in before if run.done and keeps(run, needed) and run.intact()), None)
    if found is None and any(run.done and not keeps(run, needed) for run in before):
        say("These weights were trained before, but finetune.keep deleted adapters that are asked for now.")
    return found


def keeps(earlier: StageRun, needed: int | None) -> bool:
    """Whether an earlier run kept the best adapters, so many or (None) all of them, as far as it came."""
    keep, average = (earlier.run.data.params.get(f"finetune.{key}", "None") for key in ("keep", "average"))
    if keep == "None":
        return True
    # Those that are averaged are kept until the mean is made.
    kept = int(keep) if earlier.done or average == "None" else max(int(keep), int(average))
    return needed is not None and needed <= kept


def ask_again(run: StageRun, plan: TrainingPlan, earlier: StageRun) -> None:
    """Score every checkpoint of a finished training whose adapter was kept, and choose among them."""
    say("These weights are trained already: their checkpoints are asked and scored again.")
    candidates, language = Candidates(run, plan), plan.load()
    _ask(candidates, language, earlier)
    if plan.conf.average:
        candidates.average(language.with_adapter)
    candidates.conclude()


def take_over(run: StageRun, plan: TrainingPlan, before: Sequence[StageRun]) -> None:
    """Go on where a training of the same weights was interrupted before it was to be asked otherwise, if its work
    folder is here."""
    work = Path(plan.arguments.output_dir)
    # With patience it counts how many checkpoints came after the best, those that are gone too.
    needed = adapters_needed(plan.conf) if plan.conf.patience is None else None
    for earlier in before:
        left = PROJECT / "mlruns" / "work" / earlier.id
        if not earlier.done and left.is_dir() and not work.exists() and keeps(earlier, needed):
            # The folder last: whoever is killed before has it to do once more, and asks what was not asked yet.
            _ask(Candidates(run, plan), plan.load(), earlier)
            left.rename(work)


def _ask(candidates: Candidates, language: LanguageModel, earlier: StageRun) -> None:
    """Log and score the checkpoints of an earlier run, one after the other on one base model."""
    run = candidates.run
    language.spec.check_fit(candidates.calibration)
    run.client.set_tag(run.id, TRAINED_IN, earlier.id)
    steps = {entry.step: entry.model_id for entry in earlier.candidates() if entry.step is not None}
    for step, model_id in sorted(steps.items()):
        try:
            adapter = model_folder(run.client, model_id) / "adapter"
        except FileNotFoundError:  # it was not worth keeping
            continue
        logged = run.client.get_logged_model(model_id)
        losses = [metric.value for metric in logged.metrics or [] if metric.key == "train_loss"]
        tuned = language.with_adapter(adapter)
        candidates.add(tuned, step, losses, float(logged.params["fit_seconds"]))
        tuned.model.unload()

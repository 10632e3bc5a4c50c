"""What an evaluation keeps in MLflow: by it alone, the leaderboard and the promotion can be made again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from tasks.config.experiment import Experiment
from tasks.data.splits import Dataset
from tasks.scoring.checkpoint_choice import Checkpoint
from tasks.scoring.rows import Row
from tasks.tracking.reading import reader
from tasks.tracking.runs import StageRun
from tasks.tracking.stages import whole_splits
from tasks.tracking.store import connect

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

FILE, PREDICTIONS = "leaderboard.json", "predictions.parquet"


@dataclass(frozen=True)
class Record:
    """The rows and the validation curve of an evaluation; `validation` is the estimated error of each model in dollars,
    `by_role` the same for the items of one role, `first` or `selection`.

    `challenger` and `best_checkpoint` are ids of LoggedModels. `unfinished` names the rows whose answers another try
    may complete. `provenance` says what it takes to make the same figures again.
    """

    rows: list[Row]
    curve: list[Checkpoint]
    validation: dict[str, float]
    challenger: str | None
    best_checkpoint: str | None
    dataset: Dataset
    source: str
    provenance: dict[str, str]
    unfinished: list[str]
    by_role: dict[str, dict[str, float]] = field(default_factory=dict)  # records of before have none

    def keep(self, run: StageRun) -> None:
        """Write it with the run of its evaluation."""
        lists = {"rows": [row.to_json() for row in self.rows], "curve": [vars(one) for one in self.curve]}
        run.log_json({**vars(self), **lists, "dataset": vars(self.dataset)}, FILE)

    @classmethod
    def read(cls, run: StageRun) -> Self:
        """Read what `keep` wrote.

        Raises:
            FileNotFoundError: it is gone.
        """
        kept: dict[str, Any] = run.read_json(FILE)
        kept["rows"] = [Row.from_json(row) for row in kept["rows"]]
        kept["curve"] = [Checkpoint(**one) for one in kept["curve"]]
        kept["dataset"] = Dataset(**kept["dataset"])
        return cls(**kept)

    def whole_dataset(self, experiment: Experiment) -> Dataset:
        """The dataset of the evaluation, where it lies now: splits that were damaged and made again lie elsewhere."""
        return replace(self.dataset, path=whole_splits(experiment, self.dataset.digest) or self.dataset.path)


def open_run(experiment: Experiment, run_id: str) -> StageRun:
    """The finished run of an evaluation."""
    client = connect(experiment)
    return StageRun(client, client.get_run(run_id), "evaluate", done=True)


def read_run(experiment: Experiment, run_id: str) -> StageRun:
    """The finished run of an evaluation, for whoever only reads its artifacts."""
    client: Any = reader(experiment)
    return StageRun(client, client.get_run(run_id), "evaluate", done=True)


def read_predictions(run: StageRun) -> pd.DataFrame:
    """Every test prediction of an evaluation, as `predictions_table` made them.

    Raises:
        FileNotFoundError: they are gone.
    """
    import pyarrow.parquet as pq

    return pq.read_table(run.artifact(PREDICTIONS)).to_pandas()


def products(predictions: pd.DataFrame, ids: Sequence[str]) -> np.ndarray | None:
    """The number of the product [n] that each test item with these ids is of; None where none are variants."""
    if "product" not in predictions:
        return None
    return predictions.drop_duplicates("id").set_index("id")["product"].loc[list(ids)].factorize()[0]

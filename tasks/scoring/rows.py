"""The leaderboard's row, and the table of every test prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from tasks.data.items import Item
from tasks.models.predictor import Predictions
from tasks.scoring.comparisons import FLOOR, Figures, Standing
from tasks.tracking.runs import SERVABLE, Candidate, StageRun
from tasks.tracking.store import listing, model_address

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel

SPENT = ("input_tokens", "output_tokens", "cost")  # on the answers of an API, the cost in dollars
MARKS = ("champion", "challenger", "best_checkpoint")  # aliases of the registered model


@dataclass(frozen=True)
class Row(Standing):
    """One model on the leaderboard. What has no value is None; a row without `mae` did not run, and `reason` says why.

    Errors are in dollars, `fit_seconds` in seconds, `predict_ms` in milliseconds an item, `size_mb` in megabytes.
    `figures` holds every further number that was measured, by its name: the other METRICS, the comparison with a
    person, what an API charged.
    """

    model: str
    kind: str
    model_id: str = ""
    step: int | None = None
    status: str = "ran"
    reason: str | None = None
    split: str = "test"
    rank: int | None = None
    n: int | None = None
    n_train: int | None = None
    mae: float | None = None
    fit_seconds: float | None = None
    predict_ms: float | None = None
    size_mb: float | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    champion: bool = False
    challenger: bool = False
    best_checkpoint: bool = False

    @property
    def label(self) -> str:
        """The model's name, with the step of a checkpoint."""
        return self.model if self.step is None else f"{self.model} step {self.step}"

    @property
    def leads(self) -> bool:
        """Whether it is the row that all others were compared with."""
        return self.rank == 1 and self.p_value is None

    @property
    def ours(self) -> bool:
        """Whether it is a model of this pipeline, which can be loaded and served."""
        return self.kind in SERVABLE

    def number(self, key: str) -> float | None:
        """A number of the row, by the name it has in JSON."""
        value = getattr(self, key) if key in NUMBERS else self.figures.get(key)
        return None if value is None else float(value)

    def to_json(self) -> dict[str, Any]:
        """The row as one flat object; its first keys are the contract of `leaderboard --json`."""
        flat = {key: value for key, value in vars(self).items() if key != "figures"} | dict(self.figures)
        return {key: flat.get(key) for key in dict.fromkeys((*CONTRACT, *flat))}

    @classmethod
    def from_json(cls, flat: Mapping[str, Any]) -> Self:
        """Read what `to_json` made."""
        known = {key: value for key, value in flat.items() if key in FIELDS}
        return cls(**known, figures={key: value for key, value in flat.items() if key not in FIELDS})

    def measured(self, figures: Figures) -> Self:
        """The row with the figures of its answers."""
        named = {key: value for key, value in vars(figures).items() if key != "metrics"}
        others = {key: value for key, value in figures.metrics.items() if key != "mae"}
        return dataclasses.replace(self, **named, mae=figures.mae, figures={**self.figures, **others})

    def beside(self, others: Mapping[str, float | None]) -> Self:
        """The row with further figures."""
        return dataclasses.replace(self, figures={**self.figures, **others})


FIELDS = {known.name for known in dataclasses.fields(Row)} - {"figures"}
NUMBERS = FIELDS - {"model", "kind", "model_id", "status", "reason", "split", *MARKS}
CONTRACT = (
    *("rank", "model", "kind", "step", "status", "reason", "n", "n_train", "mae", "mae_low", "mae_high", "median_ae"),
    *("rmse", "rmsle", "r2", "hits", "difference", "difference_low", "difference_high", "p_value", "split"),
    *("champion", "best_checkpoint", "fit_seconds", "predict_ms", "size_mb"),
)


def row_of(
    run: StageRun, entry: Candidate, figures: Figures | None, machine_per_hour: float | None, dataset: str
) -> Row:
    """The row of a model for the dataset with this digest, before the registry's marks are put on it.

    `machine_per_hour` is what an hour of this machine costs in dollars.
    """
    model = run.client.get_logged_model(entry.model_id)
    params, metric = model.params or {}, partial(last_metric, model, dataset=dataset)
    seconds = metric("test_seconds_per_1000") if entry.kind != FLOOR else None
    hourly = seconds and machine_per_hour and seconds / 3600 * machine_per_hour
    cost = metric("test_cost_per_1000")
    spent = {key: value for key in SPENT if (value := metric(f"test_{key}")) is not None}
    row = Row(
        model=entry.name,
        kind=entry.kind,
        model_id=entry.model_id,
        step=entry.step,
        status=entry.status,
        reason=entry.reason,
        n_train=int(params["n_train"]) if "n_train" in params else None,
        fit_seconds=float(params["fit_seconds"]) if "fit_seconds" in params else None,
        predict_ms=seconds,  # milliseconds an item takes are the seconds a thousand take
        size_mb=_size(run, entry),
        figures={"cost_per_1000": hourly if cost is None else cost, **spent},
    )
    return row if figures is None else row.measured(figures)


def last_metric(model: LoggedModel, key: str, dataset: str | None = None) -> float | None:
    """The value of a metric that was logged last, since a LoggedModel keeps all values; one that was measured on the
    dataset with this digest comes before any other."""
    points = [point for point in model.metrics or [] if point.key == key]
    last = max(points, key=lambda point: (point.dataset_digest == dataset, point.timestamp), default=None)
    return None if last is None else last.value


def _size(run: StageRun, entry: Candidate) -> float | None:
    """Megabytes of the files that a model was saved as; the base of a language model is not among them."""
    if entry.kind not in SERVABLE or entry.status != "ran":
        return None
    return sum(listing(model_address(run.client, entry.model_id)).values()) / 1e6


def predictions_table(
    items: Sequence[Item], answers: Mapping[str, Predictions], families: np.ndarray | None = None
) -> pa.Table:
    """Every prediction of every model for the same items: one row for each model and item, prices in US dollars.

    `crps`, and `pit`, the level at which the truth lies in the distribution, are NaN where there is none. `product` is
    the id of the first item of an item's family, where the `families` [n] are given.
    """
    of: dict[str, list[str]] = {}
    if families is not None:
        first = dict(reversed([*zip(families.tolist(), (item.id for item in items), strict=True)]))
        of = {"product": [first[family] for family in families.tolist()]}
    truth = np.array([item.price for item in items])
    tables = []
    for name, answer in answers.items():
        scores = np.full((2, len(items)), np.nan)
        if answer.distribution is not None:
            scores[:] = answer.distribution.crps(truth), answer.distribution.pit(truth)
        columns = {"model": [name] * len(items), "id": [item.id for item in items], **of, "truth": truth}
        columns |= {"price": answer.price, "low": answer.low, "high": answer.high}
        tables.append(pa.table({**columns, "crps": scores[0], "pit": scores[1]}))
    return pa.concat_tables(tables)

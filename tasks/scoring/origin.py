"""Where a price comes from: the model that gives it, what that learned from, and how far off it was on test."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from tasks.scoring.wording import amount

if TYPE_CHECKING:
    from tasks.scoring.record import Record

ORIGIN = "pricewright.origin"  # tag of a registered version: the fields, as JSON


@dataclass(frozen=True)
class Origin:
    """A registered model in a sentence, or as fields: `n_train` items of the dataset that it learned from (none of an
    untuned model), and `mae`, its mean absolute error on `n` test items, in `unit`. What a language model is told, by
    other models or of similar items, comes from `n_told` items of it."""

    model: str
    dataset: str
    generated: bool
    n_train: int
    n: int
    mae: float
    unit: str = "$"
    n_told: int = 0

    @classmethod
    def of(cls, record: Record, model_id: str, unit: str, told: Collection[str] = ()) -> Self | None:
        """What an evaluation says of a model, with prices in `unit`; None where it did not take part. Models of the
        kinds `told` are told what is known of all training items."""
        row = next((row for row in record.rows if row.model_id == model_id and row.mae is not None), None)
        if row is None:
            return None
        data = record.dataset
        learned = 0 if row.kind == "base" else row.n_train or data.rows["train"]
        n_told = data.rows["train"] if row.kind in told else 0
        return cls(row.label, data.name, data.generated, learned, row.n or 0, round(row.mae or 0.0, 4), unit, n_told)

    @classmethod
    def read(cls, tags: Mapping[str, str]) -> Self | None:
        """What `tags` noted on a version; None on one that was registered before it was noted."""
        return cls(**json.loads(tags[ORIGIN])) if ORIGIN in tags else None

    def tags(self) -> dict[str, str]:
        """The tag that keeps it with a version."""
        return {ORIGIN: json.dumps(self.fields())}

    def fields(self) -> dict[str, Any]:
        """It as JSON has it."""
        return asdict(self)

    def __str__(self) -> str:
        products = "generated products" if self.generated else f"products of {self.dataset}"
        learned = f"trained on {self.n_train:,} {products}" if self.n_train else f"not trained on any {products}"
        if self.n_told > self.n_train:
            learned += f"{' and' if self.n_train else ', but'} told what is known of {self.n_told:,}"
        return f"{self.model}, {learned}, {amount(self.mae, self.unit)} off on average ({self.n:,} test items)"

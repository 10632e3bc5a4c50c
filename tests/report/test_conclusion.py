"""What a run ends with: plain sentences that its figures bear out."""

from __future__ import annotations

import pytest

from tasks.report.conclusion import tuning
from tasks.scoring.comparisons import Comparison
from tests.report.boards import row


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            Comparison(19.8, 10.8, 29.0, 0.0001, 200),
            "Fine-tuning took $19.80 off the error of its base model, from $93.75 to $73.91 "
            "(95% interval 10.80 to 29.00).",
        ),
        (
            Comparison(1.5, -2.0, 5.0, 0.4, 200),
            "Fine-tuning took $1.50 off the error of its base model, from $93.75 to $73.91 "
            "(95% interval -2.00 to 5.00), which chance alone can explain.",
        ),
        (
            Comparison(-4.0, -7.0, -1.0, 0.01, 200),
            "Fine-tuning added $4.00 to the error of its base model, from $93.75 to $73.91 "
            "(95% interval 1.00 to 7.00).",
        ),
        (Comparison(0.0, 0.0, 0.0, 1.0, 200), "Fine-tuning left the error of its base model as it was, $93.75."),
    ],
    ids=["less", "perhaps less", "more", "the same"],
)
def test_what_fine_tuning_brought_is_said_with_its_certainty(found: Comparison, said: str) -> None:
    """In dollars, with the direction in the verb and not in a sign."""
    rows = row("base", 93.75, 5, kind="base"), row("finetuned", 73.91, 3, kind="finetuned")
    assert tuning(*rows, found, "$") == said

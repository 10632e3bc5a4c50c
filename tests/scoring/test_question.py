"""What an evaluation was asked: the same question from wherever it is asked, another one for other data or conf."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.config.loading import load
from tasks.scoring.question import question

SMOKE = "conf/smoke.yaml"


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("finetune.device=cuda", True),  # which this machine need not have
        ("finetune.answer.batch_tokens=512", True),
        ("finetune.busy=fail", True),
        ("data.runner=threads", True),
        ("promote.name=other", True),
        ("tracking.experiment=other", True),
        ("schedule.cron=0 2 * * *", True),
        ("finetune.dtype=float32", False),
        ("finetune.lora.r=2", False),
        ("finetune.answer.estimate=mean", False),
        ("evaluate.resamples=400", False),
        ("baselines.models=[constant]", False),
        ("data.rows=299", False),
        ("seed=43", False),
    ],
)
def test_it_depends_on_what_decides_the_figures_and_not_on_the_machine(override: str, same: bool) -> None:
    """Conf and seed; not where and when it is computed."""
    assert (question(load(SMOKE, [override])) == question(load(SMOKE))) == same


def test_a_training_that_is_switched_off_has_no_part_in_it() -> None:
    """Of the untuned model the prompt counts all the same."""
    off = ["finetune.enabled=false"]
    assert question(load(SMOKE, [*off, "finetune.lora.r=2"])) == question(load(SMOKE, off))
    assert question(load(SMOKE, [*off, "finetune.prompt.text_tokens=9"])) != question(load(SMOKE, off))


def test_models_count_by_what_their_folders_hold(tmp_path: Path) -> None:
    """The base model, and the encoder if the prompt asks for one; weights may be put in place of others."""
    weights, told = tmp_path / "model.safetensors", ["finetune.prompt.comparables=2", "finetune.prompt.nearest=meaning"]
    for key, more, counts in (("base", [], True), ("prompt.encoder", told, True), ("prompt.encoder", [], False)):
        experiment = load(SMOKE, [f"finetune.{key}={tmp_path}", *more])
        weights.write_bytes(b"1")
        before = question(experiment)
        weights.write_bytes(b"12")
        assert (question(experiment) != before) == counts


def test_files_count_by_what_they_hold(tmp_path: Path) -> None:
    """A file of data may move; a line more is another question, and so is a guess more."""

    def asked(file: Path, *more: str) -> str:
        return question(load("conf/files.yaml", [f"data.path={file}", *more]))

    here, there = tmp_path / "goods.jsonl", tmp_path / "moved.jsonl"
    here.write_text('{"title": "A lamp", "price": 3}\n')
    there.write_bytes(here.read_bytes())
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("id,guess\n1,2\n")
    before = asked(here, f"evaluate.human={sheet}")
    assert asked(there, f"evaluate.human={sheet}") == before != asked(here)
    sheet.write_text("id,guess\n1,3\n")
    assert asked(here, f"evaluate.human={sheet}") != before
    here.write_text(f'{here.read_text()}{{"title": "A bench", "price": 30}}\n')
    assert asked(here) != asked(there)

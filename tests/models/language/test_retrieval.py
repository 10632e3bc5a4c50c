"""What similar products cost, as a language model is told it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.config.experiment import Prompt
from tasks.config.loading import load
from tasks.data.items import Item
from tasks.data.minhash import jaccard
from tasks.errors import UserError
from tasks.models.estimator_files import dump
from tasks.models.language.model import LanguageModel, ModelSpec
from tasks.models.language.retrieval import Comparables

KETTLES = [
    Item("a", "Steel kettle", "Boils a litre of water.", price=30.0),
    Item("b", "Steel kettle", "Boils two litres of water, red.", price=40.0),
    Item("c", "Copper kettle", "Whistles once water boils.", price=90.0),
    Item("d", "Garden chair", "Folds flat, oiled teak.", price=60.0),
    Item("e", "Garden table", "Seats four, oiled teak.", price=200.0),
]

WORDS = Prompt(comparables=8)


def look_up(kept: Comparables, items: list[Item], count: int) -> np.ndarray:
    """What the comparables of items cost."""
    return kept.prices[kept.look_up(items, count)]


def test_the_most_similar_comes_first_and_never_the_item_itself() -> None:
    """By the words they share; an item with the text of a kept one but its own id is another item."""
    kept = Comparables.fit(KETTLES, WORDS)
    np.testing.assert_array_equal(look_up(kept, KETTLES[:2], 1), [[40.0], [30.0]])
    np.testing.assert_array_equal(look_up(kept, [KETTLES[3]], 1), [[200.0]])
    twin = Item("x", KETTLES[0].title, KETTLES[0].text)
    stranger = Item("d", KETTLES[0].title, KETTLES[0].text)  # with the id of a chair, which is not taken for it
    np.testing.assert_array_equal(look_up(kept, [stranger], 2), look_up(kept, [twin], 2))
    np.testing.assert_array_equal(look_up(kept, [twin], 2), [[30.0, 40.0]])


def test_near_duplicates_of_a_training_item_are_not_among_its_comparables() -> None:
    """They never stand across splits: an item of another split has none, and training must not see more."""
    text = "a sturdy kettle of brushed steel with a wooden handle for gas and electric stoves and a lid that whistles"
    flock = [
        Item(f"k{n}", "Steel kettle", text.replace("whistles", word), price=10.0 + n) for n, word in enumerate("abc")
    ]
    others = [Item("c", "Copper kettle", "of hammered copper, with a handle", price=90.0), *KETTLES[3:]]
    kept = Comparables.fit([*flock, *others], WORDS)
    np.testing.assert_array_equal(look_up(kept, [flock[0]], 1), [[90.0]])
    new = Item("new", "Steel kettle", text, price=0.0)
    assert set(look_up(kept, [new], 3)[0]) == {10.0, 11.0, 12.0}
    # How alike they are says the conf: by none of these no sister is kept out of the other splits either.
    for near, first in ((0.7, 90.0), (1.0, 11.0), (None, 11.0)):
        assert look_up(Comparables.fit([*flock, *others], WORDS, near), [flock[0]], 1) == [[first]]


def test_near_duplicates_are_known_by_their_texts() -> None:
    """Two texts of likeness 0.74, whose signatures are estimates and tell less of one pair in six."""
    words = [[f"w{pair}x{n}" for n in range(46)] for pair in range(40)]
    pairs = [(text[:40], [*text[:34], *text[40:]]) for text in words]
    assert all(0.7 < jaccard(" ".join(one), " ".join(other)) < 0.75 for one, other in pairs)
    items = [
        Item(f"{place}{side}", "Kettle", " ".join(text), price=1.0 + place)
        for place, pair in enumerate(pairs)
        for side, text in enumerate(pair)
    ]
    told = look_up(Comparables.fit(items, WORDS), items, 1)[:, 0]
    assert not [item.id for item, price in zip(items, told, strict=True) if item.price == price]


def test_what_an_earlier_version_saved_answers_new_items_as_it_did(tmp_path: Path) -> None:
    """It kept signatures in the place of groups; a training item is not told its own price by it either."""
    kept, file = Comparables.fit(KETTLES, WORDS), tmp_path / "comparables.skops"
    before = {name: value for name, value in vars(kept).items() if name != "groups"}
    dump({**before, "signatures": np.zeros((len(KETTLES), 120), np.uint32), "near": 0.7}, file)
    new = [Item("x", "Steel kettle", "for water"), Item("y", "Teak chair", "")]
    again = Comparables.load(file)
    np.testing.assert_array_equal(again.look_up(new, 3), kept.look_up(new, 3))
    np.testing.assert_array_equal(look_up(again, KETTLES[:2], 1), [[40.0], [30.0]])


def test_a_large_family_of_variants_is_looked_beyond() -> None:
    """A kettle in sixty sizes is told what other products cost, not what its sisters do."""
    text = "a sturdy kettle of brushed steel with a wooden handle for gas and electric stoves and a lid that whistles"
    family = [Item(f"k{n}", "Steel kettle", f"{text}, size {n}", price=42.0) for n in range(60)]
    others = [Item(f"o{n}", f"Pan {n}", f"of copper with a handle, number {n}", price=900.0) for n in range(9)]
    told = look_up(Comparables.fit([*family, *others], WORDS), [*family[:3], others[0]], 5)
    assert told[:3].tolist() == [[900.0] * 5] * 3 and told[3, 0] == 900.0


def test_few_texts_that_share_no_words_have_comparables_too() -> None:
    """Every word counts then; texts without any word are refused, with what to do."""
    rare = [Item("a", "电热水壶", "", price=1.0), Item("b", "Zange", "", price=2.0), Item("c", "Hammer", "", price=3.0)]
    assert look_up(Comparables.fit(rare, WORDS), rare[1:2], 2).shape == (1, 2)
    with pytest.raises(UserError, match=r"finetune\.prompt\.comparables=0"):
        Comparables.fit([Item("a", "!", "", price=1.0), Item("b", "?", "", price=2.0)], WORDS)


def test_fewer_than_asked_for_are_what_there_is() -> None:
    """All others, and none where there are no others; no items have no comparables."""
    assert look_up(Comparables.fit(KETTLES, WORDS), KETTLES[:2], 9).shape == (2, 4)
    assert look_up(Comparables.fit(KETTLES[:2], WORDS), KETTLES[:1], 9).tolist() == [[40.0]]
    assert look_up(Comparables.fit(KETTLES, WORDS), [], 3).shape[0] == 0


def test_a_model_takes_its_comparables_along(items: list[Item], tmp_path: Path) -> None:
    """They stand between text and price, whole and in the unit of the prompt, and a loaded model is asked the same."""
    shown = [
        "finetune.prompt.comparables=3",
        "finetune.prompt.question=''",
        "finetune.prompt.unit=10",
        "finetune.prompt.text_tokens=99",
    ]
    conf = load("conf/smoke.yaml", ["finetune.quantization=null", *shown]).finetune
    model = LanguageModel.of(ModelSpec.of(conf, KETTLES))
    assert model.texts([KETTLES[0]])[0].startswith(
        "Steel kettle\nBoils a litre of water.\n\nSimilar products cost 4, 9, "
    )
    assert model.texts([KETTLES[0]])[0].endswith("\n\nPrice is $")
    model.save(tmp_path)
    again = LanguageModel.load(tmp_path)
    assert again.prompts(items[:5]) == model.prompts(items[:5])
    np.testing.assert_array_equal(again.predict(items[:2]).price, model.predict(items[:2]).price)


def test_a_model_without_the_training_items_refuses_rather_than_asks_something_else(items: list[Item]) -> None:
    """A prompt without the line that it was trained with would be answered, and wrongly."""
    conf = load("conf/smoke.yaml", ["finetune.quantization=null", "finetune.prompt.comparables=3"]).finetune
    with pytest.raises(ValueError, match="training items"):
        LanguageModel.of(ModelSpec.of(conf)).predict(items[:1])

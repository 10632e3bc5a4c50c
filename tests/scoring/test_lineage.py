"""What a model knows from its training."""

from __future__ import annotations

import dataclasses

import numpy as np

from tasks.data.items import Item
from tasks.scoring.lineage import known_from_training


def test_the_same_and_nearly_the_same_items_are_known_and_others_are_not(items: list[Item]) -> None:
    """By id, by text under another id, and by a text of which one word differs."""
    text = "a sturdy kettle of brushed steel with a wooden handle for gas and electric stoves and a lid that whistles"
    kettle = Item("kettle", "Steel kettle", text)
    renamed = dataclasses.replace(kettle, id="other")
    nearly = Item("nearly", "Steel kettle", text.replace("whistles", "sings"))
    new = Item("new", "Walnut shelf", "three boards of oiled walnut on two iron brackets, with screws for brick walls")
    changed = dataclasses.replace(items[3], text="something else entirely", title="Of the same id")
    tested = [kettle, renamed, nearly, new, changed]
    assert known_from_training(tested, [kettle, *items[:50]], 0.7).tolist() == [True, True, True, False, True]
    assert known_from_training([nearly], [kettle], 0.99).tolist() == [False]
    assert known_from_training(tested, [], 0.7).tolist() == np.zeros(5).astype(bool).tolist()

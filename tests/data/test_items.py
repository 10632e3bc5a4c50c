"""Rows become items, or are rejected for a reason."""

from __future__ import annotations

import pytest

from tasks.data.items import Item, RejectedError, from_row


def test_a_row_of_amazon_metadata_becomes_an_item() -> None:
    """Description, features and details are joined; boilerplate details stay out of the text."""
    item = from_row(
        {
            "id": 7,
            "title": " A\n kettle ",
            "description": ["Boils.", "Fast."],
            "features": ["1.7 l"],
            "details": '{"Brand": "Acme", "Best Sellers Rank": "#3 in Kettles"}',
            "category": "Appliances",
            "price": "$30",
        }
    )
    assert item == Item(
        "7", "A kettle", "Boils. Fast. 1.7 l Brand: Acme", "Appliances",
        {"Brand": "Acme", "Best Sellers Rank": "#3 in Kettles"}, 30.0,
    )  # fmt: skip


def test_a_row_without_an_id_is_named_by_its_content() -> None:
    """The same content has the same name, other content another."""
    one, same, other = (from_row({"title": title, "price": 1}).id for title in ("a", "a", "b"))
    assert one == same != other


@pytest.mark.parametrize("row", [{"price": 5}, {"title": " ", "text": "\n", "price": 5}, {"title": None, "price": 5}])
def test_a_row_without_words_is_rejected(row: dict) -> None:
    """There is nothing to price it by."""
    with pytest.raises(RejectedError, match="no title and no text"):
        from_row(row)

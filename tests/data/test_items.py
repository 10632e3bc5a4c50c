"""Rows become items, or are rejected for a reason."""

from __future__ import annotations

import pytest

from tasks.data.items import Item, RejectedError, from_row, parse_price


@pytest.mark.parametrize(
    ("value", "price"),
    [(12, 12.0), ("12.50", 12.5), ("$1,299.00", 1299.0), (" $ 5 ", 5.0), ("1,000,000", 1e6), ("9.99 USD", 9.99)],
)
def test_a_price_is_read_as_it_is_written(value: object, price: float) -> None:
    """Numbers, dollar signs and thousands commas are understood."""
    assert parse_price(value) == price


@pytest.mark.parametrize(
    "value",
    [None, "", "from 12.99", "12.99 - 15.99", "-3", 0, -1, "NaN", float("nan"), float("inf"), [1], "1,29", "€5"],
)
def test_what_is_not_one_positive_price_is_rejected(value: object) -> None:
    """A range, a list, a negative or a missing price is never guessed at."""
    with pytest.raises(RejectedError):
        parse_price(value)


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

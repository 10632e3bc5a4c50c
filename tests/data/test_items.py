"""Rows become items, or are rejected for a reason."""

from __future__ import annotations

from typing import Any

import orjson
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


@pytest.mark.parametrize(
    ("details", "read"),
    [
        ([[["x"], 1]], {"x": "1"}),
        ([{"name": ["x"], "value": 1}], {"x": "1"}),
        ("[('a', [('b', 'c', 'd')])]", {"a": "b c d"}),
        ("2024", {"Details": "2024"}),
        (2024, {"Details": "2024"}),
        (float("nan"), {}),
        ('"as  text"', {"Details": '"as text"'}),
        ("{'steel', }", {"Details": "{'steel', }"}),
        ('{"Brand": "\\ud83d Acme"}', {"Brand": "\ufffd Acme"}),
        ("{'Brand': '\\ud83d\\ude00 Acme'}", {"Brand": "\U0001f600 Acme"}),
    ],
)
def test_odd_details_are_read_as_far_as_that_is_natural(details: Any, read: dict[str, str]) -> None:
    """Names that are lists, pairs that are none, values that are neither an object nor a list, halves of letters."""
    item = from_row({"title": "kettle", "details": details, "price": 5})
    assert item.details == read
    assert all(value in item.text for value in read.values())


@pytest.mark.parametrize("field", ["details", "title", "description"])
@pytest.mark.parametrize("as_text", [False, True])
def test_what_is_nested_too_deeply_is_rejected(field: str, as_text: bool) -> None:
    """As a list, and as text that holds one; a title that is text is only that."""
    text = "[" * 990 + "1" + "]" * 990
    row = {"title": "kettle", "price": 5, field: text if as_text else orjson.loads(text)}
    if as_text and field != "details":
        assert text in (from_row(row).title, from_row(row).text)
        return
    with pytest.raises(RejectedError, match="nested too deeply"):
        from_row(row)

"""What a look at a file finds out: files of made-up shops, written here in the ways that shops write them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.config.loading import load
from tasks.data.inspection.findings import Findings, inspect
from tasks.data.inspection.roles import plain
from tasks.data.prices import DOLLARS
from tasks.data.sources import read_files
from tasks.errors import UserError

GOODS = ("lamp", "bench", "kettle", "rope", "anvil", "mirror", "ladle", "saw", "tent", "stool")
TEXT = "A {} for the workshop, made of ash and iron, number {}."


def table(head: str, line: Callable[[int], str], rows: int = 60) -> str:
    """A table with a header and lines by number."""
    return "\n".join([head, *(line(number) for number in range(rows))])


def look(folder: Path, text: str, name: str = "goods.csv", encoding: str = "utf-8", **given: Any) -> Findings:
    (folder / name).write_bytes(text.encode(encoding))
    return inspect(str(folder / name), load("conf/files.yaml").data, given)


def told(number: int) -> tuple[str, str]:
    """A title and a text."""
    return f"{GOODS[number % 10].title()} {number} of oak", TEXT.format(GOODS[number % 10], number)


def french(number: int) -> str:
    title, text = told(number)
    return f"{number + 7};{title};{text};Maison;{1100 + number},{number % 90 + 10} €;12"


def swedish(number: int) -> str:
    title, text = told(number)
    return f"K{number:04}\t{text}\t{title}\t{300 + number} kr\t{number % 3}"


@pytest.mark.parametrize(
    ("name", "encoding", "text", "columns", "currency", "decimal"),
    [
        (
            "articles.csv",
            "cp1252",
            table("Réf;Désignation;Descriptif;Rubrique;Prix TTC;Stock", french),
            {"id": "Réf", "title": "Désignation", "text": "Descriptif", "category": "Rubrique", "price": "Prix TTC"},
            ("€", "EUR"),
            ",",
        ),
        (
            "varor.txt",
            "utf-16",
            table("Art nr\tBeskrivning\tNamn\tPris\tLager", swedish),
            {"id": "Art nr", "text": "Beskrivning", "title": "Namn", "price": "Pris"},
            ("kr", "kr."),
            None,
        ),
        (
            "stock.csv",
            "utf-8",
            table("a,b,c,d", lambda n: f'{n},{told(n)[0]},"{told(n)[1]}",{n + 0.99:.2f}'),
            {"title": "b", "text": "c", "price": "d"},
            ("$", "US$", "USD"),
            ".",
        ),
        (
            "own.csv",
            "utf-8",
            table("id,title,description,price", lambda n: f'{n},{told(n)[0]},"{told(n)[1]}",${n + 1}.50'),
            {},
            ("$", "US$", "USD"),
            ".",
        ),
        (
            "dressed.csv",
            "utf-8",
            table("Title*,Description:,Price ($)", lambda n: f'{told(n)[0]},"{told(n)[1]}",{n + 5}.25'),
            {"title": "Title*", "text": "Description:", "price": "Price ($)"},
            ("$", "US$", "USD"),
            ".",
        ),
        (
            "sale.csv",
            "utf-8",
            table("sku,name,body_html,price,sale_price", lambda n: f'x{n},{told(n)[0]},"{told(n)[1]}",,{n + 5}.25'),
            {"id": "sku", "title": "name", "text": "body_html", "price": "sale_price"},
            ("$", "US$", "USD"),
            ".",
        ),
    ],
)
def test_columns_currency_and_decimal_mark_are_found(
    tmp_path: Path,
    name: str,
    encoding: str,
    text: str,
    columns: dict[str, str],
    currency: tuple[str, ...],
    decimal: str | None,
) -> None:
    """By the names that shops give them and by their values; our own names need no mention, an empty price is none."""
    found = look(tmp_path, text, name, encoding)
    assert found.rules.columns == columns
    assert (found.rules.currency, found.rules.decimal) == (currency, decimal)
    assert found.tally.kept == found.rows == 60
    assert [item.title for item in found.items] == [told(number)[0] for number in range(5)]


@pytest.mark.parametrize("no_sale", ["", "0.00"])
@pytest.mark.parametrize("head", ["sale_price,regular_price", "Sale price,Regular price"])
def test_a_price_that_few_rows_have_is_not_taken_for_that_of_all(tmp_path: Path, head: str, no_sale: str) -> None:
    """A shop's sale price, which is empty or zero where nothing is on sale; a full one is what is paid."""
    name, sale = "{} of some age".format, "{}.25".format
    few = table(f"title,{head}", lambda n: f"{name(told(n)[0])},{no_sale if n % 3 else sale(n + 3)},{n + 9}.50")
    found = look(tmp_path, few)
    assert (found.rules.columns["price"], found.tally.kept) == (head.split(",")[1], 60)
    nearly = table(f"title,{head}", lambda n: f"{name(told(n)[0])},{sale(n + 3) if n % 20 else no_sale},{n + 9}.50")
    assert look(tmp_path, nearly).rules.columns["price"] == head.split(",")[0]


def test_a_price_that_few_rows_have_is_more_likely_than_a_number_without_a_name(tmp_path: Path) -> None:
    """What a column is called says more than what its values look like."""
    text = table("title,cost,depot", lambda n: f"{told(n)[0]},{f'{n + 3}.25' if n % 9 == 0 else ''},{n}.125")
    assert look(tmp_path, text).rules.columns["price"] == "cost"


def test_categories_are_more_likely_than_the_type_of_all_products(tmp_path: Path) -> None:
    """A shop's plug-in exports both."""
    line = "simple,{},A thing for number {},Home > {},3.25".format
    kinds = table("Type,Name,Description,Categories,price", lambda n: line(told(n)[0], n, GOODS[n % 10]))
    assert look(tmp_path, kinds).rules.columns["category"] == "Categories"


def test_encoding_and_separator_are_told(tmp_path: Path) -> None:
    """What is not UTF-8 is written down, so that the next reading need not find it out."""
    found = look(tmp_path, table("Réf;Désignation;Descriptif;Rubrique;Prix TTC;Stock", french), encoding="cp1252")
    assert found.form == "a table parted by semicolons, cp1252" and found.rules.encoding == "cp1252"
    assert "encoding" in found.told and "€ stands beside 60 of 60 prices" in found.told["currency"]


@pytest.mark.parametrize(
    "words", ["N/A", "NaN", "TBD", "free", "from {}", "{} each", "{}/kg", "<{}", "~{}", "<${}", "ab {}"]
)
def test_what_is_no_sign_of_a_currency_does_not_become_one(tmp_path: Path, words: str) -> None:
    """Words for no price, bounds and units stand beside prices too, and even beside most: these rows are rejected."""
    price = lambda n: words.format(f"{n + 3}.50") if n % 3 else f"${n + 3}.50"  # noqa: E731
    found = look(tmp_path, table("title,price", lambda n: f"{told(n)[0]} of some age,{price(n)}"))
    assert found.rules.currency == ("$", "US$", "USD") and "currency" not in found.told
    assert found.tally.kept == 20


@pytest.mark.parametrize(
    ("price", "currency", "certain"),
    [
        ("₪{}", ("₪",), True),
        ("{} eur", ("eur", "€", "EUR"), True),
        ("CA$ {}", ("CA$",), True),
        ("{} NZD", ("NZD",), True),
        ("{} lei", ("lei",), False),
        ("S/ {}", ("S/",), False),
        ("{} ر.س", ("ر.س",), False),
    ],
)
def test_a_sign_that_is_not_known_counts_beside_nearly_all_prices(
    tmp_path: Path, price: str, currency: tuple[str, ...], certain: bool
) -> None:
    """And is called uncertain; one that Unicode or ISO knows is not, and counts beside a few."""
    row = "{} of some age,{}".format
    text = table("title,price", lambda n: row(told(n)[0], price.format(f"{n + 3}.50")))
    found = look(tmp_path, text)
    assert found.rules.currency == currency and found.tally.kept == 60
    assert found.told["currency"].startswith("NOT CERTAIN") is not certain
    text = table("title,price", lambda n: row(told(n)[0], f"{n + 3}.50" if n % 3 else price.format(f"{n + 3}.50")))
    assert (look(tmp_path, text).rules.currency == currency) is certain


def test_files_of_several_encodings_are_each_read_in_their_own(tmp_path: Path) -> None:
    """What one is written in says nothing of the others; what all are written in is written down."""
    words = "Стул складной из бука для сада"
    for name, encoding in (("a", "cp1251"), ("b", "utf-8")):
        text = table("title,price", lambda n: f"{words} {n},{n + 3}.50")
        (tmp_path / f"{name}.csv").write_bytes(text.encode(encoding))
    rules = inspect(str(tmp_path), load("conf/files.yaml").data, {}).rules
    assert rules.encoding is None
    titles = {row["title"].rpartition(" ")[0] for row in read_files(str(tmp_path), rules)}
    assert titles == {words}
    (tmp_path / "b.csv").write_bytes((tmp_path / "a.csv").read_bytes())
    assert inspect(str(tmp_path), load("conf/files.yaml").data, {}).rules.encoding == "cp1251"


def test_json_of_other_keys_is_found(tmp_path: Path) -> None:
    """Objects a line, numbers as prices, two texts."""
    keys = ("handle", "productName", "summary", "notes", "cost")
    rows = [dict(zip(keys, (f"h-{n}", *told(n), f"It is old, piece {n}.", n + 1), strict=True)) for n in range(40)]
    found = look(tmp_path, "\n".join(map(json.dumps, rows)), "goods.jsonl")
    assert found.rules.columns == {
        "price": "cost",
        "title": "productName",
        "text": ("summary", "notes"),
        "id": "handle",
    }
    assert found.items[0].text == f"{told(0)[1]} It is old, piece 0." and found.form.startswith(
        "one JSON object a line"
    )


@pytest.mark.parametrize(
    ("head", "money", "currency"),
    [
        ("price,currency", "{}.50,EUR", ("EUR", "€")),
        ("price,priceCurrency", "{}.50,cad", ("CAD",)),
        ("price,CURRENCY_CODE", "{}.50,RON", ("RON",)),
        ("price,Währung", "{}.50,SEK", ("SEK", "kr", "kr.")),
        ("price_eur,depot", "{}.50,9", ("EUR", "€")),
        ("Price (£),depot", "{}.50,9", ("£", "GBP")),
        ("price,currency", "{}.50,USD", DOLLARS),
        ("price_usd,depot", "{}.50,9", DOLLARS),
        ("price,currency", "£{}.50,EUR", ("£", "GBP")),  # what is beside a price says more
        ("price,unit", "{}.50,Ft", DOLLARS),  # feet
        ("price,format", "{}.50,CAD and more", DOLLARS),
    ],
)
def test_a_currency_that_does_not_stand_beside_the_prices_is_found(
    tmp_path: Path, head: str, money: str, currency: tuple[str, ...]
) -> None:
    """In a column of its own, or in the name of the price's."""
    found = look(tmp_path, table(f"title,{head}", lambda n: f"{told(n)[0]} of some age,{money.format(n + 3)}"))
    assert found.rules.currency == currency and found.tally.kept == 60
    assert ("currency" in found.told) is (currency != DOLLARS)


@pytest.mark.parametrize("most", ["EUR", "USD"])
def test_prices_in_several_currencies_are_called_uncertain(tmp_path: Path, most: str) -> None:
    """They would become one target, as nothing is converted; rows that name no currency are no other one."""
    few = {"EUR": "USD", "USD": "EUR"}[most]
    code = {0: few, 1: "", 2: "n/a"}
    text = table("title,price,currency", lambda n: f"{told(n)[0]} of some age,{n + 3}.50,{code.get(n % 8, most)}")
    found = look(tmp_path, text)
    assert found.rules.currency[0] == {"EUR": "EUR", "USD": "$"}[most]
    assert "NOT CERTAIN: currency holds EUR and USD, and nothing is converted" in found.told["currency"]
    assert "currency" not in look(tmp_path, text, currency=("€",)).told


def test_the_window_and_the_step_of_the_answer_follow_the_prices(tmp_path: Path) -> None:
    """Of prices in the thousands the language model answers the tens; of a few cents, less than cents."""
    dear = look(tmp_path, table("title,price", lambda n: f"{told(n)[0]} of some age,{4000 + n}.00"))
    assert (dear.rules.price_max, dear.unit, dear.tally.kept) == (9994.9, 10, 60)
    cheap = look(tmp_path, table("title,price", lambda n: f"{told(n)[0]} for one screw,0.0{n + 10}"))
    assert cheap.rules.price_min == 0.01 and cheap.unit == 0.0001 and cheap.tally.kept == 60
    usual = look(tmp_path, table("title,price", lambda n: f"{told(n)[0]} of some age,{n + 1}.00"))
    assert (usual.rules.price_max, usual.rules.price_min, usual.unit) == (999.49, 0.5, 1)


def test_a_mark_that_can_be_read_either_way_is_called_uncertain(tmp_path: Path) -> None:
    """Three digits behind every mark are taken for thousands, and that is said."""
    found = look(tmp_path, table("title,price", lambda n: f"{told(n)[0]} of some age,{n + 2}.250 EUR"))
    assert found.rules.decimal == "," and "NOT CERTAIN" in found.told["decimal"]
    assert found.items[0].price == 2250


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"price": {"value": 81.5, "currency": "USD"}}, ".price.value"),
        ({"price": [81.5]}, ".price[0]"),
        (
            {"gtin13": "4006381333931", "mpn": 7.25, "offers": {"priceCurrency": "USD", "price": "81.50"}},
            ".offers.price",
        ),
        ({"variants": [{"position": 1, "compare at price": "90.00", "price": "81.50"}]}, ".variants[0].price"),
        ({"position": 3, "item": {"@type": "Product", "offers": {"list price": 81.5}}}, '.item.offers."list price"'),
    ],
)
def test_prices_within_other_values_are_refused(tmp_path: Path, fields: dict[str, Any], where: str) -> None:
    """With where they stand, and how to get them out; a number beside them is the price only if it is named so."""
    rows = [json.dumps({"title": f"{told(n)[0]} of some age", "depot": n + 0.25, **fields}) for n in range(60)]
    with pytest.raises(UserError, match=re.escape(f"by jq '.price = {where}' for each object")):
        look(tmp_path, "\n".join(rows), "goods.jsonl")
    found = look(tmp_path, "\n".join(rows), "goods.jsonl", columns={"price": "depot"})
    assert found.rules.columns["price"] == "depot" and found.tally.kept == 59


def test_a_measure_is_not_taken_for_the_price(tmp_path: Path) -> None:
    """Nor the place in a list, where the price has a name that is not known."""
    text = table("Position,Name,Height,VK brutto", lambda n: f"{n + 1},{told(n)[0]} of some age,{n}.25,{n + 3}")
    assert look(tmp_path, text).rules.columns["price"] == "VK brutto"


def test_what_is_given_stands(tmp_path: Path) -> None:
    """A column, a currency and a decimal mark that a person names are not guessed again."""
    text = table("name,text,preis,cost", lambda n: f'{told(n)[0]},"{told(n)[1]}",{n + 5}.25,{n + 3}.75')
    assert look(tmp_path, text).rules.columns["price"] == "cost"
    found = look(tmp_path, text, columns={"price": "preis"}, decimal=".", currency=("EUR",))
    assert found.rules.columns["price"] == "preis" and found.rules.currency == ("EUR",) and not found.told
    assert found.items[0].price == 5.25


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (table("title,price,price", lambda n: f"{told(n)[0]},1.50,2.50"), "2 columns that could be the price"),
        (table("title,stock", lambda n: f"{told(n)[0]},{n}"), "None of them looks like the price"),
        (table("price,stock", lambda n: f"{n}.50,{n}"), "None of them looks like the title or text"),
        ("title,price\n", "holds no rows that can be read"),
    ],
)
def test_a_file_without_a_price_or_a_text_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """With the columns that are there, and how to say which is which."""
    with pytest.raises(UserError, match=said):
        look(tmp_path, text)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With those that are."""
    with pytest.raises(UserError, match=r"has no column kosten\. It has the columns title, price"):
        look(tmp_path, table("title,price", lambda n: f"{told(n)[0]},1.50"), columns={"price": "kosten"})


def test_what_would_be_dropped_is_counted(tmp_path: Path) -> None:
    """By reason, with examples, as curation will do it."""
    text = table("title,price", lambda n: f"{told(n)[0]} of some age,{'' if n % 3 == 0 else f'{n}.50'}")
    found = look(tmp_path, f"{text}\nshort,1.00,more\n")
    assert found.tally.dropped == {"no price": 20, "more cells than the header": 1} and found.tally.kept == 40


@pytest.mark.parametrize(
    ("name", "bare"), [("Sale_Price (EUR)", "sale price eur"), ("productName", "product name"), (" Préis ", "préis")]
)
def test_names_are_compared_without_their_dress(name: str, bare: str) -> None:
    """Case, underscores, humps and brackets."""
    assert plain(name) == bare

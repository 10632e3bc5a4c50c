"""One way to read a price, whoever wrote it: cells, columns, and the words of models."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.price_words import leading_price, price_in
from tasks.data.prices import Evidence, UnreadableError, decimal_of, number, read_cell, rounded, same_currency, shown


@pytest.mark.parametrize(
    ("value", "decimal", "price"),
    [
        (12, ".", 12.0),
        ("12.50", ".", 12.5),
        ("$1,299.00", ".", 1299.0),
        (" $ 5 ", ".", 5.0),
        ("1,000,000", ".", 1e6),
        ("9.99 USD", ".", 9.99),
        ("US $ 7", ".", 7.0),
        (".99", ".", 0.99),
        ("$15.00*", ".", 15.0),
        ("1'049.95", ".", 1049.95),
        ("1\u2019049.95", ".", 1049.95),
        ("12,34,567.50", ".", 1234567.5),
        ("1 299.50", ".", 1299.5),
        ("1.299,00", ",", 1299.0),
        ("1.299", ",", 1299.0),
        ("2\u00a0499,95", ",", 2499.95),
        ("2\u202f499,95 USD", ",", 2499.95),
        ("2\u2009499", ",", 2499.0),
        ("12,-", ",", 12.0),
        ("12:-", ",", 12.0),
        ("12.--", ".", 12.0),
    ],
)
def test_a_price_is_read_as_it_is_written(value: object, decimal: str, price: float) -> None:
    """Numbers, signs, and thousands parted in every way there is, by the decimal mark of the column."""
    assert read_cell(value, decimal) == price


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no price"),
        ("", "no price"),
        ("N/A", "no price"),
        (float("nan"), "no price"),
        ("from 12.99", "not one number"),
        ("12.99 - 15.99", "not one number"),
        ("1,29", "not one number"),
        ("1,2999", "not one number"),
        ("1.299,00", "not one number"),
        ("1 29", "not one number"),
        ([1], "not one number"),
        (True, "not one number"),
        ("-3", "not one number"),
        (0, "not a positive number"),
        (-1, "not a positive number"),
        (float("inf"), "not a positive number"),
        ("€5", "price in €, which data.currency does not name"),
        ("5 CHF", "price in CHF, which data.currency does not name"),
        ("zł 5", "price in zł, which"),
    ],
)
def test_what_is_not_one_positive_price_is_rejected(value: object, reason: str) -> None:
    """A range, a list, a negative or a missing price is never guessed at; another currency is named."""
    with pytest.raises(UnreadableError, match=reason):
        read_cell(value)


@pytest.mark.parametrize(
    ("values", "mark"),
    [
        (["5", "17", "2.99"], "."),
        (["5,10", "17", "1.299"], ","),
        (["1.299,00", "1.450"], ","),
        (["1.299.000", "950"], ","),
        (["$1,299", "$15.99"], "."),
        (["1,299", "350", "2,450.00"], "."),
        (["1,39,900", "89,146"], "."),
        (["1'049.95", "12"], "."),
        (["0.125", "1.250", "3.375"], "."),
        (["12", "350"], "."),
        ([12.5, None, "n/a"], "."),
        (["4,50"] * 99 + ["4.50"], ","),
    ],
)
def test_the_decimal_mark_is_what_the_whole_column_shows(values: list, mark: str) -> None:
    """Every value is evidence, in whatever order and parts they come."""
    whole, first, rest = Evidence(), Evidence(), Evidence()
    for position, value in enumerate(values):
        whole.look(value)
        (first if position % 2 else rest).look(value)
    first.add(rest)
    assert whole.decide() == first.decide()
    assert whole.decide()[0] == mark


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["1.299", "2.450 EUR", "350"], "'1.299' and '2.450 EUR' can be thousands"),
        (["1,299", "2,450", "350"], None),
        (["1.299"] * 50 + ["12.5"], "can be thousands"),
        (["12,50", "12.50"] * 5, "some a comma"),
    ],
)
def test_a_column_that_can_be_read_in_two_ways_is_not_read(values: list[str], said: str | None) -> None:
    """Nothing proves the mark, one stray value proves too little, or the values contradict each other. 1,299 alone
    is thousands, which is what it is nearly everywhere, and the examples say so."""
    evidence = Evidence()
    for value in values:
        evidence.look(value)
    if said is None:
        assert evidence.decide() == (".", ["1,299"])
        return
    with pytest.raises(UnreadableError, match=said):
        evidence.decide()


@given(
    st.decimals(0, 10**9, places=2), st.sampled_from([(",", "."), (".", ","), ("\u00a0", ","), ("'", "."), ("", ".")])
)
def test_a_number_written_with_cents_comes_back_and_proves_its_mark(value, marks: tuple[str, str]) -> None:
    """Whatever its size and its marks."""
    thousands, decimal = marks
    text = f"{value:,.2f}".replace(",", "T").replace(".", decimal).replace("T", thousands)
    assert number(text, decimal) == float(value)
    assert decimal_of(text) == decimal


@pytest.mark.parametrize(
    ("price", "words"), [(1234.5, "1,234.50"), (0.5, "0.50"), (0.004, "0.004"), (0.000123456, "0.000123"), (0, "0.00")]
)
def test_a_small_price_keeps_its_digits(price: float, words: str) -> None:
    """0.004 is neither 0.00 nor 0.02."""
    assert shown(price) == words
    assert rounded(price) == float(words.replace(",", ""))


SAID = [
    ("$18", 18),
    ("£7.50 each", 7.5),
    ("31,50 €", 31.5),
    ("€2.450", 2450),
    ("$2.450", None),
    ("$2.450,00", 2450),
    ("$3 450", 3450),
    ("₹2,49,900", 249900),
    ("<think>$90? or $70</think>\n$80", 80),
    ("I reason: $90</think> $80", 80),
    ("<think>perhaps $90", None),
    ('{"estimated_price": "$80.00", "confidence": 0.4}', 80),
    ('```json\n{"price": {"amount": 80, "currency": "USD"}}\n```', 80),
    ('Sure! {"price": 12.5, "list_price": 20}', 12.5),
    ('{"low": 20, "high": 30}', 25),
    ('{"price": null}', None),
    ('{"year": 2024}', None),
    ("$2.5k", 2500),
    ("2k dollars", 2000),
    ("$1.2 million", 1.2e6),
    ("$1\u20132k", 1500),
    ("$40 to $60", 50),
    ("40-60 USD", 50),
    ("between $40 and $60", 50),
    ("somewhere between 40 and 60 dollars", 50),
    ("$60-$40", None),
    ("MSRP $80; my estimate is $55", 55),
    ("It sells for $80 new, so I'd say $45 used.", 45),
    ("$45 (list price $80)", 45),
    ("It retails for $80.", 80),
    ("$45 new, $20 used", None),
    ("under $50", None),
    ("$.50", 0.5),
    ("99 cents", 0.99),
    ("4 dollars and 50 cents", 4.5),
    ("twenty-five dollars", 25),
    ("one hundred and fifty bucks", 150),
    ("Price: 32 (seen in 2021)", 32),
    ("Estimated price: around 32", 32),
    ("I would say around 35", 35),
    ("35 or so", 35),
    ("~35", 35),
    ("2024", 2024),
    ("The price of a single 1.7 litre kettle is $2.00.", 2),
    ("This 4-person tent costs 120 dollars", 120),
    ("**$1,234.56**", 1234.56),
    ("\uff042\uff15", 25),
    ("As Claude 3 I cannot say", None),
    ("Perhaps an iPhone 12", None),
    ("Discontinued in 2019.", None),
    ("I cannot tell what a 65-inch TV costs", None),
    ("65-inch TVs vary", None),
    ("15 inches", None),
    ("3 out of 5", None),
    ("20%", None),
    ("-$4", None),
    ("$-4", None),
    ("$0", None),
    ("gratis", None),
    ("", None),
    ("$", None),
    ("$" + "9" * 400, None),
]


@pytest.mark.parametrize(("text", "price"), SAID)
def test_a_price_is_found_in_words_and_no_other_number_is_taken_for_one(text: str, price: float | None) -> None:
    """A currency, a label or standing alone makes a number a price; what is not surely one is none."""
    assert price_in(text) == (pytest.approx(price) if price is not None else None)


@pytest.mark.parametrize(
    ("text", "price", "currency"),
    [
        ("45 zł", 45, ["zł", "PLN"]),
        ("1 299,00 zł", 1299, ["zł"]),
        ("45 złotych za sztukę", 45, ["zł"]),
        ('{"price": "45 zł"}', 45, ["zł"]),
        ("złe 45", None, ["zł"]),
        ("Around 1 290 Ft per piece", 1290, ["Ft"]),
        ("199 kr", 199, ["kr"]),
        ("kr. 199", 199, ["kr"]),
        ("100-200 kr", 150, ["SEK"]),
        ("Pris:-45", None, ["kr"]),
        ("4500円です", 4500, ["¥"]),
        ("45 лв.", 45, ["лв"]),
        ("$45", 45, ["zł"]),
    ],
)
def test_a_sign_of_the_conf_makes_a_number_a_price(text: str, price: float | None, currency: list[str]) -> None:
    """And any other of the same currency; elsewhere it may be a measure."""
    assert price_in(text, tuple(currency)) == price
    assert price_in("24 ft") is price_in("24 ft", ("kr",)) is None


def test_what_goes_on_after_the_prompt_is_read_from_its_start() -> None:
    """A language model writes on after the price; what it makes up next is not its answer."""
    assert leading_price("49.00\n\nPrice is $12") == 49.0
    assert leading_price(" about $20") == 20.0
    assert leading_price("nothing") is None


@given(st.text(st.sampled_from("0123456789.,$€ k-\u2013{}[]\":'<think>/prceandbtw\n"), max_size=60))
def test_no_words_crash_the_parser(text: str) -> None:
    """Any answer is a positive, finite price, or none."""
    for currency in (("$",), ("bt", ":-", "€")):
        price = price_in(text, currency)
        assert price is None or 0 < price < float("inf")


def test_signs_of_one_currency() -> None:
    """A champion's prices in € answer for products in EUR, and not for others."""
    assert same_currency("€", "EUR") and same_currency("USD", "$") and same_currency("SFr", "SFr")
    assert not same_currency("€", "$") and not same_currency("SFr", "€")

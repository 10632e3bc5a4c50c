"""Text that states its own price loses the statement; numbers that are not prices stay."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.items import is_price_name
from tasks.data.price_leaks import possible, scrub, scrub_details


@pytest.mark.parametrize(
    ("text", "price", "left"),
    [
        ("Kettle. Price: $49.99", 20, "Kettle."),
        ("Kettle, only Rs. 499 today", 20, "Kettle, today"),
        ("Kettle MSRP 1,299", 20, "Kettle"),
        ("MSRP: $1,299.00 new", 5, "new"),
        ("MSRP$49 kettle", 5, "kettle"),
        ("list price $89.95 steel pan", 5, "steel pan"),
        ("Our low price of $19.99!", 5, "!"),
        ("Retail price is 29.99", 7, ""),
        ("Price: 499", 100, ""),
        ("Kettle was $30 now $20", 20, "Kettle"),
        ("Kettle on sale for $12.50 each", 3, "Kettle"),
        ("Sells for $100 elsewhere", 90, "elsewhere"),
        ("a $30 value", 5, "a"),
        ("Regular price: £20", 3, ""),
        ("Reg. $25.00, red", 20, ", red"),
        ("MRP ₹1,999", 5, ""),
        ("Starting at US$ 99", 3, ""),
        ("kettle for $49.99", 49.99, "kettle for"),
        ("kettle $49,99", 49.99, "kettle"),
        ("kettle 1.299,00 € steel", 1299, "kettle steel"),
        ("kettle, 49 dollars", 49.0, "kettle,"),
        ("about $50, kettle", 49.99, "about , kettle"),
        ("Price (EUR): 31.20 kettle", 5, "kettle"),
        ("price in USD: 31.20, kettle", 5, ", kettle"),
        ("Price USD 31.20", 5, ""),
        ("kettle, 31.20$ each", 5, "kettle,"),
        ("MRP 2,499 for a pair", 5, "for a pair"),
        ("steel $31.20Three-pack", 31.2, "steel Three-pack"),
        ("sale_price=31.20 kettle", 5, "kettle"),
        ('price="31.20" kettle', 5, "kettle"),
        ("CHF kettle 2'499.00 € new", 2499, "CHF kettle new"),
        ("kettle 2 499,00 €", 2499, "kettle"),
        ("kettle at ₹1,39,900", 139_900, "kettle at"),
        ('{"a": 1, "salePrice": "31.20", "b": 2}', 5, '{"a": 1, "b": 2}'),
        ("{'Unit Price': 31.2, 'b': 2}", 5, "{ 'b': 2}"),
        ('{\\"list_price\\": \\"31.20\\"}', 5, "{ }"),
        ("costs: 31 today", 31, "today"),
        ("kettle USD31.20, now CAD45", 31.2, "kettle ,"),
        ("kettle 31.20USD or $31USD", 31.2, "kettle or"),
        ("Price: EUR31,20 kettle", 5, "kettle"),
        ("Listprice: $59 kettle, wholesaleprice=31.20 today", 5, "kettle, today"),
        ('{"saleprice": "31.20", "b": 2}', 5, '{ "b": 2}'),
    ],
)
def test_a_statement_of_the_price_is_scrubbed(text: str, price: float, left: str) -> None:
    """Called a price, offered, or the item's own price with a currency: the words go and are shown."""
    scrubbed, leaks = scrub(text, price)
    assert scrubbed == left
    assert leaks and all(leak.words and leak.rule for leak in leaks)
    assert possible([text]) == [True]


@pytest.mark.parametrize(
    ("text", "price", "currency", "left"),
    [
        ("Kanna, only 199 kr", 199, "kr", "Kanna,"),
        ("Pris: 199 kr", 199, "kr", ""),
        ("Kanna 1 990kr, kr 1 990,- ny", 1990, "kr", "Kanna , ny"),
        ("Kanna 199 SEK", 199, "kr", "Kanna"),
        ("Telefon 15 799 kr", 799, "kr", "Telefon 15"),
        ("Price 49.90 CHF", 49.9, "CHF", ""),
        ("Jetzt CHF 49.90 oder Fr. 49.90", 49.9, "CHF", "Jetzt oder"),
        ("Kessel CHF 1'049.95 neu", 1049.95, "CHF", "Kessel neu"),
        ("Kanna 199:- eller 199 kronor", 199, "kr", "Kanna eller"),
        ("Jetzt EUR19,99 oder 19.99EUR", 19.99, "€", "Jetzt oder"),
        ("Cena 129 zł", 129, "zł", ""),
        ("Czajnik 129 złotych", 129, "zł", "Czajnik"),
        ("Чайник 1990 рублей", 1990, "₽", "Чайник"),
        ("Цена 1990 ₽", 1990, "₽", ""),
        ("Цена: 1 990 руб. новый", 1990, "₽", "новый"),  # noqa: RUF001
        ("Kettle, now only ₩12,000", 12_000, "₩", "Kettle,"),
        ("やかん2,980円です", 2980, "円", "やかん です"),
        ("価格:2980", 2980, "¥", ""),
        ("Preis: 49,90", 49.9, "€", ""),
        ("Verkaufspreis: 49 inkl. MwSt.", 49, "€", "inkl. MwSt."),
        ("Preis (in €): 49,90", 49.9, "€", ""),
        ("UVP 59 € Kessel", 49, "€", "Kessel"),
        ("Kessel 49,- € oder 1 299 €", 49, "€", "Kessel oder 1 299 €"),
        ("Bouilloire 1 299 €", 1299, "€", "Bouilloire"),
        ("Chaleira R$ 49,90", 49.9, "R$", "Chaleira"),
        ("Kettle Rs.499", 499, "₹", "Kettle"),
        ("Precio: 499 olla", 499, "$", "olla"),
        ("FİYAT: 499", 499, "TL", ""),
        ('{"Preis": "49", "b": 1}', 49, "€", '{ "b": 1}'),
    ],
)
def test_a_statement_of_the_price_in_the_currency_and_language_of_the_shop_is_scrubbed(
    text: str, price: float, currency: str, left: str
) -> None:
    """Money beside a sign of the data's currency, or another sign of the same one, and what other languages call a
    price."""
    scrubbed, leaks = scrub(text, price, (currency,))
    assert scrubbed == left
    assert leaks and possible([text], (currency,)) == [True]


@pytest.mark.parametrize(
    ("text", "price", "currency"),
    [
        ("deposit 500 kr, versichert bis 500 €", 199, "kr"),
        ("5 krokar, kron 5, kraft 5 krav", 5, "kr"),
        ("Tel. 199 kr", 199, "$"),
        ("Preis: 59 beim letzten Mal", 49, "€"),
        ("Preis: 49 cm", 49, "€"),
        ("Grand Prix: 49, Grand Prix 49 €", 50, "€"),
        ("enterprise 49, scena: 49, Preisklasse: 49", 49, "€"),
        ("size R 5x, OR 5", 5, "R"),
    ],
)
def test_other_amounts_survive_in_any_currency(text: str, price: float, currency: str) -> None:
    """Money that is not the price, letters that are no sign, a bare number that is not the price, and another word."""
    assert scrub(text, price, (currency,)) == (text, [])


AMOUNTS = ["5", "5.00", "1,299", "$", "us", "Rs", "rs.", "€", "usd", "EUR", "Dollars", "bucks"]
LABELS = ["list", "price", "Cost", "m.s.r.p.", "MSRP", "rrp", "only", "now", "is"]
ABROAD = ["199", "1 990", "kr", "Kr.", "kronor", ":-", "Preis", "prix", "TTC", "cena", "F\u0130YAT", "価格", "UVP", ","]
OTHERS = [":", "-", "\u017f", "\u212a", "\u00a0", "_", " ", " ", " "]  # two of them letters that fold to s and k


@given(st.lists(st.sampled_from(AMOUNTS + LABELS + OTHERS), max_size=8).map("".join))
def test_the_quick_look_passes_over_no_statement(text: str) -> None:
    """Whatever the rules find in a text, the search that decides whether they are tried sees that they could."""
    _, leaks = scrub(text, 5.0)
    assert not leaks or possible([text]) == [True]


@given(st.lists(st.sampled_from(ABROAD + OTHERS), max_size=8).map("".join), st.sampled_from([199.0, 1990.0]))
def test_the_quick_look_passes_over_no_statement_in_another_language(text: str, price: float) -> None:
    """Nor in another currency, nor over the name of a detail that is a price."""
    _, leaks = scrub(text, price, ("kr",))
    assert not (leaks or is_price_name(text)) or possible([text], ("kr",)) == [True]


def test_the_quick_look_passes_over_most_texts() -> None:
    """A text or a detail without money and its words is not looked at again; prices by the name of a detail are."""
    assert possible(["A red kettle of 5 litres", "", "Discount: 5", "Was: 4 savings"]) == [False, False, True, True]


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("19.99 inches", 19.99),
        ("only 19.99 inches wide", 19.99),
        ("Weighs 49.99 pounds", 49.99),
        ("Ke$ha poster, A$AP shirt 2, $uicideboy$", 2),
        ("RS-232 cable, only RS 485", 485),
        ("cars. 499 parts", 499),
        ("price 2 pack", 2),
        ("Price: 12 pack", 12),
        ("best price guarantee 100%", 100),
        ("low cost 5 inch tool, costs 20% less", 5),
        ("Price match 2 year", 2),
        ("covers up to $500 of damage", 20),
        ("wallet for $5 bills", 4),
        ("Monopoly money $500 notes", 20),
        ("over $35 ships free", 10),
        ("a $1,000,000 idea, $5 million insured", 5),
        ("EUR 42 shoes, US 9", 30),
        ("now 5 pounds lighter", 5),
        ("12 V USD port, 5 USB ports", 5),
        ("just 2 left, was 2019 model", 2),
        ("costs: 4 batteries a year", 5),
        ("EUR 230 V mains", 230),
        ("EUR230V mains, USDA49, B5USD, 5USDs, INR18650 cell", 5),
        ("7 Euro plugs", 7),
        ('{"a": "price", "width": 5}', 5),
        ("Model MSRP-100, pricey 5, price/performance 10", 5),
    ],
)
def test_numbers_that_are_not_prices_survive(text: str, price: float) -> None:
    """Measures, counts, brands with a dollar sign, and money that is something else."""
    assert scrub(text, price) == (text, [])


def test_details_that_are_prices_go() -> None:
    """By their name, whatever they hold; and statements in the values of the others."""
    details = {"Brand": "Acme", "List Price": "49.99", "MSRP": "60", "Note": "only $9.99", "Price_Range": "x"}
    kept, leaks = scrub_details(details, 20)
    assert kept == {"Brand": "Acme", "Note": ""}
    assert len(leaks) == 4


@pytest.mark.parametrize(
    "name",
    [
        *("Preis", "Prix", "UVP", "Prix TTC", "Verkaufspreis", "Preis (EUR)", "Stara cena", "販売価格", "prixTTC"),
        *("Precio con IVA", "Цена за шт", "listprice", "Saleprices", "unitprice", "ITEMPRICE", "Price1", "costs"),
    ],
)
def test_names_of_prices_are_known(name: str) -> None:
    """In other languages, as those of columns are, and what is written as one word with them, in English too."""
    assert is_price_name(name)


@pytest.mark.parametrize(
    "name",
    ["Systèmes pris en charge", "Accessoires compris", "Grand Prix", "Scena", "Preisklasse", "Enterprise", "Costume"],
)
def test_names_that_only_look_like_prices_stay(name: str) -> None:
    """What something supports or includes, a race, a scene."""
    assert not is_price_name(name)


def test_long_text_takes_no_long_time_for_hostile_input() -> None:
    """Rules are linear: of eight times as many repetitions of what they look for they take eight times as long, and not
    sixty-four times. It is this thread's processor time, so that a busy machine makes no difference."""

    def seconds(text: str, key: str) -> float:
        begun = time.thread_time()
        scrub(text, 5.0, ("kr", "€"))
        scrub_details({key: text}, 5.0)
        return time.thread_time() - begun

    for part in ("price ", "our list ", "$", "1,111", "only for ", "<a ", "a_", "preis", "111 ", "kr "):
        few = min(seconds(part * 2_500, part * 250) for _ in range(3))
        assert seconds(part * 20_000, part * 2_000) < 30 * few + 0.1, part

"""Which column of a file is title, text, price, category and id: by names, and by what the values look like."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tasks.data.files.columns import WORDS, folded
from tasks.data.files.delimited import Row
from tasks.data.items import HUMP
from tasks.data.prices import ABROAD, FIGURE

# What such columns are called, in the languages of many shops; the first ones are the likeliest.
NAMES: dict[str, tuple[str, ...]] = {
    "price": (
        *("price", "sale price", "selling price", "unit price", "retail price", "list price", "price usd", "cost"),
        *("amount", "regular price", *ABROAD, "msrp", "rrp", "mrp"),
    ),
    "title": (
        *("title", "name", "product name", "product title", "item name", "product", "item", "headline", "label"),
        *("bezeichnung", "artikelbezeichnung", "titel", "produktname", "produkt", "artikelname", "nom", "titre"),
        *("désignation", "libellé", "produit", "nombre", "título", "producto", "titolo", "nome", "prodotto", "naam"),
        *(
            "namn",
            "navn",
            "nazwa",
            "název",
            "nimi",
            "ürün",
            "название",
            "наименование",
            "назва",
            "商品名",
            "名称",
            "상품명",
        ),
    ),
    "text": (
        *("description", "text", "long description", "product description", "body", "body html", "about", "blurb"),
        *("summary", "notes", "beschreibung", "artikelbeschreibung", "langtext", "descriptif", "descripción"),
        *("descrizione", "descrição", "omschrijving", "beskrivning", "beskrivelse", "opis", "popis", "kuvaus"),
        *("açıklama", "описание", "опис", "商品説明", "描述", "설명"),  # noqa: RUF001
    ),
    "category": (
        *("category", "main category", "product category", "product type", "department", "categories", "type"),
        *("group", "genre"),
        *("kategorie", "warengruppe", "produktgruppe", "rubrik", "catégorie", "rubrique", "categoría", "categoria"),
        *("categorie", "kategori", "kategoria", "luokka", "категория", "категорія", "カテゴリ", "分类", "카테고리"),
    ),
    "id": (
        *("id", "sku", "asin", "product id", "item id", "item number", "article number", "ean", "gtin", "upc", "mpn"),
        *("code", "product code", "handle", "artikel", "artikelnummer", "artikel nr", "art nr", "bestellnummer"),
        *("référence", "réf", "code article", "referencia", "código", "codice", "articolo", "artikelnr", "artnr"),
        *("indeks", "kód", "tuotekoodi", "ürün kodu", "артикул", "код", "品番", "编号", "상품코드"),
    ),
}
NEVER_PRICES = re.compile(
    r"\b(?:id|sku|(?:ean|gtin|upc)\d*|year|jahr|stock|qty|quantity|menge|rating|rank|reviews?|count|discount|tax|vat|mwst"
    r"|shipping|versand|lat|lon|zip|plz|position|index|row|weight|gewicht|height|width|depth|length)\b"
)
ENOUGH = 0.5  # of the values have to look like it
MOST_ROWS = 0.9  # have a price, if it is the price
SAMPLE = 1000  # values of a column that are looked at
NESTED = (Mapping, list, tuple)


@dataclass(frozen=True)
class Column:
    """What the values of a column look like; shares are of those that are not empty."""

    name: str
    filled: float
    prices: float  # look like an amount of money
    signs: float  # of these, with a sign or with cents
    letters: float  # hold a letter
    words: float  # on average
    length: float  # in characters, on average
    distinct: float
    priced: float  # of all rows: have an amount of money that is not zero


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """The columns of rows, in the order in which they come up."""
    values: dict[str, list[Any]] = {}
    for row in rows[:SAMPLE]:
        for key, value in row.items():
            if not key.startswith("\0"):
                values.setdefault(key, []).append(value)
    return [_column(name, found, min(len(rows), SAMPLE)) for name, found in values.items()]


def _column(name: str, values: list[Any], rows: int) -> Column:
    texts = [text for value in values if value is not None and (text := str(value).strip()) and value == value]
    count = max(1, len(texts))
    prices = [text for text in texts if _is_amount(text)]
    return Column(
        name,
        len(texts) / max(1, rows),
        len(prices) / count,
        sum(not text.isdigit() for text in prices) / max(1, len(prices)),
        sum(any(map(str.isalpha, text)) for text in texts) / count,
        fmean(len(text.split()) for text in texts) if texts else 0.0,
        fmean(map(len, texts)) if texts else 0.0,
        len(set(texts)) / count,
        sum(bool(re.search("[1-9]", text)) for text in prices) / max(1, rows),
    )


AMOUNT = re.compile(rf"[^\d\s]{{0,4}}\.?\s*{FIGURE}[.,]?[-\u2013]{{0,2}}\s*[^\d\s]{{0,4}}\s*\*?", re.IGNORECASE)


def _is_amount(text: str) -> bool:
    return bool(AMOUNT.fullmatch(text)) or bool(re.fullmatch(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", text))


def guess(rows: Sequence[Row], given: Mapping[Any, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
    """For each of our fields the column that is most likely it; what is `given` stands, and no column serves twice.

    Fields that the file has under our own names are found by these when it is read, and are left out here, unless
    their values are of another kind.
    """
    found: dict[str, str | tuple[str, ...]] = {str(ours): theirs for ours, theirs in given.items()}
    taken = {name for theirs in found.values() for name in ([theirs] if isinstance(theirs, str) else theirs)}
    columns = [column for column in columns_of(rows) if column.filled > 0.02]
    own = {folded(column.name): column for column in columns if column.name not in taken}
    for field, role in ROLES.items():
        if field in found or (field == "text" and WORDS & found.keys() - {"title"}):
            continue
        names = WORDS - {"title"} if field == "text" else {field}
        natural = [own[name] for name in sorted(names & own.keys()) if role.fits(own[name]) or field == "text"]
        if natural:
            taken.update(column.name for column in natural)
            continue
        likely = [(score, column.name) for column in columns if column.name not in taken and (score := role(column))]
        if not likely:
            continue
        score, best = max(likely, key=lambda pair: pair[0])
        if field == "price" and score < NAMED and price_within(rows):
            continue  # a number without a name, beside a price that cannot be read where it stands
        named = [name for score, name in likely if score >= NAMED]
        found[field] = tuple(named) if field == "text" and len(named) > 1 else best
        taken.update(named if field == "text" else [best])
        taken.add(best)
    return found


def price_within(rows: Sequence[Row]) -> str:
    """Where within other values the price of a row stands, as jq writes it (`.offers.price`); empty if it does not."""
    for row in rows[:SAMPLE]:
        held = {key: value for key, value in row.items() if isinstance(value, NESTED)}
        if found := list(_prices_within(held, "", 0.0)):
            return max(found, key=lambda pair: pair[0])[1]
    return ""


def _prices_within(value: Any, path: str, called: float, deeper: int = 6) -> Iterator[tuple[float, str]]:
    """The amounts within a value below keys that are called a price: how surely, and where."""
    if isinstance(value, NESTED) and deeper == 0:
        return
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not NEVER_PRICES.search(plain(str(key))):
                step = f".{key}" if re.fullmatch(r"(?a:[A-Za-z_]\w*)", str(key)) else f".{json.dumps(str(key))}"
                name = max(called, _called(str(key), NAMES["price"]))
                yield from _prices_within(part, path + step, name, deeper - 1)
    elif isinstance(value, NESTED):
        for part in value[:1]:
            yield from _prices_within(part, f"{path}[0]", called, deeper - 1)
    elif called and _is_amount(text := str(value).strip()) and re.search("[1-9]", text):
        yield called, path


NAMED = 1.0  # a score from which the name says it, and not only the values


@dataclass(frozen=True)
class Role:
    """How well a column serves as one of our fields: its name by NAMES, and `alone` where its values say it alone."""

    field: str
    alone: bool

    def __call__(self, column: Column) -> float:
        """0 where it does not; NAMED and more where its name says so."""
        if not self.fits(column):
            return 0.0
        name = _called(column.name, NAMES[self.field])
        score = name + _likeness(self.field, column) / 2 if name or self.alone else 0.0
        if self.field != "price":
            return score
        # A sale price is empty, or zero, where nothing is on sale; still its name says more than a number without one.
        least = NAMED if name else 0.0
        return least + (score - least) * min(1.0, column.priced / MOST_ROWS)

    def fits(self, column: Column) -> bool:
        """Whether its values can be it at all."""
        if self.field == "price":
            return column.prices >= ENOUGH and not NEVER_PRICES.search(plain(column.name))
        if self.field == "id":
            return column.distinct >= ENOUGH and column.words < 3
        if self.field == "category":
            return column.letters >= ENOUGH and column.distinct <= 0.7 and column.length < 120
        return column.letters >= ENOUGH and (self.field == "title" or column.words >= 3)


def _likeness(field: str, column: Column) -> float:
    """How much the values look like it, 0 to 1."""
    if field == "price":
        return column.prices * (0.3 + 0.7 * column.signs)
    if field == "title":
        return min(1.0, column.words / 2) * column.distinct * (1.0 if column.length <= 120 else 0.3)
    return min(1.0, column.length / 200) if field == "text" else 0.5


ROLES = {
    "price": Role("price", alone=True),
    "title": Role("title", alone=True),
    "text": Role("text", alone=True),
    "category": Role("category", alone=False),
    "id": Role("id", alone=False),
}


def plain(name: str) -> str:
    """A name without case, underscores and the like: `Sale_Price (EUR)` is `sale price eur`."""
    return " ".join(re.findall(r"\w+", HUMP.sub(" ", name.replace("_", " ")).casefold()))


def _called(name: str, names: Sequence[str]) -> float:
    """2 and a little where it is one of the names, 1 and a little where it holds one, 0 where not; first names count
    more."""
    bare, words = plain(name), set(plain(name).split())
    if bare in names:
        return 2.0 + (len(names) - names.index(bare)) / len(names) / 2
    held = [place for place, known in enumerate(names) if set(known.split()) <= words]
    return 1.0 + (len(names) - held[0]) / len(names) / 2 if held else 0.0

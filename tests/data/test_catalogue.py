"""The generated catalogue: the same everywhere, worth reading, and honest about the best possible guess."""

import hashlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from tasks.data import catalogue

SEED, ROWS = 7, 5000
BRANDS = re.compile("|".join(brand for brands in catalogue.BRANDS.values() for brand in brands))


@cache
def sample() -> tuple[list[dict], np.ndarray, np.ndarray]:
    """Rows, their prices (rows,), and the floor's guess with its 10% and 90% quantiles (rows, 3), in US dollars."""
    rows = list(catalogue.generate(ROWS, SEED))
    floor = catalogue.floor(ROWS, SEED)
    return rows, np.array([row["price"] for row in rows]), np.array([floor[row["id"]] for row in rows])


def words(row: dict) -> str:
    return " ".join([row["title"], *row["description"], *row["features"]])


def everything(row: dict) -> str:
    return " ".join([words(row), *row["details"].values()])


def gain(guess: np.ndarray, other: np.ndarray, price: np.ndarray) -> tuple[float, float]:
    """By how many dollars `guess` is nearer to the price than `other` on average, and the standard error of that."""
    difference = np.abs(other - price) - np.abs(guess - price)
    return difference.mean(), difference.std() / np.sqrt(len(difference))


def test_the_catalogue_does_not_depend_on_the_process():
    """Another process with another hash seed writes the same rows and the same floor."""
    code = (
        "import hashlib, json; from tasks.data import catalogue as c;"
        "print(hashlib.sha256(json.dumps([list(c.generate(200, 8)), c.floor(200, 8)]).encode()).hexdigest())"
    )
    here = json.dumps([list(catalogue.generate(200, 8)), catalogue.floor(200, 8)]).encode()
    root = Path(catalogue.__file__).parents[2]
    there = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_a_row_does_not_depend_on_how_many_are_asked_for():
    """A small catalogue is the beginning of a large one, its floor too; another seed gives other rows."""
    rows, _, floors = sample()
    assert list(catalogue.generate(100, SEED)) == rows[:100]
    np.testing.assert_allclose(list(catalogue.floor(100, SEED).values()), floors[:100], rtol=1e-9)
    assert {row["title"] for row in catalogue.generate(100, SEED + 1)} != {row["title"] for row in rows[:100]}


def test_rows_have_the_shape_of_amazon_metadata():
    """Every row has a unique id, words in the fields where Amazon has them, and a price in dollars and cents."""
    rows, _, _ = sample()
    assert len({row["id"] for row in rows}) == ROWS
    assert {row["category"] for row in rows} == set(catalogue.CATEGORIES)
    assert len(catalogue.CATEGORIES) == 8
    for row in rows:
        assert row["title"] and (row["description"] or row["features"])
        assert all(isinstance(text, str) and text for text in [*row["description"], *row["features"]])
        assert all(isinstance(value, str) for value in row["details"].values())
        assert row["price"] == round(row["price"], 2)


def test_prices_spread_widely_and_hardly_ever_meet_the_bounds():
    """A constant guess is a bad one, and the bounds on the price do not shape it."""
    _, prices, _ = sample()
    assert 70 < np.median(prices) < 110
    assert 120 < prices.mean() < 200
    assert 1.1 < np.log(prices).std() < 1.3
    assert np.mean((prices <= 2) | (prices >= 990)) < 0.005


def test_no_text_holds_its_price():
    """Neither a dollar sign nor the price's own digits are on the page."""
    for row in sample()[0]:
        assert "$" not in everything(row)
        assert f"{row['price']:.2f}" not in everything(row)


def test_texts_are_short_and_their_numbers_survive_cleaning():
    """Between 3 and 24 words, and no word with a digit is long enough to be taken for a part number."""
    for row in sample()[0]:
        found = words(row).split()
        assert 3 <= len(found) <= 24, words(row)
        assert not [word for word in found if len(word) > 6 and re.search(r"\d", word)], words(row)


def test_rows_hardly_ever_repeat():
    """Under one row in a hundred has the title and text of another."""
    rows, _, _ = sample()
    assert len({words(row) for row in rows}) > 0.99 * ROWS


def test_the_details_name_only_a_brand_that_the_text_names():
    """The floor counts as known what the words tell, so the details must not tell more."""
    branded = [row for row in sample()[0] if "Brand" in row["details"]]
    assert branded
    assert all(row["details"]["Brand"] in words(row) for row in branded)


def test_every_size_can_be_told_from_the_others():
    """Rounding and change of unit never write two sizes of a product alike, in whatever wording."""
    for product in catalogue.PRODUCTS:
        for wording, scale in catalogue.UNITS.get(product.unit, ()):
            written = {catalogue.size_words(size, wording, scale) for size in product.sizes}
            assert len(written) == len(product.sizes), (product.names, written)


def test_what_is_told_has_nothing_to_do_with_the_price():
    """Rows that tell an attribute cost as much as rows that hide it: what is missing is missing at random."""
    rows = [draw for _, draw in catalogue.draws(ROWS, SEED)]
    for attribute in set(catalogue.TOLD) - {"pack"}:
        having = [row for row in rows if attribute in row.values or attribute == "brand"]
        told = np.array([attribute in row.told for row in having])
        prices = np.log([row.price / row.product.base for row in having])
        error = prices.std() * np.sqrt(1 / told.sum() + 1 / (~told).sum())
        assert abs(prices[told].mean() - prices[~told].mean()) < 4 * error, attribute


def test_the_floor_is_calibrated_whatever_is_hidden():
    """Four in five prices lie within the quantiles and half lie below the guess, with and without a brand told."""
    rows, prices, floors = sample()
    named = np.array([bool(BRANDS.search(words(row))) for row in rows])
    for part in (named, ~named):
        guess, low, high = floors[part].T
        error = 4 * 0.5 / np.sqrt(part.sum())  # four standard errors of a share, at most
        assert abs(np.mean((low <= prices[part]) & (prices[part] <= high)) - 0.8) < error
        assert abs(np.mean(prices[part] < guess) - 0.5) < error
    assert np.median((floors[:, 2] / floors[:, 1])[~named]) > 1.5 * np.median((floors[:, 2] / floors[:, 1])[named])


def test_the_floor_beats_shifted_versions_of_itself():
    """A tenth less or more has a larger mean absolute error, beyond chance."""
    _, prices, floors = sample()
    for factor in (0.9, 1.1):
        better, error = gain(floors[:, 0], factor * floors[:, 0], prices)
        assert better > 3 * error


def test_words_matter_and_leave_room_to_improve():
    """A linear model of the words is far better than a constant, and clearly worse than the floor."""
    rows, prices, floors = sample()
    train, test = slice(0, 2400), slice(2400, ROWS)
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = Ridge(0.3).fit(vectors.fit_transform([words(row) for row in rows[train]]), np.log(prices[train]))
    guess = np.exp(model.predict(vectors.transform([words(row) for row in rows[test]])))
    constant, linear, best = (
        np.abs(other - prices[test]).mean() for other in (np.median(prices[train]), guess, floors[test, 0])
    )
    assert best < 0.36 * constant
    assert 1.2 * best < linear < 0.65 * constant


def test_nothing_on_the_page_improves_on_the_floor():
    """A model that starts from the floor's guess and reads the whole page is not better beyond chance."""
    rows, prices, floors = sample()
    train, test = slice(0, 3500), slice(3500, ROWS)
    vectors = TfidfVectorizer(min_df=5)
    seen = vectors.fit_transform([everything(row) for row in rows[train]])
    model = Ridge(3.0, fit_intercept=False).fit(seen, np.log(prices[train] / floors[train, 0]))
    change = model.predict(vectors.transform([everything(row) for row in rows[test]]))
    better, error = gain(floors[test, 0] * np.exp(change), floors[test, 0], prices[test])
    assert better < 3 * error

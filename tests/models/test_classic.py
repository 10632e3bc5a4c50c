"""Every classic model fits, answers sensibly, and is the same after saving and loading."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits

from tasks.data.catalogue import generate
from tasks.data.items import Item, from_row
from tasks.errors import ModelGoneError
from tasks.models.classic import BASELINES, Classic
from tasks.models.features import Neighbours, NeighboursOfTexts, OutOfFold, basic_features, stated, table, weights
from tasks.models.loading import load_predictor
from tasks.models.network import Network
from tasks.models.terms import Counts
from tasks.scoring.metrics import measure

WORDS = [f"word{letter}{number}" for letter in "abcdefgh" for number in range(10)]


@pytest.fixture(scope="module")
def splits() -> tuple[list[Item], list[Item], list[Item]]:
    """Train, validation and test of another catalogue than the default one."""
    rows = [from_row(row) for row in generate(1200, seed=11)]
    return rows[:700], rows[700:950], rows[950:]


@pytest.fixture(scope="module")
def fitted(splits: tuple) -> Callable[[str], Classic]:
    """A model fitted on them, once for all tests."""
    return functools.cache(lambda name: Classic.fit(name, splits[0], splits[1], seed=1))


@pytest.mark.parametrize("name", BASELINES)
def test_a_rung_survives_saving_and_answers_within_the_prices_it_saw(
    name: str, splits: tuple, fitted: Callable[[str], Classic], tmp_path: Path
) -> None:
    """Loaded again it gives the same answers; they are prices, with the interval around them."""
    train, _, test = splits
    entry = fitted(name)
    entry.save(tmp_path)
    answer, again = entry.predict(test), load_predictor(tmp_path).predict(test)
    np.testing.assert_array_equal(answer.price, again.price)
    np.testing.assert_array_equal(answer.high, again.high)
    assert answer.price.shape == (len(test),)
    assert answer.price.dtype == answer.low.dtype == answer.high.dtype == float  # one table holds those of all models
    assert (answer.price > 0).all() and (answer.low <= answer.high).all() and (answer.low >= 0).all()
    prices = [item.price for item in train]
    assert answer.price.min() >= min(prices) and answer.price.max() <= max(prices)


def test_the_interval_of_a_rung_holds_about_four_truths_in_five(
    splits: tuple, fitted: Callable[[str], Classic]
) -> None:
    """It is learned from validation, and holds on test."""
    test = splits[2]
    answer = fitted("tfidf_ridge").predict(test)
    truth = np.array([item.price for item in test])
    assert 0.7 < np.mean((answer.low <= truth) & (truth <= answer.high)) < 0.9


def test_a_rung_that_saw_too_few_validation_items_gives_no_interval(splits: tuple, tmp_path: Path) -> None:
    """Between the least and the greatest of eight errors lie 78% of new ones: prices alone, also once it was saved, in
    a file that is JSON, and no figure of an interval."""
    train, validation, test = splits
    assert Classic.fit("constant", train, validation[:9], seed=1).spread is not None
    few = Classic.fit("constant", train, validation[:8], seed=1)
    few.save(tmp_path)
    json.loads((tmp_path / "predictor.json").read_text(), parse_constant=pytest.fail)
    answer = load_predictor(tmp_path).predict(test)
    assert np.isnan(answer.low).all() and np.isnan(answer.high).all() and not np.isnan(answer.price).any()
    figures = measure([item.price for item in test], answer)
    assert figures["coverage"] is None and figures["width"] is None and figures["mae"] is not None


def test_reading_the_words_beats_a_guess_and_the_right_constant_is_the_median(
    splits: tuple, fitted: Callable[[str], Classic]
) -> None:
    """The order of the ladder: random, constants, words, and what reads more than words."""
    test = splits[2]
    truth = np.array([item.price for item in test])
    mae = {name: np.abs(fitted(name).predict(test).price - truth).mean() for name in BASELINES}
    assert mae["tfidf_ridge"] < mae["constant_median"] < mae["random"]
    assert mae["tfidf_ridge"] < 0.8 * mae["constant"]
    assert min(mae["network"], mae["boosting"]) < mae["tfidf_ridge"] < mae["word2vec_linear"]


def test_titles_may_be_missing_and_texts_may_share_no_words(splits: tuple, tmp_path: Path) -> None:
    """Then the models go by what there is, and answer for an item that has a title all the same."""
    items = splits[0][:40]
    untitled = [dataclasses.replace(item, title="", text=f"{item.title} {item.text}") for item in items]
    alone = [dataclasses.replace(item, title=f"title{number}") for number, item in enumerate(items)]
    apart = [Item(item.id, f"title{number}", f"text{number}", price=item.price) for number, item in enumerate(items)]
    cases = [("network", untitled), ("network", alone)]
    cases += [(name, apart) for name in ("network", "boosting", "tfidf_ridge", "neighbours")]
    for place, (name, train) in enumerate(cases):
        model, folder = Classic.fit(name, train, [], seed=1), tmp_path / str(place)
        price = model.predict([*train, *items]).price
        assert np.isfinite(price).all() and (name != "network" or len(set(price)) > 20)
        folder.mkdir()
        model.save(folder)
        np.testing.assert_array_equal(load_predictor(folder).predict([*train, *items]).price, price)


def test_a_fit_is_the_same_on_any_number_of_cores() -> None:
    """To the last bit: trees that come after it part the items otherwise for less. Its vectors are long ones."""
    random, train = np.random.default_rng(5), []
    for number in range(300):
        text = " ".join(random.choice(3000, 45).astype(str))
        train += [
            Item(f"{number}-{copy}", copy, text, price=float(random.integers(5, 500))) for copy in ("red", "blue")
        ]
    fits = []
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            fits.append(Classic.fit("tfidf_ridge", train, [], seed=1).estimator[-1].coef_)
    assert len(fits[0]) > 10_000
    np.testing.assert_array_equal(fits[1:], fits[:-1])


def test_words_are_read_where_no_spaces_part_them() -> None:
    """A Japanese shop whose products and materials make the price: hardly two of its lines are the same."""
    extras = ["折りたたみ", "軽量", "防水", "日本製", "送料無料", "大型", "人気", "新品"]
    products, materials = ["椅子", "机", "棚", "照明", "冷蔵庫", "自転車"], ["木製", "ステンレス", "銀", "ガラス"]
    random, shop = np.random.default_rng(3), []
    for number in range(160):
        product, material = random.integers(len(products)), random.integers(len(materials))
        line = "".join([*random.permutation(extras)[:3], products[product], materials[material], f"{number}番"])
        shop.append(Item(str(number), line, "", price=float(10 * 2 ** (product + material / 2))))
    truth = np.array([item.price for item in shop[120:]])
    errors = {
        name: np.abs(Classic.fit(name, shop[:120], [], seed=1).predict(shop[120:]).price - truth).mean()
        for name in ("constant_median", "bag_of_words", "tfidf_ridge", "neighbours", "boosting")
    }
    constant = errors.pop("constant_median")
    assert max(errors.values()) < 0.8 * constant
    # A few such lines change nothing of a catalogue in another language.
    texts = ["steel chair", "oak chair", "oak table"] * 10
    assert "木" not in Counts().fit([*texts, "木製 chair"]).vocabulary_
    assert {"木", "oak"} < Counts().fit([*texts, *["木製 chair"] * 9]).vocabulary_.keys()


def test_a_random_price_stays_in_the_range_of_training() -> None:
    """Of cars as of screws: it would otherwise be a row that says nothing."""
    cars = [Item(str(n), f"car {n}", "", price=20_000.0 + n) for n in range(200)]
    prices = Classic.fit("random", cars, cars[:50], seed=0).predict(cars).price
    assert prices.min() >= 20_000 and prices.max() <= 20_199 and np.ptp(prices) > 150


def test_basic_features_are_read_from_details_as_amazon_writes_them() -> None:
    """Weight in pounds, mean rank, length, top brand; NaN where the details do not say."""
    details = {"Item Weight": "8 ounces", "Best Sellers Rank": "#1,000 in Tools #3 in Saws", "Brand": "Sony"}
    rows = basic_features([Item("1", "ab", "cde", details=details), Item("2", "a", "")])
    np.testing.assert_allclose(rows, [[0.5, 501.5, 5, 1], [np.nan, np.nan, 1, 0]])


def test_the_table_reads_sizes_packs_and_weights_from_the_text() -> None:
    """The first and the largest weight in pounds, the volume, the pack; NaN where the text does not say."""
    text = "Weighs 8 ounces, shipped 2.5 pounds, 10 x 4 x 2 inches, pack of 6, item 999999999999999999999 pieces"
    row, bare = table([Item("1", "Nut 7 and 12", text), Item("2", "Nut", "")]).to_dict("records")
    np.testing.assert_allclose(np.exp([row["weight"], row["heaviest"], row["pack"]]), [0.501, 2.501, 6])
    np.testing.assert_allclose(np.expm1([row["volume"], row["largest_number"]]), [80, 12])
    assert row["numbers"] == 2
    assert np.isnan([bare[key] for key in ("weight", "heaviest", "volume", "pack", "largest_number")]).all()
    assert weights("7 hundredths pounds, 1,000 grams, 1.2.3 lb") == pytest.approx([0.07, 2.20462])


def test_a_decimal_comma_is_told_from_the_comma_of_thousands_and_of_a_list() -> None:
    """Before one or two last digits or behind a lone zero it is the one, before three the other. Measures show by their
    unit that it parts no two of them."""
    stated_weights = {
        "0,75 kg": 0.75, "12,5kg": 12.5, "0,500 kg": 0.5, "Lampe,0,75 kg": 0.75, "1.500,5 kg": 1500.5,
        "1,500 kg": 1500, "1,234,567 kg": 1234567, "1,000.5 kg": 1000.5, "oak,5 kg": 5, "7.5 kg": 7.5,
    }  # fmt: skip
    assert {text: weights(text)[0] / 2.20462 for text in stated_weights} == pytest.approx(stated_weights)
    stated_sizes = {
        "12,5 x 3,2 x 4 cm": "12.5 x 3.2 x 4", "30x20,5x10mm": "30 x 20.5 x 10", "4 x 5 x 6,5 \u043c": "4 x 5 x 6.5",
        "3, 4 x 5 x 6 cm": "4 x 5 x 6", "2,3,4 x 5 x 6 cm": "4 x 5 x 6", "1x2x3,4x5x6": "4 x 5 x 6", "20X12,6X135": "",
        "1.5 x 2. x 3.25 m": "1.5 x 2. x 3.25",
    }  # fmt: skip
    assert {text: stated(Item("1", text, "")) for text in stated_sizes} == stated_sizes


def test_thousands_of_digits_are_read_at_once_and_are_no_measure() -> None:
    """A pattern that tried them from each digit on would take hours for one such text, and what no number can hold is
    left out: scikit-learn refuses it, and with it all rows."""
    digits = "1" * 20_000
    for unit in ("", " pounds", " x 2 x 2", " x 2 x 2,5 cm", " in", f"{' ' * 20_000}-{' ' * 20_000}"):
        details = {"Item Weight": f"{digits}{unit}", "Best Sellers Rank": f"#{digits} in Tools"}
        item = Item("1", "Nut", f"{digits}{unit}, 3 lb, 4 x 2 x 1", details=details)
        (row,) = table([item]).to_dict("records")
        np.testing.assert_allclose([np.exp(row["heaviest"]), np.expm1(row["volume"])], [3.001, 8])
        assert np.isnan(row["pack"]) and np.isnan(basic_features([item])[0, :2]).all()
        assert stated(item) == "Weight 3 pounds, 4 x 2 x 1"


def test_training_items_are_not_their_own_neighbours() -> None:
    """Figures of training items leave out the item itself; the answer is the weighted median of the others."""
    rows = csr_matrix(np.eye(3)[[0, 0, 1, 1, 1]])
    target = np.array([1.0, 3.0, 10.0, 20.0, 90.0])
    neighbours = Neighbours(count=2)
    figures = neighbours.fit_transform(rows, target)
    assert figures[0, 2] == 3.0 and figures[1, 2] == 1.0
    assert set(figures[2:, 2]) <= {10.0, 20.0, 90.0} and (figures[2:, 2] != target[2:]).all()
    np.testing.assert_allclose(figures[:, 3], 1, atol=1e-6)
    assert Neighbours(count=3).fit(rows, target).predict(rows[2:3]) == [20.0]
    with pytest.raises(ValueError, match="at least two"):
        neighbours.fit(rows[:1], target[:1])


def test_a_prediction_used_as_a_feature_has_not_seen_its_own_target() -> None:
    """A model that repeats what it was shown learns nothing about the rows it is a feature of."""
    random = np.random.default_rng(0)
    texts = [f"{' '.join(random.permutation(WORDS)[:12])} number{row}" for row in range(200)]
    target = random.normal(size=200)
    feature = OutOfFold(make_pipeline(Counts(), KNeighborsRegressor(1)))
    inside = np.corrcoef(feature.fit_transform(texts, target)[:, 0], target)[0, 1]
    assert abs(inside) < 0.25
    np.testing.assert_array_equal(feature.transform(texts)[:, 0], target)
    # Nor those of near duplicates: with each item there four times, its nearest would know the answer.
    texts, target = texts * 4, np.tile(target, 4)
    inside = np.corrcoef(feature.fit_transform(texts, target)[:, 0], target)[0, 1]
    assert abs(inside) < 0.25
    kept = OutOfFold(make_pipeline(Counts(), KNeighborsRegressor(1)), near=None).fit_transform(texts, target)
    assert np.corrcoef(kept[:, 0], target)[0, 1] > 0.9


def test_a_shop_of_few_families_has_boosting_too() -> None:
    """Of three families of variants there are three folds. What cannot be fitted at all says so in words of ours."""
    families = [" ".join(WORDS[start : start + 14]) for start in (0, 20, 40)]
    items = [
        Item(f"{a}{b}", f"{family} v{b}", "", price=10.0 * a + b)
        for a, family in enumerate(families, 1)
        for b in range(9)
    ]
    assert np.isfinite(Classic.fit("boosting", items, [], seed=1).predict(items).price).all()
    with pytest.raises(ValueError, match="need two training items that are not near duplicates"):
        OutOfFold(make_pipeline(Counts(), KNeighborsRegressor(1))).fit_transform([families[0]] * 9, np.arange(9.0))
    with pytest.raises(ValueError, match="themes need training items with two different words"):
        Classic.fit("boosting", [Item(str(n), "Lamp", "of the", price=n + 5.0) for n in range(9)], [], seed=1)
    with pytest.raises(ValueError, match="no training item has one"):
        Classic.fit("word2vec_linear", [Item(str(n), f"{n} {n}", "", price=n + 5.0) for n in range(9)], [], seed=1)


def test_variants_of_a_product_are_not_its_neighbours_in_training() -> None:
    """A new item has no near duplicate among the training items, so the figures of these do not come from theirs."""
    random = np.random.default_rng(1)
    products = [" ".join(random.permutation(WORDS)[:14]) for _ in range(200)]
    texts = [f"{product} colour{number}" for product in products for number in range(3)]
    target = np.repeat(random.normal(size=200), 3)
    figures = NeighboursOfTexts().fit_transform(texts, target)
    assert abs(np.corrcoef(figures[:, 2], target)[0, 1]) < 0.3  # what the nearest costs
    assert np.corrcoef(NeighboursOfTexts(near=None).fit_transform(texts, target)[:, 2], target)[0, 1] > 0.99
    everything = NeighboursOfTexts().fit(["the same words for each item"] * 30, np.arange(30.0))
    assert np.isfinite(everything.transform(["the same words"])).all()


def test_networks_repeat_themselves_and_refuse_what_is_not_finite() -> None:
    """The same seed gives the same weights, another one others; a diverged training is an error, not a model."""
    random = np.random.default_rng(0)
    rows = csr_matrix(random.random((64, 10), dtype=np.float32))
    target = rows.toarray() @ np.arange(10.0)

    def answers(**settings: float) -> np.ndarray:
        return Network(networks=2, **settings).fit(rows, target).predict(rows)

    np.testing.assert_array_equal(answers(), answers())
    assert (answers() != answers(random_state=1)).any()
    with pytest.raises(ValueError, match="did not converge"):
        answers(learning_rate=1e38)


def test_a_model_whose_name_is_no_entry_any_more_is_gone(fitted: Callable[[str], Classic], tmp_path: Path) -> None:
    """It was renamed or removed since: as a champion it gives way."""
    fitted("constant").save(tmp_path)
    file = tmp_path / "predictor.json"
    file.write_text(file.read_text().replace('"constant"', '"of_old"'))
    with pytest.raises(ModelGoneError, match=r"is of_old, which this version .* Expected one of random, constant"):
        load_predictor(tmp_path)


def test_a_model_file_that_asks_for_other_types_is_refused(fitted: Callable[[str], Classic], tmp_path: Path) -> None:
    """A model is data: loading one never runs what somebody put into it. Nor is such a file kept."""
    import skops.io

    fitted("constant").save(tmp_path)
    assert json.loads((tmp_path / "predictor.json").read_text())["name"] == "constant"
    # The second one would run the text that the first one writes into each row: functions of a library are no types.
    texts = FunctionTransformer(np.full_like, kw_args={"fill_value": "raise SystemExit", "dtype": object})
    running = make_pipeline(texts, FunctionTransformer(sorted, kw_args={"key": exec}))
    for estimator, named in ((Classic("constant", None, 0.0, 1.0), "Classic"), (running, r"builtins\.exec")):
        skops.io.dump(estimator, tmp_path / "estimator.skops")
        with pytest.raises(ValueError, match=rf"asks for .*{named}.*; expected estimators of scikit-learn"):
            load_predictor(tmp_path)
        with pytest.raises(ValueError, match=rf"made of .*{named}.*TRUSTED in tasks/models/estimator_files\.py"):
            Classic("constant", estimator, 0.0, 1.0).save(tmp_path)

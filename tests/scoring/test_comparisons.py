"""The figures and ranks of a leaderboard, by hand examples and simulation."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from tasks.scoring.comparisons import compare, shared_ranks
from tasks.scoring.metrics import absolute_error
from tasks.scoring.resampling import bootstrap_interval, paired_comparison
from tests.scoring.made import noisy, prices

NAN = math.nan


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_than_six_items_tell_no_models_apart(n: int) -> None:
    """One of two equal models is better on each of five items in one of sixteen samples: on two items, two constants
    were told apart in more than a third of them, as the differences are all the same there."""
    truth = np.linspace(10, 60, 6)
    guesses = {"leader": truth + 1, "worse": truth + 5, "few": np.where(np.arange(6) < n, truth + 9, NAN)}
    kinds = dict.fromkeys(guesses, "baseline")
    whole = compare(truth, guesses, kinds, seed=0, resamples=200)
    assert [whole[model].rank for model in guesses] == [1, 3, 1] and whole["few"].p_value == 1.0
    short = compare(truth[:n], {model: guess[:n] for model, guess in guesses.items()}, kinds, seed=0, resamples=200)
    assert [short[model].rank for model in guesses] == [1, 1, 1] and short["worse"].p_value == 1.0
    assert short["worse"].difference_low is whole["few"].difference_low is None
    pair = paired_comparison(np.full(n, 1.0), np.full(n, 5.0), seed=0, resamples=200)
    assert pair.p_value == 1.0 or (n == 1 and math.isnan(pair.p_value))
    assert paired_comparison(np.full(6, 1.0), np.linspace(5, 6, 6), seed=0, resamples=200).p_value < 0.05


def test_ranks_are_shared_by_all_that_cannot_be_told_from_the_best() -> None:
    """1, 1, 1 for the tied, then 4, 5 by MAE; equal MAEs share a rank."""
    maes = {"a": 10.0, "b": 10.5, "c": 11.0, "d": 14.0, "e": 12.0}
    p_values = {"a": None, "b": 0.9, "c": 0.05, "d": 0.001, "e": 0.049}
    assert shared_ranks(maes, p_values) == {"a": 1, "b": 1, "c": 1, "e": 4, "d": 5}
    told_apart = {"c": 12.0, "a": 10.0, "b": 11.0, "d": 12.0}
    assert shared_ranks(told_apart, dict.fromkeys("bcd", 0.001)) == {"a": 1, "b": 2, "c": 3, "d": 3}


def contest(seed: int = 20, n: int = 500) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, str]]:
    """A clear leader, its near twin, two that are worse, and the rows that may not lead."""
    truth, random = prices(seed, n)
    leader = noisy(truth, random, 0.2)
    some = np.arange(n) < 50
    guesses = {
        "constant": np.full(n, truth.mean()),
        "ridge": noisy(truth, random, 0.5),
        "tuned": leader,
        "twin": leader + np.where(np.arange(n) % 2, 0.01, -0.01),
        "human": np.where(some, truth, NAN),
        "nobody": np.full(n, NAN),
        "floor": truth + 0.5,
        "recorded/perfect": truth + 1.0,
        "recorded/poor": np.where(some, truth * 3, NAN),
    }
    kinds = {"constant": "baseline", "ridge": "baseline", "tuned": "finetuned", "twin": "blend", "human": "human"}
    kinds |= {"nobody": "api", "floor": "floor", "recorded/perfect": "recorded", "recorded/poor": "recorded"}
    return truth, guesses, kinds


def test_compare_ranks_a_whole_contest() -> None:
    """Whoever made it, the best complete row leads; the floor has no rank; a row of some items is ranked by those."""
    truth, guesses, kinds = contest()
    board = compare(truth, guesses, kinds, seed=1, resamples=2_000)
    assert board["recorded/perfect"].rank == 1 and board["recorded/perfect"].p_value is None
    assert board["recorded/perfect"].difference == 0
    assert board["human"].rank == 1  # perfect on the fifty items that were priced
    worse = sorted(("tuned", "twin", "constant", "ridge", "recorded/poor"), key=lambda model: board[model].mae or 0)
    ranks = [board[model].rank for model in worse]
    assert ranks[0] == 3 and ranks == sorted(ranks)
    assert board["floor"].rank is None and board["floor"].p_value is None
    assert (board["floor"].difference or 0) < 0


def unequal(sample: int, spread: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Prices [100], and guesses whose mean errors are to each other as `spread` [models]."""
    random = np.random.default_rng([33, sample])
    truth = random.lognormal(4, 1, 100)
    steps = truth * spread[:, None] * random.normal(0, 1, (1, 100)) * random.lognormal(0, 0.3, (len(spread), 100))
    return truth, {str(place): truth + step for place, step in enumerate(steps)}


def test_the_interval_beside_the_leader_holds_although_it_was_picked() -> None:
    """Of boards of equal models, one in twenty at most has an interval that misses the difference of zero; those of
    pairs that nobody picked would miss it on two of three boards."""
    missed = naive = 0
    for sample in range(100):
        truth, guesses = unequal(sample, np.full(8, 0.4))
        board = compare(truth, guesses, dict.fromkeys(guesses, "baseline"), seed=sample, resamples=200)
        lows = [figures.difference_low for figures in board.values()]
        missed += any(low is not None and low > 0 for low in lows)
        leader = min(board, key=lambda model: board[model].mae or 0)
        apart = [absolute_error(truth, guess) - absolute_error(truth, guesses[leader]) for guess in guesses.values()]
        naive += bool((bootstrap_interval(apart, seed=sample, resamples=200)[0] > 0).any())
    assert missed <= 8 and naive >= 50


def test_no_interval_speaks_against_the_rank_beside_it() -> None:
    """One that shares rank 1 may be no worse than the leader, and one that does not is behind."""
    ranks = set()
    for sample in range(40):
        truth, guesses = unequal(sample, np.linspace(0.3, 0.7, 8))
        board = compare(truth, guesses, dict.fromkeys(guesses, "baseline"), seed=sample, resamples=200)
        for figures in board.values():
            low, high = figures.difference_low, figures.difference_high
            assert low is not None and high is not None and low <= (figures.difference or 0.0) <= high
            assert low <= 0 if figures.rank == 1 else low >= 0
            ranks.add(figures.rank)
    assert len(ranks) > 4


def test_partial_rows_are_told_apart_however_many_and_however_few_the_resamples() -> None:
    """The p of each is corrected for their number, and of a hundred resamples none is small enough for six."""
    truth, random = prices(5, 300)
    guesses = {"leader": noisy(truth, random, 0.1)}
    guesses |= {f"part{n}": np.where(np.arange(300) % 9 == n, NAN, truth * 3) for n in range(6)}
    board = compare(truth, guesses, dict.fromkeys(guesses, "baseline"), seed=0, resamples=100)
    assert board.pop("leader").rank == 1
    assert all((row.rank or 1) > 1 and (row.difference_low or 0) > 0 for row in board.values())


def test_a_row_of_cheap_items_is_ranked_by_its_distance_to_the_leader() -> None:
    """It is certainly the worst on the items that it covers; that these are cheap does not lift it over others."""
    truth, random = prices(3, 400)
    cheap = truth <= np.quantile(truth, 0.2)
    guesses = {
        "leader": noisy(truth, random, 0.2),
        "second": noisy(truth, random, 0.25),
        "cheap": np.where(cheap, truth + 10, NAN),
    }
    board = compare(truth, guesses, dict.fromkeys(guesses, "baseline"), seed=1, resamples=2_000)
    assert (board["cheap"].mae or 0) < (board["second"].mae or 0) and board["cheap"].n == cheap.sum()
    assert [board[model].rank for model in guesses] == [1, 2, 3]


def test_compare_counts_covered_items_and_compares_on_them() -> None:
    """A row of 50 items has n 50, and its difference is taken on those 50."""
    truth, guesses, kinds = contest()
    board = compare(truth, guesses, kinds, seed=1, resamples=500)
    errors = {model: absolute_error(truth, guess)[:50] for model, guess in guesses.items()}
    expected = np.mean(errors["recorded/poor"] - errors["recorded/perfect"])
    assert board["human"].n == board["recorded/poor"].n == 50
    assert board["recorded/poor"].difference == pytest.approx(expected)
    nobody = board["nobody"]
    assert nobody.n == 0
    assert {nobody.mae, nobody.mae_low, nobody.difference, nobody.p_value, nobody.rank, nobody.metrics["r2"]} == {None}


def test_compare_is_json_without_nan_and_the_same_again() -> None:
    """The result is strict JSON, and the same seed gives it again."""
    truth, guesses, kinds = contest()

    def once() -> str:
        board = compare(truth, guesses, kinds, seed=5, resamples=300)
        return json.dumps({name: dataclasses.asdict(figures) for name, figures in board.items()}, allow_nan=False)

    assert once() == once()


def test_compare_without_a_complete_row_has_no_ranks() -> None:
    """When no model answered every item there is nobody to compare with, and no rank is made up."""
    board = compare([1.0, 2.0, 3.0], {"human": [1.0, 2.5, NAN]}, {"human": "human"}, seed=0, resamples=100)
    assert board["human"].mae == 0.25
    assert board["human"].rank is None and board["human"].difference is None


@pytest.mark.parametrize(
    ("guess", "message"), [([1.0], "expected 2 guesses"), ([1.0, math.inf], "must be a finite number")]
)
def test_compare_refuses_what_it_cannot_score(guess: list[float], message: str) -> None:
    """A wrong length or an infinite price is an error that names the model."""
    with pytest.raises(ValueError, match=f"ridge: .*{message}"):
        compare([1.0, 2.0], {"ridge": guess}, {"ridge": "baseline"}, seed=0, resamples=100)


def test_a_model_that_answered_one_item_does_not_lead() -> None:
    """It is not shown to be worse, and shares the first rank; the leader is one that answered all."""
    truth, random = prices(7, 200)
    good, poor = noisy(truth, random, 0.2), noisy(truth, random, 0.9)
    one = np.where(np.arange(200) == 5, truth, NAN)
    found = compare(
        truth, {"one": one, "good": good, "poor": poor}, dict.fromkeys(("one", "good", "poor"), "baseline"), seed=0
    )
    assert (found["one"].rank, found["one"].p_value) == (1, 1.0)
    assert found["good"].p_value is None and found["good"].rank == 1
    assert found["poor"].rank == 3

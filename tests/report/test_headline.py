"""The conclusion: who is best and how certain that is, in at most six sentences for any number of models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tasks.models.classic import BASELINES
from tasks.models.features import nothing
from tasks.report.headline import CONSTANTS, headline
from tasks.report.tables import in_order
from tasks.scoring.rows import Row
from tests.report.boards import board_of, row


def said(rows: list[Row]) -> str:
    first, more = headline(in_order(rows), "$")
    assert len(more) <= 3
    return " ".join([first, *more])


def test_a_certain_winner_and_the_next() -> None:
    """A leader alone at rank 1 leads, with the distance to the next, its interval and p-value."""
    text = said([row("ridge", 14.0, 2, 4.0, 0.0002), row("trees", 10.0, 1), row("constant", 40.0, 3, 30.0, 0.0001)])
    assert text.startswith("trees leads: its answers are $10.00 off on average. This was measured on 500 test items")
    assert "certainly worse, ridge, is $4.00 behind (95% interval $3.00 to $5.00; p < 0.001)." in text
    assert text.endswith("Always answering the same price is $40.00 off.")


def test_a_test_set_of_variants_is_said_beside_the_certainty() -> None:
    """In a sentence that every conclusion has; where each item is a product of its own, nothing is said."""
    rows = in_order([row("trees", 10.0, 1), row("ridge", 14.0, 2, 4.0, 0.0002)])
    first, (certainty, *more) = headline(rows, "$", 30)
    assert "is $4.00 behind" in certainty and "The test items are of 30 products" in certainty
    plain, (shorter, *others) = headline(rows, "$")
    assert (first, more) == (plain, others) and certainty.startswith(shorter) and "products" not in shorter


def test_no_winner_is_claimed_when_tied() -> None:
    """Rows that share rank 1 make it a tie, whichever has the lower error; one rival is named, several are counted."""
    tied = [row("ridge", 10.3, 1, 0.3, 0.4), row("trees", 10.0, 1)]
    assert said(tied).startswith(
        "No certain winner: trees is $10.00 off on average, and ridge cannot be distinguished from it."
    )
    more = said([*tied, row("blend", 10.4, 1, 0.4, 0.5)])
    assert "and 2 other models cannot be distinguished from it" in more and "leads" not in more


def test_some_guesses_do_not_make_a_winner_uncertain() -> None:
    """A person who priced six items shares rank 1, since nothing speaks against it; the winner stays certain."""
    person = row("human", 8.0, 1, 0.5, 0.21, kind="human", n=6)
    text = said([row("trees", 10.0, 1), person, row("ridge", 14.0, 3, 4.0, 0.0002)])
    assert text.startswith("trees leads: its answers are $10.00 off on average.")
    assert "certainly worse, ridge" in text


def test_a_better_model_that_left_few_items_unpriced_is_named_beside_the_leader() -> None:
    """It cannot lead, but a reader must not miss it; the best such row is named, and one sentence is enough."""
    rows = [row("trees", 97.94, 1), row("ridge", 120.0, 3, 22.0, 0.002)]
    better = row("gpt-4o", 23.3, 1, -74.61, 1.0, kind="api", n=499)
    text = said([*rows, better, row("gpt-4o-mini", 30.0, 1, -66.0, 0.5, kind="api", n=480)])
    assert text.startswith(
        "trees leads: its answers are $97.94 off on average. But gpt-4o is $74.61 better on the 499 of 500 items that "
        "it priced, and cannot lead without the others. This was measured on 500 test items"
    )
    assert text.count("But ") == 1
    assert "But gpt-4o is $74.61 better on" in said([rows[0], better])
    assert "But" not in said([*rows, replace(better, n=249)])
    truth = np.arange(10.0, 70.0)
    guesses = {"ridge": truth * 1.4, "trees": truth * np.tile([0.7, 1.3], 30), "gpt-4o": np.append(truth[:-1], np.nan)}
    kinds = {"ridge": "baseline", "trees": "baseline", "gpt-4o": "api"}
    assert "But gpt-4o is $11.70 better on the 59 of 60 items" in said(board_of(truth, guesses, kinds).rows)


def test_a_nearly_complete_row_makes_a_winner_uncertain() -> None:
    """Where nothing tells it from the leader on the items that it priced; a tie of complete rows says so already."""
    rows = [row("trees", 10.0, 1), row("ridge", 14.0, 3, 4.0, 0.0002)]
    some = row("gpt-4o", 9.0, 1, -0.5, 1.0, kind="api", n=497)
    assert said([*rows, some]).startswith(
        "trees leads: its answers are $10.00 off on average. But gpt-4o cannot be distinguished from it on the 497 of "
        "500 items that it priced."
    )
    assert "But" not in said([*rows, some, row("blend", 10.4, 1, 0.4, 0.5)])
    assert "But" not in said([*rows, replace(some, rank=2, difference=5.0, p_value=0.001)])


def test_a_model_that_ran_beside_one_that_left_items_unpriced_is_not_the_only_one() -> None:
    """It is the only one that priced them all; beside the floor, which is no model, it is the only one."""
    rows = [row("finetuned", 10.0, 1), row("floor", 5.0, None, -5.0, kind="floor")]
    assert said(rows).startswith("finetuned is the only model that ran: its answers are $10.00 off")
    some = row("base", 8.0, 2, 4.0, 0.0005, kind="base", n=300)
    assert said([*rows, some]).startswith("finetuned is the only model that priced every item: its answers are")


def test_a_model_that_priced_nothing_did_run() -> None:
    """Beside one the only other model is not the only one that ran; alone it is a result, too."""
    silent = Row("base", "base", n=0)
    assert said([row("ridge", 10.0, 1), silent]).startswith("ridge is the only model that priced every item: its")
    assert said([silent]) == "No model answered any test item with a price."
    absent = Row("gpt-4o", "api", status="skipped", reason="OPENAI_API_KEY is not set")
    assert said([row("ridge", 10.0, 1), absent]).startswith("ridge is the only model that ran: its answers are")
    assert said([absent]) == "No model has run yet."


def test_rows_stand_by_their_distance_to_the_leader() -> None:
    """The error of a row that covers cheap items alone is small; how far it is behind on them is what counts."""
    cheap = row("recorded/cheap", 9.0, 3, 6.0, 0.0005, kind="recorded", n=80)
    rows = [row("trees", 10.0, 1), cheap, row("ridge", 14.0, 2, 4.0, 0.0002)]
    assert [one.model for one in in_order(rows)] == ["trees", "ridge", "recorded/cheap"]


def test_a_recorded_row_may_lead_and_the_best_of_ours_is_named() -> None:
    """Whoever made it: the best row leads, and a second sentence says how far behind our own best is."""
    rows = [
        row("recorded/x", 6.0, 1, kind="recorded"),
        row("trees", 10.0, 2, 4.0, 0.001),
        row("ridge", 9.0, 2, 3.0, 0.01),
    ]
    text = said(rows)
    assert text.startswith("recorded/x leads")
    assert "The best of our own models, ridge, is $3.00 behind (95% interval $2.00 to $4.00), which is certain." in text


def test_a_champion_that_is_not_the_leader_is_named() -> None:
    """An incumbent that keeps its place although another model leads."""
    assert "the champion in service is ridge." in said(
        [row("trees", 10.0, 1), row("ridge", 14.0, 2, 4.0, 0.001, champion=True), row("constant", 20.0, 3, 10.0, 0.001)]
    )


def test_the_constant_price_beside_the_leader_is_another_row_that_answers_one() -> None:
    """Rows are in order, so that a constant that leads is the best one; a model behind an API may have such a name."""
    second = row("constant_median", 10.8, 1, 0.8, 0.4)
    assert "the same price" not in said([row("constant", 10.0, 1), second])
    named = row("constant-1", 12.0, 2, 2.0, 0.001, kind="api")
    assert "the same price" not in said([row("trees", 10.0, 1), named])
    assert "Always answering the same price is $10.80 off." in said([row("trees", 10.0, 1), named, second])
    assert set(CONSTANTS) == {name for name, baseline in BASELINES.items() if baseline.features is nothing}


def test_forty_models_need_no_more_sentences_than_two() -> None:
    """Thirty of them tied, recorded ones among them, with a constant, a floor and an older champion."""
    tied = [row(f"recorded/{i}", 10 + i / 100, 1, i / 100, 0.5 if i else None, kind="recorded") for i in range(30)]
    worse = [row(f"model{i}", 20.0 + i, 31 + i, 10.0 + i, 0.001) for i in range(8)]
    others = [row("constant", 60.0, 39, 50.0, 0.001, champion=True), row("floor", 5.0, None, -5.0, kind="floor")]
    text = said([*tied, *worse, *others])
    assert "29 other models" in text and len(text) < 700

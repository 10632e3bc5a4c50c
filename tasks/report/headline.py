"""The conclusion of a leaderboard in at most six sentences, by rule, for any number of models."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.report.tables import leader_of
from tasks.scoring.comparisons import FLOOR
from tasks.scoring.rows import Row
from tasks.scoring.wording import amount, p_text, span

CONSTANTS = ("constant", "constant_median")  # the baselines that always answer the same price


def headline(rows: Sequence[Row], unit: str, test_products: int | None = None) -> tuple[str, list[str]]:
    """Who is best, from rows in order: a sentence or two, and up to four on how certain that is and what else counts.

    Rows that cover some test items alone decide nothing here: six guesses would leave any winner uncertain. One that
    covers most of them is named where it is no worse than the leader. Where the test items are of fewer products, so
    many, that is said.
    """
    ran = [row for row in rows if row.mae is not None]
    leader = leader_of(rows)
    if not ran:
        silent = any(row.status == "ran" for row in rows)
        return "No model answered any test item with a price." if silent else "No model has run yet.", []
    if leader is None:
        return "No model answered every test item, so none leads.", []
    ranked = [row for row in ran if row.rank is not None and row is not leader and row.n == leader.n]
    tied = [row for row in ranked if row.rank == 1]
    off = f"{amount(leader.mae or 0, unit)} off on average"
    if not ranked:
        alone = all(row is leader or row.kind == FLOOR for row in rows if row.status == "ran")
        first = (
            f"{leader.label} is the only model that {'ran' if alone else 'priced every item'}: its answers are {off}."
        )
    elif tied:
        them = tied[0].label if len(tied) == 1 else f"{len(tied)} other models"
        first = f"No certain winner: {leader.label} is {off}, and {them} cannot be distinguished from it."
    else:
        first = f"{leader.label} leads: its answers are {off}."
    first += _but(ran, leader, unit, certain=not tied)
    certainty = _certainty(leader, ranked, unit)
    if test_products:
        certainty += (
            f" The test items are of {test_products:,} products, and errors on variants of one go together: intervals "
            "and p-values count products."
        )
    sentences = (certainty, _ours(leader, ranked, unit), _beside(rows, leader, unit))
    return first, [sentence for sentence in sentences if sentence]


def _but(ran: Sequence[Row], leader: Row, unit: str, *, certain: bool) -> str:
    """The best row at rank 1 that cannot lead, as it left some items without a price: where it is better than the
    leader, or makes a `certain` winner uncertain."""
    whole = leader.n or 0
    most = [row for row in ran if row.rank == 1 and whole / 2 <= (row.n or 0) < whole]
    best = min(most, key=lambda row: ((row.difference_high or 0) >= 0, row.difference or 0), default=None)
    if best is None:
        return ""
    on = f"on the {best.n:,} of {whole:,} items that it priced"
    if (best.difference_high or 0) < 0:
        better = amount(-(best.difference or 0), unit)
        return f" But {best.label} is {better} better {on}, and cannot lead without the others."
    return f" But {best.label} cannot be distinguished from it {on}." if certain else ""


def _certainty(leader: Row, ranked: Sequence[Row], unit: str) -> str:
    ends = span(leader.mae_low, leader.mae_high, unit)
    measured = f"This was measured on {leader.n:,} test items{ends and f' ({ends})'}"
    worse = next((row for row in ranked if (row.rank or 1) > 1), None)
    if worse is None:
        return f"{measured}."
    return f"{measured}; {_behind(worse, unit, 'the best that is certainly worse, ')}."


def _ours(leader: Row, ranked: Sequence[Row], unit: str) -> str:
    """The best model that this pipeline can serve, where another one leads."""
    ours = min((row for row in ranked if row.ours), key=lambda row: row.mae or 0, default=None)
    if leader.ours or ours is None:
        return ""
    told = "which chance alone can explain" if ours.rank == 1 else "which is certain"
    return f"{_behind(ours, unit, 'The best of our own models, ', p=False)}, {told}."


def _behind(row: Row, unit: str, who: str, *, p: bool = True) -> str:
    evidence = [span(row.difference_low, row.difference_high, unit)]
    evidence += [p_text(row.p_value)] if p and row.p_value is not None else []
    told = "; ".join(part for part in evidence if part)
    return f"{who}{row.label}, is {amount(row.difference or 0, unit)} behind{told and f' ({told})'}"


def _beside(rows: Sequence[Row], leader: Row, unit: str) -> str:
    """What to hold the leader's error against, and who is in service."""
    ran = [row for row in rows if row.mae is not None]
    constant = next((row for row in ran if row.kind == "baseline" and row.model in CONSTANTS), leader)
    floor = next((row for row in ran if row.kind == FLOOR), None)
    champion = next((row for row in rows if row.champion), None)
    same = f"always answering the same price is {amount(constant.mae or 0, unit)} off"
    parts = [same] if constant is not leader else []
    parts += [f"the best possible answer is {amount(floor.mae or 0, unit)} off"] if floor else []
    parts += [f"the champion in service is {champion.label}"] if champion and champion is not leader else []
    told = "; ".join(parts)
    return f"{told[0].upper()}{told[1:]}." if told else ""

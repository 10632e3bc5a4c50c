"""Guesses that are made elsewhere: sheets for people, and what others recorded."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.config.loading import load
from tasks.data.items import Item
from tasks.errors import UserError
from tasks.models.external import ExternalPredictions, check_files, read_recorded, read_sheet, write_sheet
from tasks.scoring.comparisons import beside_person

ITEMS = [Item(str(number), f"Kettle {number}", "Boils water.", price=10.0 * number) for number in range(1, 6)]


def cells(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")))


def sheet(folder: Path, *rows: str, header: str = "id,guess", encoding: str = "utf-8") -> str:
    """A file with these lines."""
    file = folder / "sheet.csv"
    file.write_bytes("\r\n".join([header, *rows]).encode(encoding))
    return str(file)


def prices(guesses: ExternalPredictions) -> list[float | None]:
    assert guesses.predictions is not None, guesses.reason
    return [None if np.isnan(price) else float(price) for price in guesses.predictions.price]


def test_a_sheet_shows_the_items_without_their_prices(tmp_path: Path) -> None:
    """Byte order mark for spreadsheets, one row for each item, an empty guess, and no price anywhere."""
    items = [Item("a", "Kettle", "Boils water, quickly.\nSteel", details={"Price": "$77.77"}, price=77.77)]
    write_sheet(tmp_path / "sheet.csv", items)
    assert (tmp_path / "sheet.csv").read_bytes().startswith(b"\xef\xbb\xbfid,title,text,guess\r\n")
    expected = {"id": "a", "title": "Kettle", "text": "Boils water, quickly.\nSteel", "guess": ""}
    assert cells(tmp_path / "sheet.csv") == [expected]
    assert "77" not in (tmp_path / "sheet.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\uff1d1", '=cmd|"/c calc"!A1', "'quoted"]
)
def test_no_cell_begins_a_formula(tmp_path: Path, text: str) -> None:
    """What a spreadsheet would run stands there as text, in every column, and the id is found again."""
    items = [Item(text, text, text, price=3.0)]
    write_sheet(tmp_path / "sheet.csv", items)
    (row,) = cells(tmp_path / "sheet.csv")
    assert {row["id"], row["title"], row["text"]} == {f"'{text}"}
    filled = io.StringIO(newline="")
    csv.writer(filled).writerows([["id", "guess"], [row["id"], "5"]])
    (tmp_path / "filled.csv").write_text(filled.getvalue(), encoding="utf-8", newline="")
    assert prices(read_sheet(str(tmp_path / "filled.csv"), items)) == [5.0]


@given(st.lists(st.text(min_size=1).filter(lambda text: "\0" not in text), min_size=1, unique_by=str.strip))
def test_any_id_and_text_comes_back(tmp_path_factory: pytest.TempPathFactory, names: Sequence[str]) -> None:
    """Whatever items are called, the guesses of a sheet find their items again."""
    names = [name for name in names if name.encode("utf-8", "ignore").decode() == name]
    items = [Item(name, name, name, price=1.0) for name in names]
    if not items:
        return
    file = tmp_path_factory.mktemp("any") / "sheet.csv"
    write_sheet(file, items)
    rows = cells(file)
    for number, row in enumerate(rows):
        row["guess"] = str(number)
    with file.open("w", encoding="utf-8-sig", newline="") as filled:
        writer = csv.DictWriter(filled, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert prices(read_sheet(str(file), items)) == list(range(len(items)))


@pytest.mark.parametrize("identity", ["0123456789", "1e5", "12345678901234567890", "1.50", "inf"])
def test_ids_that_a_spreadsheet_would_take_for_numbers_are_kept_from_it(tmp_path: Path, identity: str) -> None:
    """Leading zeros and long digits would be lost for good; plain numbers stay as they are."""
    write_sheet(tmp_path / "sheet.csv", [Item(identity, "Kettle", ""), Item("17", "Pan", "")])
    assert [row["id"] for row in cells(tmp_path / "sheet.csv")] == [f"'{identity}", "17"]


def test_a_sheet_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    """It may hold an afternoon of guesses; nor is a folder made up."""
    write_sheet(tmp_path / "sheet.csv", ITEMS)
    with pytest.raises(UserError, match="may hold guesses"):
        write_sheet(tmp_path / "sheet.csv", ITEMS)
    with pytest.raises(UserError, match="cannot be written"):
        write_sheet(tmp_path / "nowhere" / "sheet.csv", ITEMS)


@pytest.mark.parametrize(
    ("cells", "prices_"),
    [
        (["20", " $1,234.50 ", "1,234", "USD 7", "15 dollars"], [20.0, 1234.5, 1234.0, 7.0, 15.0]),
        (["12,50", "1.234", "1.234,5", "0", "$5"], [12.5, 1234.0, 1234.5, 0.0, 5.0]),
        (["0", "-5", "$-5", "about 20", "10-20"], [0.0, None, None, None, None]),
        (["3", "nan", "inf", "1,23,4", "\u20ac12"], [3.0, None, None, None, None]),
    ],
    ids=["dollars", "decimal comma", "words", "broken"],
)
def test_a_guess_is_one_number_of_zero_or_more(tmp_path: Path, cells: list[str], prices_: list[float | None]) -> None:
    """As people type it, by the decimal mark of the whole column; anything else is no guess."""
    rows = [f"{number}\t{cell}" for number, cell in enumerate(cells, 1)]
    assert prices(read_sheet(sheet(tmp_path, *rows, header="id\tguess"), ITEMS)) == prices_


@pytest.mark.parametrize(
    ("currency", "cells", "prices_"),
    [
        (("€", "EUR"), ["12,50 €", "€12", "12 EUR", "1.299,00 eur", "7"], [12.5, 12.0, 12.0, 1299.0, 7.0]),
        (("£",), ["£9.99", "£ 0", "9.99", "8 dollars", "$7"], [9.99, 0.0, 9.99, None, None]),
        (("Rs.", "INR"), ["Rs. 1,39,900", "INR 5", "5.00", "€5", "5-"], [139900.0, 5.0, 5.0, None, None]),
    ],
    ids=["euro", "pound", "rupee"],
)
def test_a_guess_is_in_the_currency_of_the_conf(
    tmp_path: Path, currency: tuple[str, ...], cells: list[str], prices_: list[float | None]
) -> None:
    """On a sheet and in a recorded file; an amount of another currency is no guess."""
    rows = [f"{number}\t{cell}" for number, cell in enumerate(cells, 1)]
    assert prices(read_sheet(sheet(tmp_path, *rows, header="id\tguess"), ITEMS, currency)) == prices_
    rows = [f"{number}\ttheirs\t{cell}" for number, cell in enumerate(cells, 1)]
    (recorded,) = read_recorded([sheet(tmp_path, *rows, header="id\tmodel\tguess")], ITEMS, currency)
    assert prices(recorded) == prices_


@pytest.mark.parametrize(
    ("header", "rows", "encoding"),
    [
        ("id;title;guess", ["1;a, b;5", "3;c;7,50"], "cp1252"),
        ("id\tguess", ["1\t5", "3\t7.5"], "utf-16"),
        ("\ufeffID, Guess ", ["1,5", "3,$7.50", "", ","], "utf-8"),
    ],
    ids=["semicolons", "tabs in UTF-16", "mark and blanks"],
)
def test_a_sheet_is_read_as_spreadsheets_save_it(tmp_path: Path, header: str, rows: list[str], encoding: str) -> None:
    """Separators, encodings and headers of different programs and countries."""
    guesses = read_sheet(sheet(tmp_path, *rows, header=header, encoding=encoding), ITEMS)
    assert prices(guesses) == [5.0, None, 7.5, None, None]
    assert (guesses.status, guesses.reason, guesses.kind) == ("ran", None, "human")


def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path) -> None:
    """Blanks are items that were not answered; text, negative numbers and foreign ids are in the reason."""
    guesses = read_sheet(sheet(tmp_path, "1,5", "2,", "3,dunno", "4,-8", "99,20"), ITEMS)
    assert prices(guesses) == [5.0, None, None, None, None]
    assert guesses.reason is not None
    for words in ("2 guesses ('dunno' for 3, '-8' for 4)", "1 id (99) not among the test items"):
        assert words in guesses.reason


@pytest.mark.parametrize(
    ("header", "rows", "status", "reason"),
    [
        ("id,guess", ["1,5", "1,6"], "failed", "1 id (1) with more than one guess"),
        ("id,guess", ["x,5", "y,6"], "failed", "no guess can be used; its ids look like '1': 2 ids (x, y)"),
        ("id,guess", ["1,cheap", "2,-3"], "failed", "no guess can be used"),
        ("id,guess", ["1,", "2, "], "skipped", "holds no guess yet"),
        ("id,guess", [], "failed", "holds no rows"),
        ("number,guess", ["1,5"], "failed", "has no column id; expected a first line with id, guess"),
        ("", [], "failed", "has no column id, guess"),
        ("id,guess", ["1,5,6", "2,6"], "failed", "is not CSV: more cells than the header in '1,5,6'"),
        ("id;guess", ["1;1.299", "2;1.499"], "failed", "can be thousands"),
        ("id,guess,Guess", ["1,5,6"], "failed", "two columns called guess"),
        ("1,5", ["2,6"], "failed", "expected a first line with id, guess: its first line is '1, 5'"),
        ("id,guess", ["Kettle 1,5"], "failed", "the column id holds titles"),
    ],
    ids=[
        *("twice", "foreign", "words", "blank", "empty", "column", "nothing", "broken", "ambiguous", "column twice"),
        *("no header", "titles"),
    ],
)
def test_a_sheet_that_is_no_use_says_why(
    tmp_path: Path, header: str, rows: list[str], status: str, reason: str
) -> None:
    """The row stands there with the reason instead of a figure."""
    guesses = read_sheet(sheet(tmp_path, *rows, header=header), ITEMS)
    assert (guesses.status, guesses.predictions) == (status, None)
    assert guesses.reason is not None and reason in guesses.reason


def test_without_a_sheet_the_row_says_how_to_make_one() -> None:
    """The remedy is in the reason."""
    guesses = read_sheet(None, ITEMS)
    assert guesses.status == "skipped" and guesses.reason is not None and "pricewright human" in guesses.reason


def test_each_recorded_model_is_a_row_and_a_bad_one_spoils_no_other(tmp_path: Path) -> None:
    """Several models in a file, one with an id twice; another file without the columns; a model without a name."""
    file = sheet(tmp_path, "1,gpt-x,5", "2,gpt-x,6", "1,twice,5", "1,twice,6", "3,,9", header="id,model,guess")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    rows = {row.name: row for row in read_recorded([file, str(tmp_path / "other.csv")], ITEMS)}
    assert rows.keys() == {"recorded/gpt-x", "recorded/twice", "recorded/sheet", "recorded/other.csv"}
    assert prices(rows["recorded/gpt-x"]) == [5.0, 6.0, None, None, None]
    assert prices(rows["recorded/sheet"]) == [None, None, 9.0, None, None]
    assert {row.status for row in (rows["recorded/twice"], rows["recorded/other.csv"])} == {"failed"}


def test_a_file_that_is_not_there_is_said_before_anything_runs(tmp_path: Path) -> None:
    """With the key and the remedy."""
    for key, hint in (("human", "pricewright human"), ("recorded", "id, model, guess")):
        with pytest.raises(UserError, match=rf"evaluate\.{key}: there is no file .*{hint}"):
            check_files(load("conf/smoke.yaml", [f"evaluate.{key}={tmp_path}/none.csv"]).evaluate)


def test_every_model_is_compared_with_the_person_on_the_items_both_priced() -> None:
    """The difference is over those items alone; below zero the model is better."""
    truth = np.array([10.0, 20.0, 30.0, 40.0])
    person = np.array([12.0, 20.0, np.nan, np.nan])
    model = np.array([10.0, 19.0, 500.0, 40.0])
    partly = np.array([np.nan, 25.0, 30.0, 40.0])
    found = beside_person(truth, {"human": person, "model": model, "partly": partly}, load("conf/smoke.yaml"))
    assert found.keys() == {"model", "partly"}
    assert (found["model"]["vs_human"], found["model"]["vs_human_n"]) == (-0.5, 2)
    assert (found["partly"]["vs_human"], found["partly"]["vs_human_n"]) == (5.0, 1)
    assert beside_person(truth, {"model": model}, load("conf/smoke.yaml")) == {}

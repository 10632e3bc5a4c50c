"""`pricewright init`: from somebody's file to a conf that reads it."""

from __future__ import annotations

import builtins
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from flows.cli.commands import read_items
from tasks.config.experiment import Data
from tasks.config.loading import load
from tasks.errors import UserError
from tests.smoke import command

HEAD = "Nr;Ware;Text;Betrag"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shop's export, in a folder where the command is started."""
    rows = (f"{n};Stuhl {n} aus Esche;Ein Stuhl für draußen, Lehne {n} cm hoch;{n + 20},50 €" for n in range(200))
    (tmp_path / "Waren 2026.csv").write_text("\n".join([HEAD, *rows]), encoding="cp1252")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "Waren 2026.csv"


def test_the_conf_that_is_written_curates_the_file(shop: Path, at: Callable) -> None:
    """With all that was found in it, and why; the last line is the conf. An existing one is not written over."""
    status, said = command("init", shop.name)
    assert status == 0 and said.splitlines()[-1] == "Waren-2026.yaml"
    assert "Stuhl 0 aus Esche" in said and "All 200 rows are kept." in said
    text = (shop.parent / "Waren-2026.yaml").read_text(encoding="utf-8")
    assert "# € stands beside 200 of 200 prices" in text and "opinions: [network, boosting]" in text
    data = load("Waren-2026.yaml").data
    assert data.columns == {"price": "Betrag", "title": "Ware"}  # the text has our own name for it
    assert (data.currency, data.decimal, data.encoding) == (("€", "EUR"), ",", "cp1252")
    status, said = command("init", shop.name)
    assert status == 2 and "is there already" in said
    status, said = command("curate", "-c", "Waren-2026.yaml", "data.near=null", *at(shop.parent / "store"))
    assert status == 0 and (Path(said.splitlines()[-1]) / "train.parquet").is_file()


def test_without_a_terminal_the_guess_is_taken_and_said(shop: Path, capsys: pytest.CaptureFixture) -> None:
    """On standard error, with how to correct it."""
    from flows.cli.main import main

    assert main(["init", shop.name, "--to", "conf/mine.yaml"]) == 0
    captured = capsys.readouterr()
    assert "no terminal to ask in" in captured.err and "data.columns.title=NAME" in captured.err
    assert (shop.parent / "conf" / "mine.yaml").is_file()


def test_in_a_terminal_a_person_corrects_it(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is typed goes over the guess, what cannot be is refused and asked again, and Enter takes it."""
    answers = iter(["title=Text text=Ware", "price=Kosten", "nonsense", ""])
    monkeypatch.setattr(builtins, "input", lambda _: next(answers))
    from flows.cli import init

    monkeypatch.setattr(init, "asked", lambda: True)
    status, said = command("init", shop.name)
    assert status == 0
    data = load("Waren-2026.yaml").data
    assert (data.columns["title"], data.columns["text"], data.columns["price"]) == ("Text", "Ware", "Betrag")
    assert "has no column Kosten" in said and "'nonsense' is not a correction" in said


def test_a_question_that_is_not_answered_writes_nothing(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-D is no consent."""

    def closed(_: str) -> str:
        raise EOFError

    monkeypatch.setattr(builtins, "input", closed)
    monkeypatch.setattr("flows.cli.init.asked", lambda: True)
    status, said = command("init", shop.name)
    assert status == 2 and "was not answered, so no conf was written" in said
    assert [path.name for path in shop.parent.iterdir()] == [shop.name]


@pytest.mark.parametrize("asked", [False, True])
def test_a_file_of_which_no_row_is_kept_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """A conf of it could only fail; why they are dropped is said, and what is given then is taken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "input", lambda _: "")
    monkeypatch.setattr("flows.cli.init.asked", lambda: asked)
    Path("short.csv").write_text("\n".join(["title,price", *(f"Lamp {n},{n + 3}.50" for n in range(60))]))
    status, said = command("init", "short.csv")
    assert status == 2 and "60 of 60 are dropped for 'text shorter than 20 characters'" in said, said
    assert "this guess is taken" not in said and not Path("short.yaml").exists()
    assert command("init", "short.csv", "data.text_min=3")[0] == 0


def test_what_is_given_or_stands_in_the_base_is_in_the_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run reads the file by the same rules as the look at it did, what was corrected in the terminal included."""
    monkeypatch.chdir(tmp_path)
    rows = (f"Стул {n};CHF {n + 20},50" for n in range(60))
    Path("chf.csv").write_text("\n".join(["title;price", *rows]), encoding="cp1251")
    given = ["data.currency=[CHF]", "data.decimal=,", "data.text_min=3", "data.price_max=1234567.5", "data.near=null"]
    given += ["data.encoding=cp1251", "data.part_numbers=scrub", "data.category_weights={Möbel: 0.2, B: 3}"]
    status, said = command("init", "chf.csv", *given)
    assert status == 0 and "All 60 rows are kept" in said
    data = load("chf.yaml").data
    assert (data.currency, data.decimal, data.text_min, data.price_max) == (("CHF",), ",", 3, 1234567.5)
    assert (data.encoding, data.near, data.part_numbers) == ("cp1251", None, "scrub")
    assert data.category_weights == {"Möbel": 0.2, "B": 3} and data.test_items == 500

    section = ["columns:", "  title: Ware", "currency:", "  - CHF", "text_min: 3", "price_max: 5000"]
    Path("base.yaml").write_text("\n    ".join(["data:", "source: files", *section]))
    Path("bare.csv").write_text("\n".join(["Ware,price", *(f"Stuhl {n},{n + 20}" for n in range(60))]))
    answers = iter(["price_min=2", ""])
    monkeypatch.setattr(builtins, "input", lambda _: next(answers))
    monkeypatch.setattr("flows.cli.init.asked", lambda: True)
    assert command("init", "bare.csv", "-c", "base.yaml")[0] == 0
    data = load("bare.yaml").data
    assert (data.columns, data.currency) == ({"title": "Ware"}, ("CHF",))
    assert (data.text_min, data.price_min, data.price_max) == (3, 2, 5000)


def test_a_file_at_an_address_is_looked_at_and_priced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the message about columns that are not known advises; the address stays as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path / "cache"))
    address = f"memory://{tmp_path.name}/goods.csv"
    fsspec.filesystem("memory").pipe(
        address, b"name,cost\nKettle of stainless steel,5.50\nLamp of hammered brass,6.25\n"
    )
    status, said = command("init", address)
    assert status == 0 and said.splitlines()[-1] == "goods.yaml", said
    data = load("goods.yaml").data
    assert (data.path, data.columns) == (address, {"title": "name", "price": "cost"})
    assert [item.title for item in read_items(address, data)] == ["Kettle of stainless steel", "Lamp of hammered brass"]


def test_what_the_conf_maps_and_a_file_to_be_priced_lacks_is_read_by_our_own_name_or_missed_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A feed need not have the columns of the shop's export that trained, and no price may rest on less unnoticed; a
    column of the conf comes first where it is there, row by row in JSON."""
    mapped = {"title": "Bezeichnung", "text": ("Text", "Notiz"), "category": "Gruppe", "id": "Nr", "price": "Preis"}
    data = Data(source="files", columns=mapped)
    (tmp_path / "feed.tsv").write_text("id\ttitle\tText\n7\tKettle\tOf steel\n")
    (item,) = read_items(str(tmp_path / "feed.tsv"), data)
    assert (item.id, item.title, item.text) == ("7", "Kettle", "Of steel")
    feed, *others = capsys.readouterr().err.splitlines()
    assert "feed.tsv has no 'Bezeichnung', where data.columns looks for the title: 'title' is read in its place" in feed
    assert ["'Notiz'" in others[0], "'Gruppe'" in others[1], len(others)] == [True, True, 2]
    assert all("prices rest on its other columns alone" in line for line in others)

    rows = [{"Bezeichnung": "Tee", "title": "tea", "Gruppe": "A", "Text": "x", "Notiz": "y"}, {"title": "Lamp"}]
    (tmp_path / "feed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [item.title for item in read_items(str(tmp_path / "feed.jsonl"), data)] == ["Tee", "Lamp"]
    assert capsys.readouterr().err == ""

    (tmp_path / "twice.csv").write_text("title,Title\nKettle,Lamp\n")
    with pytest.raises(UserError, match="2 columns that could be the title"):
        read_items(str(tmp_path / "twice.csv"), data)
    (tmp_path / "bare.csv").write_text("sku,name\n7,Kettle\n")
    with pytest.raises(UserError, match=r"has the columns sku, name\. Expected a title or text"):
        read_items(str(tmp_path / "bare.csv"), data)


def test_a_password_in_an_address_is_refused() -> None:
    """In a sentence, as in any conf."""
    status, said = command("init", "https://me:secret@shop.example/goods.csv")
    assert status == 2 and "Expected an address without a password" in said and "secret" not in said


def test_a_price_over_two_lines_breaks_no_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is scraped from a page, the sign on a line of its own; a column's name may hold a line break too."""
    monkeypatch.chdir(tmp_path)
    items = [{"product\nname": f"Stuhl {n} aus Esche mit Lehne", "price": f"€\n{n + 20},50"} for n in range(60)]
    Path("scraped.json").write_text(json.dumps(items))
    assert command("init", "scraped.json")[0] == 0
    data = load("scraped.yaml").data
    assert (data.currency, data.columns) == (("€", "EUR"), {"title": "product\nname"})


def test_a_conf_that_cannot_be_loaded_is_not_left_in_the_way(shop: Path) -> None:
    """Where another section of the base refers to what is replaced; the next try finds the place free."""
    Path("base.yaml").write_text("data:\n    source: files\n    price_min: &least 3\ngc:\n    keep_days: *least\n")
    for base, expected in (("base.yaml", 2), ("conf/files.yaml", 0)):
        status, said = command("init", shop.name, "-c", base)
        assert status == expected, said
        assert status == 0 or "cannot be put into base.yaml. Leave -c out" in said
        assert [path.name for path in shop.parent.glob("Waren*.yaml*")] == ["Waren-2026.yaml"] * (status == 0)


def test_only_what_reads_the_data_can_be_given(shop: Path) -> None:
    """The rest is for the run."""
    status, said = command("init", shop.name, "finetune.enabled=false")
    assert status == 2 and "init looks at data.* alone" in said
    status, said = command("init", "none.csv")
    assert status == 2 and "No data at" in said


def test_several_confs_are_refused_before_the_look(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And before the question, whose answers would be lost; where the others belong is said."""
    monkeypatch.setattr("flows.cli.init.asked", lambda: True)
    monkeypatch.setattr(builtins, "input", lambda _: pytest.fail("it asked"))
    status, said = command("init", shop.name, "-c", "conf/files.yaml", "-c", "conf/team.yaml")
    assert status == 2 and "init starts from one conf" in said and "run -c NEW -c TEAM" in said


@pytest.mark.parametrize("words", [["curate"], ["curate", "-c", "conf/files.yaml"]])
def test_a_run_on_a_file_that_it_cannot_read_points_to_it(shop: Path, words: list[str], at: Callable) -> None:
    """Whether the conf reads no file, or the columns are not known."""
    status, said = command(*words, f"data.path={shop.name}", *at(shop.parent / "store"))
    assert status == 2 and f"`pricewright init {shlex.quote(str(shop))}`" in said

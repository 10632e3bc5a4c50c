"""Files as shops export them: read right, or refused in a sentence; no line of one is lost without a word."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.config.experiment import Data
from tasks.curation import clean
from tasks.data.cleaning import Tally
from tasks.data.files import shards
from tasks.data.files.delimited import LINE, REJECTED, Table
from tasks.data.files.encodings import encoding_of
from tasks.data.sources import list_files, source_of
from tasks.errors import UserError

HEADER = ["id", "title", "text", "price"]
GOODS = [["a1", "Folding chair", "of solid beech, for the garden", "35.50"], ["a2", "Reading lamp", "in brass", "60"]]
Items = list[dict[str, Any]]


@pytest.fixture
def curated(tmp_path: Path) -> Callable[..., tuple[Items, Tally]]:
    """Cleans a file of this name and content; the items and what happened."""

    def run(name: str, content: bytes, **rules: Any) -> tuple[Items, Tally]:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        (folder / name).write_bytes(content)
        data = Data(source="files", path=str(folder / name), near=None, text_min=5, part_numbers="keep", **rules)
        _, tally = clean(source_of(data), data, 1, None, folder)
        items = [row for file in sorted((folder / "items").glob("*")) for row in pq.read_table(file).to_pylist()]
        return sorted(items, key=lambda item: item["id"]), tally

    return run


def table(mark: str = ",", header: list[str] = HEADER, rows: list[list[str]] = GOODS, end: str = "\n") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=mark, lineterminator=end).writerows([header, *rows])
    return text.getvalue()


def objects() -> list[dict[str, Any]]:
    return [dict(zip(HEADER, row, strict=True)) for row in GOODS]


SHAPES = {
    "comma.csv": table(),
    "semicolon.csv": table(";"),
    "bar.txt": table("|"),
    "tab.tsv": table("\t"),
    "sep.csv": "sep=;\r\n" + table(";", end="\r\n"),
    "old mac.csv": table(end="\r"),
    "padded.csv": table(header=[" ID", "Title ", "TEXT", "\ufeffPrice"]),
    "trailing.csv": table(header=[*HEADER, ""], rows=[[*row, ""] for row in GOODS]),
    "lines.jsonl": "\n".join(json.dumps(row) for row in objects()),
    "lines.ndjson": "\n".join(json.dumps(row) for row in objects()),
    "lines.jl": "\r\n\r\n".join(json.dumps(row) for row in objects()),
    "lines.json": "\n".join(json.dumps(row) for row in objects()),
    "lines.txt": "\n".join(json.dumps(row) for row in objects()),
    "array.json": json.dumps(objects()),
    "pretty.json": json.dumps(objects(), indent=2),
    "array.jsonl": json.dumps(objects(), indent=1),
    "jq.json": "\n".join(json.dumps(row, indent=2) for row in objects()),
    "by id.json": json.dumps({row.pop("id"): row for row in objects()}),
    "wrapped.json": json.dumps({"count": 2, "products": objects()}),
    "columns.json": json.dumps({name: {str(n): row[name] for n, row in enumerate(objects())} for name in HEADER}),
    "split.json": json.dumps({"columns": HEADER, "index": [0, 1], "data": GOODS}),
    "capitals.jsonl": "\n".join(json.dumps({key.title(): value for key, value in row.items()}) for row in objects()),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_the_same_goods_gives_the_same_items(name: str, packed: bool, curated: Callable) -> None:
    """Separators, line ends, endings, and the ways to put rows into JSON; compressed as well."""
    content = SHAPES[name].encode()
    items, tally = curated(f"{name}.gz" if packed else name, gzip.compress(content) if packed else content)
    found = [[item["id"], item["title"], item["text"], item["price"]] for item in items]
    assert found == [[*row[:3], float(row[3])] for row in GOODS]
    assert tally.read == tally.kept == 2


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-8-sig", "naïve crème"),
        ("utf-16", "Stahl für Küchen"),
        ("utf-16-le", "Plain steel for kitchens"),
        ("utf-32", "Stahl für Küchen"),
        ("cp1252", "Kessel für 5 € aus Weißblech, très léger"),
        ("cp1250", "Krzesło składane, żółte, dąb i buk"),
        ("cp1251", "Складной стул из бука, для сада"),
        ("koi8-r", "Складной стул из бука, для сада"),
        ("cp932", "折りたたみ椅子、ガーデン用"),
        ("euc-jp", "折りたたみ椅子、ガーデン用"),
        ("gb18030", "花园用折叠椅、实木制造"),
        ("cp1253", "Πτυσσόμενη καρέκλα κήπου"),
        ("cp1255", "כיסא מתקפל לגינה"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_text_in_any_encoding_is_read_and_said(
    encoding: str, words: str, kind: str, curated: Callable, capsys: pytest.CaptureFixture
) -> None:
    """Unicode by its marks or its zeros, the others by what they can be; a guess is said, with how to say otherwise."""
    rows = [[row[0], words, f"{words} {row[1]}", row[3]] for row in GOODS]
    lines = [json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=False) for row in rows]
    content = (table(rows=rows) if kind == "csv" else "\n".join(lines)).encode(encoding)
    items, _ = curated(f"goods.{kind}", content)
    assert {item["title"] for item in items} == {words}
    assert ("data.encoding" in capsys.readouterr().err) == (not encoding.startswith("utf"))


def test_a_given_encoding_is_taken(curated: Callable) -> None:
    """It beats what could be found out, and a file that does not keep to it is named."""
    content = table(rows=[["a1", "Tasse weiß", "mit Rand", "5"]]).encode("cp850")
    items, _ = curated("goods.csv", content, encoding="cp850")
    assert items[0]["title"] == "Tasse weiß"
    with pytest.raises(UserError, match=r"goods\.csv cannot be read"):
        curated("goods.csv", content, encoding="utf-16")
    with pytest.raises(ValueError, match="the name of an encoding"):
        Data(encoding="klingon")


def test_one_line_in_another_encoding_is_counted(curated: Callable) -> None:
    """In a file of UTF-8 it is read as Windows writes it, and noted in the card."""
    lines = [json.dumps({"id": str(n), "title": f"Crème brûlée {n}", "price": 5}, ensure_ascii=False) for n in range(5)]
    _, tally = curated("goods.jsonl", "\n".join(lines[:-1]).encode() + b"\n" + lines[-1].encode("cp1252"))
    assert tally.kept == 5 and tally.noted == {"line that is not UTF-8, read as cp1252": 1}


@pytest.mark.parametrize("name", ["goods.csv", "goods.tsv"])
def test_a_stray_quote_costs_no_other_row(name: str, curated: Callable) -> None:
    """Inch marks at the start and in the middle of cells; what cells of several lines hold stays theirs."""
    mark = "\t" if name.endswith("tsv") else ","
    rows = [
        ["r1", '"24 monitor', "flat and wide", "100"],
        ["r2", 'Monitor 27"', "curved", "200"],
        ["r3", '"Small" lamp', "of brass", "30"],
        ["r4", '"A chair\nof beech, for\ntwo, or three"', "folding", "40"],
        ["r5", "Bench", '"with ""arms"""', "50"],
        ["r6", "Stool", "low", "60"],
    ]
    text = "\n".join(mark.join(row) for row in [HEADER, *rows])
    items, tally = curated(name, text.encode())
    assert [item["price"] for item in items] == [100.0, 200.0, 30.0, 40.0, 50.0, 60.0]
    assert items[3]["title"].endswith("for two, or three") and items[4]["text"] == 'with "arms"'
    assert tally.read == 6


def test_rows_that_do_not_fit_the_header_are_rejected_and_counted(curated: Callable) -> None:
    """A comma too many would move every cell after it, a line cut short may end anywhere."""
    text = table() + "a3,Table, round,of oak,80\na4,Shelf\n\n,,,\n" + 'a5,Box,"of pine, dark,90\n'
    items, tally = curated("goods.csv", text.encode())
    assert [item["id"] for item in items] == ["a1", "a2"]
    assert tally.dropped == {"more cells than the header": 1, "fewer cells than the header": 1, QUOTE: 1}
    assert tally.read == 5


QUOTE = "a quote that is not closed"


def test_escaped_quotes_of_databases_are_read(curated: Callable) -> None:
    """A backslash before the quote, as MySQL writes it."""
    items, _ = curated("goods.csv", (table() + r'a3,"A 24\" screen, flat","black",90' + "\n").encode())
    assert items[2]["title"] == 'A 24" screen, flat'


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (["id", "title", "price", "price"], "2 columns that could be the price: 'price' and 'price'"),
        (["id", "title", "Price", "price"], "'Price' and 'price'.*data.columns.price=NAME"),
        (["id", "title", "Title ", "price"], "2 columns that could be the title"),
        (["sku", "name", "cost", "eur"], r"has the columns sku, name, cost, eur.*data\.columns\.title=NAME"),
        (["a1", "Chair", "of beech", "35"], "lacks a header: add one"),
    ],
)
def test_a_header_that_cannot_be_trusted_is_refused(header: list[str], said: str, curated: Callable) -> None:
    """Two columns for one field, with both names; no column for one, with all names."""
    with pytest.raises(UserError, match=said):
        curated("goods.csv", table(header=header).encode())


def test_two_columns_of_one_name_may_be_there_if_nobody_reads_them(curated: Callable) -> None:
    """Or if the conf says which one counts."""
    header = [*HEADER, "note", "note", "Price"]
    rows = [[*row, "x", "y", "7"] for row in GOODS]
    content = table(header=header, rows=rows).encode()
    assert [item["price"] for item in curated("goods.csv", content, columns={"price": "Price"})[0]] == [7.0, 7.0]
    assert [item["price"] for item in curated("goods.csv", content, columns={"price": "price"})[0]] == [35.5, 60.0]


def test_an_object_with_two_prices_is_rejected(curated: Callable) -> None:
    """The same key twice, or but for case; the rows beside it stay."""
    lines = [
        '{"id": "a", "title": "Kettle", "price": 5, "price": 7}',
        '{"id": "b", "title": "Kettle", "price": 5, "Price": 7}',
        '{"id": "c", "title": "Kettle", "price": 5, "details": {"price": 7}}',
    ]
    items, tally = curated("goods.jsonl", "\n".join(lines).encode())
    assert [item["id"] for item in items] == ["c"]
    assert tally.dropped == {"the key price twice": 1, "two keys for price: price and Price": 1}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "goods.csv",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
            "Git LFS pointer.*git lfs pull",
        ),
        ("goods.csv", b"PK\x03\x04rest", "Excel workbook or a ZIP.*Save the sheet as CSV"),
        ("goods.json", b"<!DOCTYPE html><html>Log in</html>", "is a web page"),
        ("goods.jsonl", b"BZh9rest", "bzip2"),
        ("goods.json", b'{"status": "ok", "count": 3}', "no rows can be made out.*status, count"),
        ("goods.json", b'[{"title": "a"}, {"title": ', "is not JSON"),
        ("goods.csv", b'"id,title\n1,2\n', "has a quote that is not closed"),
    ],
)
def test_what_is_no_table_is_named_with_what_to_do(name: str, content: bytes, said: str, curated: Callable) -> None:
    """Each by what it is."""
    with pytest.raises(UserError, match=said):
        curated(name, content)


def test_no_price_names_the_keys_and_a_strange_currency_is_named(curated: Callable) -> None:
    """With a value of each, so that the right one can be seen."""
    rows = [{"id": n, "title": f"Chair {n}", "Preis": "19,90"} for n in range(3)]
    with pytest.raises(UserError, match=r"3 no price.*Preis \(19,90\).*data\.columns\.price=NAME"):
        curated("goods.jsonl", "\n".join(map(json.dumps, rows)).encode())
    with pytest.raises(UserError, match="price in £, which"):
        curated("goods.csv", table(rows=[["a", "Folding chair", "", "£5"]]).encode())


def test_prices_are_read_as_their_column_shows(curated: Callable, capsys: pytest.CaptureFixture) -> None:
    """A decimal comma is found out and said with two examples; what can be read in two ways is refused."""
    rows = [["a", "Folding chair", "", "1.299,00"], ["b", "Reading lamp", "", "1.450"], ["c", "Round table", "", "17"]]
    items, _ = curated("goods.csv", table(";", rows=rows).encode(), price_max=5000)
    assert [item["price"] for item in items] == [1299.0, 1450.0, 17.0]
    assert "a comma before the cents, as the whole column shows: '1.299,00' and '1.450'" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"'1\.450' can be thousands.*data\.decimal=\."):
        curated("goods.csv", table(rows=rows[1:]).encode(), price_max=5000)
    assert len(curated("goods.csv", table(rows=rows[1:]).encode(), decimal=".")[0]) == 2


def test_maps_structs_and_literals_lose_their_prices(curated: Callable, tmp_path: Path) -> None:
    """Details as Parquet has them, and as pandas writes a dict into a CSV."""
    details = {"Brand": "Acme", "List Price": "$77.70", "Offers": {"salePrice": "77.70", "Seller": "Bob"}}
    flat = {"Brand": "Acme", "Price": "77.70"}
    kinds = {
        "struct": pa.array([details]),
        "map": pa.array([list(flat.items())], pa.map_(pa.string(), pa.string())),
        "literal": pa.array([repr(details)]),
        "json": pa.array([json.dumps(details)]),
        "pairs": pa.array([[{"name": "Brand", "value": "Acme"}, {"name": "Price", "value": "77.70"}]]),
    }
    for name, column in kinds.items():
        columns = {"id": [name], "title": ["Folding chair of beech"], "price": [77.7], "details": column}
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        items, _ = curated("goods.parquet", (tmp_path / "x.parquet").read_bytes())
        said = items[0]["text"] + items[0]["details"]
        assert json.loads(items[0]["details"])["Brand"] == "Acme" and "Brand: Acme" in items[0]["text"], name
        assert "77.7" not in said and "Price" not in said, name


def test_an_exact_price_that_no_rule_finds_is_counted(curated: Callable) -> None:
    """As a last look; a whole price of a few dollars is likely to be a count of something."""
    rows = [["a", "Folding chair", "code 35.50/x", "35.50"], ["b", "Set of 12 lamps", "", "12"]]
    _, tally = curated("goods.csv", table(rows=rows).encode())
    assert tally.noted == {"exact price still in the text or details": 1}


def test_paths_may_begin_at_home_and_a_file_may_be_called_anything(tmp_path: Path, monkeypatch: Any) -> None:
    """`~` is the home folder; a folder that has no data says what it has."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "goods.export").write_text(table())
    assert list_files("~/goods.export") == [tmp_path / "goods.export"]
    with pytest.raises(UserError, match=r"holds no data\. Found: goods\.export"):
        list_files("~")
    with pytest.raises(UserError, match="No data at"):
        list_files("~/nowhere")


def test_the_encoding_of_a_long_file_is_found_behind_its_ascii(tmp_path: Path) -> None:
    """The first megabytes say nothing."""
    file = tmp_path / "long.csv"
    file.write_bytes(table().encode() * 30_000 + "a9,Стул складной,из бука,5\n".encode("cp1251") * 20)
    assert encoding_of(file, None) == "cp1251"


LINES = st.text(st.sampled_from('ab19"",,;\t|\\ \n\r.\'é'), max_size=120)


@settings(deadline=None, max_examples=300)
@given(LINES, st.integers(2, 4), st.sampled_from(",;\t|"))
def test_no_line_of_a_table_is_lost(body: str, width: int, mark: str) -> None:
    """Whatever is in it: a line is a row, a part of a cell, or rejected, and none counts twice."""
    header = mark.join(f"c{number}" for number in range(width))
    try:
        parsed = Table([header, *body.split("\n")], "x", mark)
    except UserError:
        return
    rows = list(parsed.rows())
    if parsed.delimiter != mark:
        return
    known = [row[LINE] if REJECTED in row else mark.join(row.values()) for row in rows]
    written = "".join(line for line in body.split("\n") if line.replace(mark, "").strip())
    for letter in "ab19;é".replace(mark, ""):  # no mark of ours: each of them is there as often as it was written
        assert sum(text.count(letter) for text in known) == written.count(letter)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["x.csv", "x.tsv", "x.txt", "x.jsonl", "x.json", "x.ndjson", "x.parquet", "x.csv.gz"]),
    st.one_of(
        st.binary(max_size=200),
        LINES.map(lambda text: f"id,title,price\n{text}".encode()),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_any_bytes_are_rows_or_a_sentence(name: str, content: bytes) -> None:
    """No file crashes a reader: rows come out, or one message that names the file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        try:
            for row in shards.rows_of(file):
                assert isinstance(row, dict)
        except UserError as error:
            assert name in str(error)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"title": st.text(max_size=20)},
            optional={
                "price": st.one_of(st.floats(), st.text(st.sampled_from("19.,$€ "), max_size=7)),
                "text": st.text(),
            },
        ),
        max_size=12,
    ),
    st.sampled_from(["x.csv", "x.jsonl", "x.json"]),
)
def test_every_row_is_an_item_or_a_counted_rejection(rows: list[dict], name: str) -> None:
    """The one law of the readers, from the file to the tally; or the whole file is refused in a sentence."""
    rows = json.loads(json.dumps(rows).encode("utf-8", "replace"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        if name == "x.csv":
            text = io.StringIO()
            writer = csv.DictWriter(text, ["title", "text", "price"])
            writer.writeheader()
            writer.writerows(rows)
            content = text.getvalue()
            expected = sum(any(str(cell).replace("\0", "").strip() for cell in row.values()) for row in rows)
        else:
            content = json.dumps(rows) if name == "x.json" else "\n".join(map(json.dumps, rows))
            expected = len(rows)
        file.write_bytes(content.encode("utf-8", "replace"))
        data = Data(source="files", path=str(file), near=None)
        try:
            _, tally = clean(source_of(data), data, 1, None, Path(folder))
        except UserError:
            return
        assert tally.read == expected == tally.kept + sum(tally.dropped.values())

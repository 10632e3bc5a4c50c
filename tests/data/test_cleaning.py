"""Files as they come: every bad row is counted, every bad file is named, and nothing is lost without a word."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tasks.config.experiment import Data
from tasks.curation import clean
from tasks.data.cleaning import Tally
from tasks.data.files import shards
from tasks.data.items import Item
from tasks.data.scrubbing import shorten_runs, without_markup
from tasks.data.sources import source_of
from tasks.data.tokens import count_tokens, have_tokens, spans_words
from tasks.errors import UserError
from tasks.models.language.base_model import find_tokenizer

WORDS = "a steel kettle that holds two litres and whistles"
Read = Callable[..., tuple[list[dict[str, Any]], Tally]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Writes files and cleans them; the items and what happened."""

    def run(files: dict[str, bytes], **rules: Any) -> tuple[list[dict[str, Any]], Tally]:
        folder = tmp_path / "in"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        tokenizer = str(find_tokenizer(rules["tokenizer"])) if rules.get("tokenizer") else None
        data = Data(source="files", path=str(folder), **{"near": None, **rules})
        _, tally = clean(source_of(data), data, 1, tokenizer, tmp_path)
        items = [row for file in sorted((tmp_path / "items").glob("*")) for row in pq.read_table(file).to_pylist()]
        return sorted(items, key=lambda item: item["id"]), tally

    return run


def lines(*rows: Any) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def row(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "title": WORDS, "price": 5, **changes}


def test_one_row_in_every_format_is_the_same_item(read: Read, tmp_path: Path) -> None:
    """JSONL, gzip, CSV with BOM and CRLF, TSV and Parquet."""
    plain = {name: row(id=name) for name in ("jsonl", "gz", "csv", "tsv", "parquet")}
    pq.write_table(pa.Table.from_pylist([plain["parquet"]]), tmp_path / "parquet")
    items, tally = read(
        {
            "a.jsonl": b"\xef\xbb\xbf" + lines(plain["jsonl"]) + b"\r\n\r\n",
            "b.jsonl.gz": gzip.compress(lines(plain["gz"])),
            "c.csv": f"\ufeffid,title,price\r\ncsv,{WORDS},5\r\n".encode(),
            "d.tsv": f"id\ttitle\tprice\ntsv\t{WORDS}\t5\n".encode(),
            "e.parquet": (tmp_path / "parquet").read_bytes(),
        }
    )
    assert [item["id"] for item in items] == sorted(plain) and tally.read == 5
    assert {(item["title"], item["price"]) for item in items} == {(WORDS, 5.0)}


@pytest.mark.parametrize(
    ("value", "rules", "price"),
    [
        ("$1,299.00", {"price_max": 2000}, 1299.0),
        ("1.299,00 €", {"price_max": 2000, "decimal": ",", "currency": ("€",)}, 1299.0),
        ("€ 12,5", {"decimal": ",", "currency": ("€",)}, 12.5),
        ("from 12.99", {}, None),
        ("1.299,00 €", {}, None),
        ("", {}, None),
        (-3, {}, None),
        (float("nan"), {}, None),
        (float("inf"), {}, None),
        ([1, 2], {}, None),
        (True, {}, None),
        (None, {}, None),
        (0.01, {}, None),
        (1e9, {}, None),
    ],
)
def test_prices_are_read_by_the_conf_or_counted_under_their_reason(
    read: Read, value: Any, rules: dict, price: float | None
) -> None:
    """What is not one positive price within the window is dropped and shown; the row beside it is kept."""
    items, tally = read({"a.jsonl": lines(row(price=value), row(id="b", title=f"{WORDS} b"))}, **rules)
    assert [item["price"] for item in items] == ([] if price is None else [price]) + [5.0]
    assert sum(tally.dropped.values()) == tally.rejected == (price is None)
    assert tally.read == 2 and len(tally.examples) == (price is None)


def test_broken_text_is_mended_or_kept(read: Read) -> None:
    """NUL bytes, Latin-1, half surrogates, emoji, right-to-left text, markup and scripts in titles."""
    texts = {
        "nul": b'{"id": "nul", "title": "a steel\\u0000kettle of two litres", "price": 5}',
        "raw": b'{"id": "raw", "title": "a steel\x00kettle of two litres", "price": 5}',
        "latin": '{"id": "latin", "title": "une cafetière en acier brossé", "price": 5}'.encode("latin-1"),
        "half": b'{"id": "half", "title": "a steel kettle \\ud83d of two litres", "price": 5}',
        "emoji": '{"id": "emoji", "title": "a steel kettle 🫖 of two litres", "price": 5}'.encode(),
        "right": '{"id": "right", "title": "قلاية هوائية كهربائية بسعة خمسة لترات", "price": 5}'.encode(),
        "markup": lines(row(id="markup", title="<b>Steel</b> kettle <script>alert('x')</script>&amp; lid, < 5 litres")),
    }
    items, tally = read({"a.jsonl": b"\n".join(texts.values())})
    titles = {item["id"]: item["title"] for item in items}
    assert titles["nul"] == titles["raw"] == "a steel kettle of two litres"
    assert titles["latin"] == "une cafetière en acier brossé"
    assert titles["half"] == "a steel kettle ? of two litres"
    assert "🫖" in titles["emoji"] and titles["right"].startswith("قلاية")
    assert titles["markup"] == "Steel kettle & lid, < 5 litres"
    assert tally.read == tally.kept == 7


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("&lt;b&gt;Kettle&lt;/b&gt; &amp;amp; lid", "Kettle & lid"),
        ("&lt;p class=&quot;a&quot;&gt;Steel&lt;br /&gt;2 litres&lt;/P&gt;&lt;!-- x --&gt;", "Steel 2 litres"),
        ("Kettle &lt;script&gt;alert(1)&lt;/script&gt; of &amp;quot;steel&amp;quot;", 'Kettle of "steel"'),
        ("<p>&amp;lt;b&amp;gt;Kettle&amp;lt;/b&amp;gt;</p>", "Kettle"),
        ("caf&amp;eacute; caf&amp;#233;", "café café"),
        ("fits pipes &lt; 3 inch and &gt; 1 inch", "fits pipes < 3 inch and > 1 inch"),
        ("if a &lt;b and c&gt; d, &lt;your name&gt; here", "if a <b and c> d, <your name> here"),
        ("the &lt;style&gt; of your choice, red", "the <style> of your choice, red"),
        ("AT&amp;T, pen&amp;notebook", "AT&T, pen&notebook"),
    ],
)
def test_markup_that_is_escaped_goes_and_what_only_looks_like_it_stays(text: str, left: str) -> None:
    """As product feeds hold it, references that are escaped twice too; signs of less and more are words."""
    assert without_markup(text) == left


def test_details_as_text_and_as_object_are_the_same(read: Read) -> None:
    """Amazon's metadata hold them as a JSON string, other sources as an object."""
    details = {"Brand": "Acme", "Best Sellers Rank": {"Kettles": 3}, "Price": "$5"}
    items, _ = read({"a.jsonl": lines(row(details=details), row(id="b", details=json.dumps(details)))})
    one, other = items
    assert one["details"] == other["details"] and one["text"] == other["text"] == "Brand: Acme"
    assert "Price" not in json.loads(one["details"])


def test_a_price_in_the_currency_of_the_conf_is_found_in_the_text(read: Read) -> None:
    """In title, text and details; and details that are called a price in another language are none of the text."""
    kettle = row(title=f"{WORDS}, nu 199 kr", text="Pris: 199 kr", price="199 kr")
    kettle["details"] = {"Preis": "49", "Prix": "49", "UVP": "59", "Info": "kr 199, frakt 59 kr"}
    items, _ = read({"a.jsonl": lines(kettle)}, currency=("kr",))
    assert (items[0]["title"], items[0]["text"]) == (f"{WORDS}, nu", "Info: , frakt 59 kr")
    assert json.loads(items[0]["details"]) == {"Info": ", frakt 59 kr"}


@pytest.mark.parametrize("field", ["details", "price", "nothing of ours"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_that_is_nested_too_deeply_stops_no_other(read: Read, name: str, field: str) -> None:
    """One object a line or one document: such a row is counted and shown, whichever field it is."""
    deep = json.dumps({"a": [], "price": None, field: "HERE"}).replace('"HERE"', "[" * 1000 + "]" * 1000).encode()
    content = b"\n".join((deep, lines(row())))
    items, tally = read({name: content if name == "a.jsonl" else b"[" + content.replace(b"\n", b",") + b"]"})
    assert [item["id"] for item in items] == ["a"] and tally.rejected == len(tally.examples) == 1


def test_a_text_of_ten_megabytes_is_cut_and_counted(read: Read) -> None:
    """At the conf's limit, between words."""
    items, tally = read({"a.jsonl": lines(row(description="steel " * 1_700_000))}, near=0.7)
    assert len(items[0]["text"]) <= 20_000 and items[0]["text"].endswith("steel")
    assert tally.noted == {"text cut at 20,000 characters": 1}


def test_leaks_are_scrubbed_or_dropped_as_the_conf_says(read: Read) -> None:
    """Counted by rule, with the words as examples."""
    rows = lines(row(description="Price: $5"), row(id="b", title=f"{WORDS} 19.99 inches"))
    items, tally = read({"a.jsonl": rows})
    assert items[0]["text"] == "" and "19.99 inches" in items[1]["title"]
    assert tally.noted == {"price in the text: called a price": 1}
    assert "Price: $5" in tally.examples["price in the text: called a price"][0][1]


def test_leaking_items_are_dropped_where_the_conf_says_so(read: Read) -> None:
    """`data.leaks=drop`."""
    items, tally = read({"a.jsonl": lines(row(description="Price: $5"), row(id="b", title=f"{WORDS} b"))}, leaks="drop")
    assert [item["id"] for item in items] == ["b"] and tally.dropped == {"states its own price": 1}


def test_part_numbers_go_and_measures_stay(read: Read) -> None:
    """Words of seven characters or more with a digit; numbers with a fraction are none."""
    title = "kettle XK-1234567 of 1.1e+02 pounds, 1,234.50 grams, 12-pack 171435271"
    items, _ = read({"a.jsonl": lines(row(title=title))})
    assert items[0]["title"] == "kettle of 1.1e+02 pounds, 1,234.50 grams,"


def test_an_item_that_cleaning_empties_is_rejected(read: Read) -> None:
    """Counted under a reason of its own, however short a text may be."""
    items, tally = read({"a.jsonl": lines(row(title="WX-4500B1"), row(title="!!! ..."), row(id="b"))}, text_min=0)
    assert [item["id"] for item in items] == ["b"]
    assert tally.dropped == {"no words in title and text after cleaning": 2} and tally.rejected == 2


def test_columns_are_mapped(read: Read) -> None:
    """Another's names become ours, several of them one text."""
    content = f"sku,name,cost,blurb,colour\n1,{WORDS},5,good,red\n".encode()
    columns = {"id": "sku", "title": "name", "price": "cost", "text": ("blurb", "colour")}
    items, _ = read({"a.csv": content}, columns=columns)
    assert (items[0]["id"], items[0]["title"], items[0]["text"], items[0]["price"]) == ("1", WORDS, "good red", 5.0)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no data"),
        ({"readme.txt": b"hello"}, r"Expected a file, folder or glob of \.jsonl"),
        ({"a.jsonl": b""}, "hold no rows"),
        ({"a.jsonl": lines(row(), row()) + b'\n{"title": '}, r"a\.jsonl, line 3, is not JSON"),
        ({"a.jsonl.gz": gzip.compress(lines(*[row()] * 500))[:-9]}, r"a\.jsonl\.gz cannot be read"),
        ({"a.jsonl.gz": b"not gzip"}, r"a\.jsonl\.gz cannot be read"),
        ({"a.parquet": b"not parquet"}, r"a\.parquet cannot be read"),
        ({"a.csv": b"name,cost\nkettle,5\n"}, r"has the columns name, cost.*data\.columns\.title=NAME"),
        (
            {"a.jsonl": lines(row(price=None), row(title="x"))},
            "Every row was rejected: 2 rows read; 1 no price, 1 text",
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_the_remedy(read: Read, files: dict[str, bytes], message: str) -> None:
    """The file, the line, the columns, or the reasons that rejected every row."""
    with pytest.raises(UserError, match=message):
        read(files)


def test_a_parquet_with_other_columns_says_which_there_are(read: Read, tmp_path: Path) -> None:
    """And a mapping to columns that are not there says which are missing."""
    pq.write_table(pa.table({"name": [WORDS], "cost": [5.0]}), tmp_path / "x")
    with pytest.raises(UserError, match=r"has the columns name, cost\. data\.columns names sku"):
        read({"a.parquet": (tmp_path / "x").read_bytes()}, columns={"title": "sku", "price": "cost"})


def test_lines_are_numbered_across_shards(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut in many parts, a file is read whole, and a bad line still has its number."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 300)
    rows = [row(id=f"{number:03}", title=f"{WORDS} {number}") for number in range(40)]
    with pytest.raises(UserError, match=r"a\.jsonl, line 31, is not JSON"):
        read({"a.jsonl": lines(*rows[:30]) + b"\n{\n" + lines(*rows[30:])})


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_no_row_is_lost_between_shards(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the shards are."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 300)
    rows = [row(id=f"{number:03}") for number in range(40)]
    file = tmp_path / name
    match name:
        case "a.parquet":
            pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=3)
        case "a.csv":
            file.write_text("id,title,price\n" + "".join(f"{r['id']},{r['title']},5\n" for r in rows))
        case _:
            file.write_bytes(gzip.compress(lines(*rows)) if name.endswith("gz") else lines(*rows))
    cut = list(shards.cut(file, tmp_path / "raw"))
    assert len(cut) > 3
    assert [r["id"] for shard in cut for r in shards.read(shard)] == [r["id"] for r in rows]


@pytest.mark.parametrize("name", ["tiny-random", pytest.param("smollm2-135m", marks=pytest.mark.slow)])
def test_tokens_counted_word_by_word_are_those_of_the_whole_text(name: str, items: list[Item]) -> None:
    """Whatever the words hold: the tokenizer itself gives the same."""
    tokenizer = str(find_tokenizer(name))
    odd = [
        "it's 12,345.67 don't--stop",
        "🫖 قلاية هوائية 电水壶 naïve",
        "a  b\u00a0c\u2003d",
        "((1)) <b> && \u0120x \u2581y",
    ]
    texts = [*items, *(Item("", text, text.upper()) for text in odd)]
    whole = Tokenizer.from_file(tokenizer)
    expected = [
        len(whole.encode(" " + " ".join(f"{i.title} {i.text}".split()), add_special_tokens=False)) for i in texts
    ]
    assert count_tokens(texts, tokenizer) == expected
    assert not spans_words(tokenizer)


def test_the_token_gate_counts_what_it_drops(read: Read) -> None:
    """Below the least, with the reason."""
    rows = [row(id=f"{n:02}", title=" ".join(["kettle"] * n)) for n in range(3, 20)]
    items, tally = read({"a.jsonl": lines(*rows)}, tokenizer="tiny-random", tokens_min=70, text_min=0)
    assert {item["id"] for item in items} == {f"{n:02}" for n in range(10, 20)}  # seven bytes a word, blank and all
    assert tally.dropped == {"fewer than 70 tokens": 7}


def test_suspicious_prices_are_reported_wherever_they_are(read: Read) -> None:
    """Placeholders inside and outside the window are counted, dropped or not."""
    prices = [0.01, 999.99, 999, 1e9, 9999.99, 12.5]
    _, tally = read({"a.jsonl": lines(*[row(id=str(n), title=f"{WORDS} {n}", price=p) for n, p in enumerate(prices)])})
    assert set(tally.placeholders) == {"0.01", "999.99", "999", "1000000000", "9999.99"}
    assert (tally.lowest, tally.highest) == (0.01, 1e9)


@given(st.lists(st.text(st.sampled_from("a1_ .-!—…é٣名\u0301\n"), max_size=12), max_size=5))
def test_runs_of_one_mark_are_found_in_any_script(texts: list[str]) -> None:
    """Three or more of one mark become one, whatever stands around them, in however many texts at once."""
    assert shorten_runs(texts) == [re.sub(r"([^\w\s])\1{2,}", r"\1", text) for text in texts]


def test_an_item_of_enough_tokens_passes_whatever_follows() -> None:
    """Counting stops where it is decided; the answer is that of the whole count, for words met before and not."""
    items = [Item("", "kettle", " ".join(["steel"] * words + ["unmet" * words])) for words in range(12)]
    tokenizer = str(find_tokenizer("tiny-random"))
    for least in (10, 40, 80):
        told = have_tokens(items, least, tokenizer)  # first, while its words are not all known
        assert told == [count >= least for count in count_tokens(items, tokenizer)]
        assert set(told) == {True, False}

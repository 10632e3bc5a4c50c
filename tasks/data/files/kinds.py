"""What a data file is: by its name, and by what it begins with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from tasks.data.files.encodings import HEAD, encoding_of, open_bytes
from tasks.errors import UserError

Kind = Literal["lines", "document", "table", "parquet"]
TEXT = (".jsonl", ".ndjson", ".jl", ".json", ".csv", ".tsv")
SUFFIXES = (*TEXT, *(f"{suffix}.gz" for suffix in TEXT), ".parquet")
NAMED_ALONE = (".txt", ".tab", ".txt.gz", ".tab.gz")  # too common beside data to be read unless somebody names one
LFS = b"version https://git-lfs.github.com/spec/"
# What a file begins with that holds no rows for us, and what to do about it.
STRANGE = {
    b"PK\x03\x04": "is an Excel workbook or a ZIP archive. Save the sheet as CSV (UTF-8), or unpack the archive",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook. Save the sheet as CSV (UTF-8)",
    b"BZh": "is compressed by bzip2. Unpack it, or compress it by gzip",
    b"\xfd7zXZ": "is compressed by xz. Unpack it, or compress it by gzip",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd. Unpack it, or compress it by gzip",
    b"SQLite format": "is an SQLite database. Export the table as CSV",
    b"%PDF": "is a PDF. Export the table as CSV",
    b"ARROW1": "is an Arrow file. Write it as Parquet",
}
PAGE = re.compile(r"\s*<(!doctype|html|\?xml|rss)\b", re.IGNORECASE)


def suffix(name: str) -> str:
    """The suffix by which a file counts as data; empty if it is none."""
    known = sorted((*SUFFIXES, *NAMED_ALONE), key=len, reverse=True)
    return next((ending for ending in known if name.lower().endswith(ending)), "")


def kind_of(file: Path, encoding: str | None = None) -> Kind:
    """How a file is read.

    Raises:
        UserError: it is something else, with what to do about it.
    """
    ending = suffix(file.name).removesuffix(".gz")
    with file.open("rb") as opened:
        start = opened.read(64)
    if start.startswith(LFS):
        raise UserError(
            f"{file} is a Git LFS pointer and not the data. Fetch the data with `git lfs pull` where it came from."
        )
    for mark, what in STRANGE.items():
        if start.startswith(mark):
            raise UserError(f"{file} {what}.")
    if ending == ".parquet" or start.startswith(b"PAR1"):
        return "parquet"
    with open_bytes(file) as opened:
        head = opened.read(HEAD).decode(encoding_of(file, encoding), errors="replace").lstrip("\ufeff \t\r\n")
    if PAGE.match(head):
        raise UserError(f"{file} is a web page or XML, perhaps that of an error or a log-in. Save the data themselves.")
    if ending in (".csv", ".tsv"):
        return "table"
    if re.match(r"\[\s*[{\]]", head) or (ending == ".json" and head.startswith("[")):
        return "document"
    if head.startswith("{"):
        return _of_objects(head, ending)
    return "lines" if ending in TEXT else "table"


def _of_objects(head: str, ending: str) -> Kind:
    """Whether text that begins with an object has one on each line, or is one of several lines."""
    first, _, rest = head.partition("\n")
    if first.strip() == "{":
        return "document"
    return "document" if ending == ".json" and (not rest.strip() or not rest.lstrip().startswith("{")) else "lines"


def delimiter_of(file: Path) -> str:
    """The mark between cells that the name of a table promises."""
    return "\t" if suffix(file.name).removesuffix(".gz") in (".tsv", ".tab") else ","

"""In which encoding a text file is written, found out from its bytes or given by the conf."""

from __future__ import annotations

import codecs
import functools
import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from tasks.errors import UserError
from tasks.progress import say

UTF8 = "utf-8"
# The longer marks first: UTF-32's begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CHUNK, MOST_READ, ENOUGH = 2**20, 64 * 2**20, 200_000  # bytes: at a time, in all, and of lines that are not ASCII
HEAD = 2**16
LEGACY = (
    *("cp1252", "cp1250", "cp1251", "koi8_r", "cp932", "euc_jp", "gb18030", "big5", "euc_kr"),
    *("cp1253", "cp1254", "cp1255", "cp1256", "mac_roman"),
)
# Of western text: its letters and marks, never three of them in a row, and none where no word has them.
WESTERN = set("€‚„…‘’“”•–—™°²³½¼¾£¥§©«®·»´×÷±µ¿¡ºª\u00a0ŒœßÄÖÜäöüÉéÈèÊêËëÀàÂâÇçÎîÏïÔôÙùÛûÑñÓóÍíÚúÁáÅåÆæØøÃãÕõÒòÌìÝý")  # noqa: RUF001
NOT_WESTERN = re.compile(r"[^\x00-\x7f\W]{3}|[³¹¾¿¡£¥](?=[a-zß-ÿ])(?<![\s(][¿¡])|œ(?![ueUE])|õ(?!e)|\w[ŒÃÕÝ]")
CENTRAL = set("ĄąĆćĘęŁłŃńÓóŚśŹźŻżÁáČčĎďÉéĚěÍíŇňŘřŠšŤťÚúŮůÝýŽžŐőŰűÖöÜüÄäÔôĽľĹĺŔŕÂâÎîŞşŢţĂă„”“’–—…€°§\u00a0×")  # noqa: RUF001
NOT_CENTRAL = re.compile(r"[^\x00-\x7f\W]{4}|[a-z][ŽŠŚŤŹ]|[b-df-hj-np-tv-xz]ź(?=[b-df-hj-np-tv-xz])")
HEBREW = re.compile("[\u05d0-\u05ea\u20aa]")
NOT_HEBREW = re.compile("[\u0591-\u05c7]|[ךםןףץ](?=[א-ת])")  # points, and letters that end words within them


def is_gzip(file: Path) -> bool:
    """Whether a file is compressed, whatever it is called."""
    if file.name.lower().endswith(".gz"):
        return True
    with file.open("rb") as opened:
        return opened.read(2) == b"\x1f\x8b"


def open_bytes(file: Path) -> IO[bytes]:
    """The bytes of a file, uncompressed."""
    return cast(IO[bytes], gzip.open(file, "rb")) if is_gzip(file) else file.open("rb")


def encoding_of(file: Path, given: str | None) -> str:
    """The encoding of a text file, given or found out; what is not UTF-8 is said, once.

    Raises:
        UserError: it is in an encoding that cannot be told.
    """
    status = file.stat()
    return _encoding_of(file, given, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1000)
def _encoding_of(file: Path, given: str | None, *_: int) -> str:
    with open_bytes(file) as opened:
        head = opened.read(HEAD)
        for mark, name in MARKS.items():
            if head.startswith(mark):
                return name
        if given:
            return given
        if wide := _wide(head):
            return wide
        good, bad = _lines_beyond_ascii(head, opened)
    # A few other lines in a file of UTF-8 are read one by one, each in what Windows wrote.
    if sum(map(len, good)) >= sum(map(len, bad)):
        if bad:
            say(f"{len(bad):,} lines of {file.name} are not UTF-8 as the others are; they are read as cp1252.")
        return UTF8
    sample = b"\n".join(bad)
    name = _legacy(sample)
    if name is None:
        raise UserError(
            f"{file} is not UTF-8, and its encoding cannot be told. Give data.encoding=NAME, such as cp1251."
        )
    text = bad[0].decode(name, errors="replace").strip()
    first = next((at for at, letter in enumerate(text) if not letter.isascii()), 0)
    shown = text[max(0, first - 20) : first + 20]
    say(f"{file.name} is not UTF-8; it is read as {name}: {shown!r}. data.encoding=NAME reads it otherwise.")
    return name


def _wide(head: bytes) -> str | None:
    """UTF-16 without a byte order mark: of Latin letters every other byte is zero."""
    for name, start in (("utf-16-le", 1), ("utf-16-be", 0)):
        part = head[start::2]
        if len(head) > 20 and part.count(0) > 0.5 * len(part) and head[1 - start :: 2].count(0) < 0.05 * len(part):
            return name
    return None


def _lines_beyond_ascii(head: bytes, opened: IO[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Lines that are UTF-8, and lines that are not, of those that hold more than ASCII."""
    good: list[bytes] = []
    bad: list[bytes] = []
    chunk, read, size = head, 0, 0
    while chunk and read < MOST_READ and size < ENOUGH:
        if len(chunk) >= HEAD:
            chunk += opened.readline(CHUNK)
        read += len(chunk)
        if not chunk.isascii():
            for line in chunk.splitlines():
                if not line.isascii():
                    size += len(line)
                    (good if is_utf8(line) else bad).append(line)
        chunk = opened.read(CHUNK)
    return good, bad


def is_utf8(content: bytes) -> bool:
    """Whether bytes are text in UTF-8."""
    try:
        content.decode(UTF8)
    except UnicodeDecodeError:
        return False
    return True


def _legacy(sample: bytes) -> str | None:
    """The encoding of text that is not UTF-8; None if it cannot be told.

    charset-normalizer is good at scripts, but takes western text for any of its neighbours, and Hebrew for Cyrillic.
    """
    for name, fits in (("cp1252", _is_western), ("cp1250", _is_central), ("cp1255", _is_hebrew)):
        text = _decoded(sample, name)
        if text is not None and fits(text):
            return name
    import charset_normalizer

    found = charset_normalizer.from_bytes(sample[:ENOUGH], cp_isolation=list(LEGACY)).best()
    return found.encoding if found else next((n for n in ("cp949", "cp874") if _decoded(sample, n) is not None), None)


def _decoded(sample: bytes, name: str) -> str | None:
    try:
        return sample.decode(name)
    except UnicodeDecodeError:
        return None


def _is_western(text: str) -> bool:
    return _strange(text, WESTERN, NOT_WESTERN) <= 0.02


def _is_central(text: str) -> bool:
    return _strange(text, CENTRAL, NOT_CENTRAL) <= 0.02


def _strange(text: str, letters: set[str], wrong: re.Pattern[str]) -> float:
    beyond = [letter for letter in text if not letter.isascii()]
    return (sum(letter not in letters for letter in beyond) + len(wrong.findall(text))) / max(1, len(beyond))


def _is_hebrew(text: str) -> bool:
    beyond = [letter for letter in text if not letter.isascii() and letter.isalpha()]
    hebrew = sum(map(bool, map(HEBREW.match, beyond))) - len(NOT_HEBREW.findall(text))
    return bool(beyond) and hebrew > 0.95 * len(beyond)


def decode(line: bytes) -> str:
    """A line of a file of UTF-8; if it is not, what Windows and older files write (Latin-1)."""
    try:
        return line.decode(UTF8)
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace")


def text_lines(file: Path, encoding: str) -> Iterator[str]:
    """The lines of a text file without their ends, which are \\n, \\r\\n or, where there is no \\n, \\r.

    Raises:
        UnicodeDecodeError: the file does not keep to the encoding.
    """
    with open_bytes(file) as opened:
        if encoding in (UTF8, "utf-8-sig"):
            head = opened.read(HEAD)
            if b"\n" in head or b"\r" not in head:
                opened.seek(0)
                for number, line in enumerate(opened):
                    line = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
                    yield decode(line).removesuffix("\n").removesuffix("\r").replace("\0", "")
                return
            opened.seek(0)
        decoder, rest, first = codecs.getincrementaldecoder(encoding)(), "", True
        while raw := opened.read(CHUNK):
            chunk = decoder.decode(raw)
            chunk = chunk.removeprefix("\ufeff") if first else chunk
            first = False
            lines = (rest + chunk).replace("\0", "")
            held = "\r" if lines.endswith("\r") else ""  # its \n may be in the next chunk
            lines = lines.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n").split("\n")
            rest = lines.pop() + held
            yield from lines
        rest += decoder.decode(b"", final=True)
        if rest:
            yield from rest.replace("\r", "\n").removesuffix("\n").split("\n")

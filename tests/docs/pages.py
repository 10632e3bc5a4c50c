"""What the pages of the documentation name: commands, options, keys, files, links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from tasks.config.experiment import Experiment
from tasks.config.loading import is_override
from tasks.paths import PROJECT

PAGES = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
FILE = re.compile(r"(?<![\w/.-])(?:tasks|flows|tests|docs|conf|benchmarks)/[\w./*-]*[\w*/]")
MODULE = re.compile(r"(?<![\w/.-])(?:tasks|flows|benchmarks|tests)(?:\.(?!md\b)\w+)+")
TARGET = re.compile(r"\bmake ([a-z]+)\b")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]+")
KEY = re.compile(rf"(?:{'|'.join(Experiment.model_fields)})(?:\.\w+)+")


class Block(NamedTuple):
    """A fenced block: its language ("" for a terminal), and what stands in it."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [Block(*found) for found in FENCE.findall(page)]


def inline(page: str) -> list[str]:
    """The inline code of a page, each on one line."""
    return [" ".join(code.split()) for code in INLINE.findall(FENCE.sub("", page))]


def lines(page: str) -> list[list[str]]:
    """The words of whatever could be typed into a terminal: the lines of blocks, and inline code."""
    typed = [line for block in blocks(page) if block.language in ("", "sh") for line in _joined(block.text)]
    return [words for line in [*typed, *inline(page)] if (words := _words(line))]


def _joined(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a quote that is an apostrophe: prose
        return []
    return [word for word in words if word not in ("...", "…")]


def commands(page: str) -> list[list[str]]:
    """The arguments of every `pricewright ...`; a name alone, such as the work pool's, is no command."""
    found = [line[1:] for line in lines(page) if line[0].rpartition("/")[2] == "pricewright" and len(line) > 1]
    return [words for words in found if re.fullmatch("[a-z]+", words[0])]


def overrides(page: str) -> list[tuple[str | None, list[str]]]:
    """The `key=value` pairs that stand together, with the conf of their command, if it names one."""
    found = []
    for line in lines(page):
        conf = line[line.index("-c") + 1] if "-c" in line[:-1] else None
        if pairs := [word for word in line if is_override(word)]:
            found.append((conf, pairs))
    return found


def keys(page: str) -> set[str]:
    """The keys of the conf that are named in inline code, with a value or without."""
    codes = [code.partition("=")[0].partition(":")[0] for code in inline(page)]
    return {code for code in codes if KEY.fullmatch(code)}


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> list[str]:
    """Where the links and the pictures of a page lead, without other hosts."""
    found = [link or picture for link, picture in LINK.findall(FENCE.sub("", page))]
    return [address for address in found if "://" not in address]


def broken(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere, and the files, modules and targets of make that do not exist."""
    wrong = []
    for address in links(text):
        file, _, anchor = address.partition("#")
        place = (page.parent / file).resolve() if file else page
        if not place.exists() or (anchor and anchor not in anchors(text if place == page else place.read_text())):
            wrong.append(address)
    wrong += [file for file in FILE.findall(text) if not list(PROJECT.glob(file.rstrip("/"))) and "NAME" not in file]
    wrong += [name for name in MODULE.findall(text) if not _is_module(name)]
    made = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    code = [*inline(text), *(block.text for block in blocks(text) if not block.language)]
    wrong += [f"make {target}" for line in code for target in TARGET.findall(line) if target not in made]
    return wrong


def _is_module(name: str) -> bool:
    """Whether a dotted name is a module, a package, or something in a module."""
    parts = name.split(".")
    places = [PROJECT.joinpath(*parts[:length]) for length in (len(parts), len(parts) - 1)]
    if places[0].is_dir() or places[0].with_suffix(".py").is_file():
        return True
    file = places[1].with_suffix(".py")
    return file.is_file() and re.search(rf"\b{parts[-1]}\b", file.read_text(encoding="utf-8")) is not None

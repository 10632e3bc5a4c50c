"""docs/own-data.md: what it says to type is taken."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from flows.cli.parser import parse
from tasks.config.loading import load
from tasks.errors import UserError
from tasks.paths import PROJECT

PAGES = ("own-data.md", "prices.md", "serving.md")
TEXTS = [(page, (PROJECT / "docs" / page).read_text(encoding="utf-8")) for page in PAGES]
BLOCKS = [block for _, text in TEXTS for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S)]
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("pricewright ")]
OPTIONS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("data.")]
INLINE = [code for _, text in TEXTS for code in re.findall(r"`((?:data|finetune)\.[\w.]+=[^`]*)`", text)]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one_and_its_options_are_taken(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser knows the command, and the conf with these overrides is a valid experiment."""
    monkeypatch.chdir(PROJECT)
    arguments = parse(shlex.split(line, comments=True)[1:])
    overrides = [word for word in getattr(arguments, "overrides", []) if "=" in word]
    assert load(arguments.conf, overrides)


@pytest.mark.parametrize("line", [*OPTIONS, *INLINE])
def test_every_option_is_taken(line: str) -> None:
    """As a shell would hand it on."""
    assert load("conf/files.yaml", shlex.split(line, comments=True))


def test_options_that_need_no_quotes_for_a_shell_need_none_for_us() -> None:
    """A comma is a comma, and another letter is refused with what was expected."""
    assert load("conf/files.yaml", ["data.decimal=,"]).data.decimal == ","
    assert load("conf/files.yaml", ["data.decimal=."]).data.decimal == "."
    assert load("conf/files.yaml", ["data.path=~/goods.csv"]).data.path == str(Path("~/goods.csv").expanduser())
    with pytest.raises(UserError, match=r"data\.decimal"):
        load("conf/files.yaml", ["data.decimal=;"])


def test_the_pages_hold_commands_and_options() -> None:
    """So that the tests above look at something."""
    assert len(COMMANDS) > 8 and len(OPTIONS) + len(INLINE) > 10

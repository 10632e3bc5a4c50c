"""`pricewright init`: a look at somebody's file, five of its items as they would be read, and a conf that reads it."""

from __future__ import annotations

import json
import re
import shlex
import sys
import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.config.experiment import Column, Data
from tasks.config.loading import FILES_CONF, conf_files, load
from tasks.data.files.remote import is_address
from tasks.data.inspection.findings import Findings, inspect
from tasks.data.items import Item
from tasks.data.prices import shown
from tasks.errors import UserError
from tasks.progress import say

WIDTH = 100  # columns of the terminal
QUESTION = "Enter if this is right, or what is not (title=NAME price=NAME currency='[€]'): "
RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}  # words that YAML takes for something else
FIELDS = Column.__args__
FOUND = ("source", "path", "columns", "currency", "decimal", "encoding", "price_min", "price_max")


def init(conf: str, file: str, overrides: Sequence[str], to: str | None) -> Path:
    """Look at a file, show what was found, and write a conf beside where the command was started.

    In a terminal the person is asked whether it is right; elsewhere the best guess is taken.

    Raises:
        UserError: the file cannot be read, nothing in it looks like a price or a text, none of its rows is kept, the
            conf is there already, or there are several to start from.
    """
    base, *others = conf_files(conf)
    if others:
        raise UserError(
            f"init starts from one conf, and got {conf}. Give one, or none. The others, such as a team's, go with "
            "the new one: pricewright run -c NEW -c TEAM."
        )
    path = file if is_address(file) else str(Path(file).expanduser().absolute())
    name = load(FILES_CONF, [_path_key(path)]).data.dataset_name
    target = Path(to or f"{name}.yaml")
    if target.exists():
        raise UserError(f"{target} is there already. Give another name by --to, or move it away.")
    corrections = list(overrides)
    found = _look(conf, path, corrections)
    print("\n".join(report(found)))
    if asked():
        while answer := _answer():
            try:
                more = [*corrections, *_as_overrides(answer)]
                found, corrections = _look(conf, path, more), more
                print("\n".join(report(found)))
            except (UserError, ValueError) as error:
                print(error)
    elif found.tally.kept:
        say(
            "There is no terminal to ask in, so this guess is taken. Other columns: data.columns.title=NAME, and so on."
        )
    if not found.tally.kept:
        reason, count = found.tally.dropped.most_common(1)[0]
        raise UserError(
            f"No row of {file} would be kept, so no conf was written: {count:,} of {found.rows:,} are dropped for "
            f"{reason!r}. Say what is otherwise, such as data.columns.price=NAME data.currency='[€]' data.text_min=3."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")  # one that cannot be loaded would stand in the way of the next try
    try:
        part.write_text(conf_text(base.read_text(encoding="utf-8"), found), encoding="utf-8")
        load(part)
        part.rename(target)
    except UserError as error:
        why = f"What was found cannot be put into {conf}. Leave -c out, or give another one."
        raise UserError(f"{why} {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return target


def asked() -> bool:
    """Whether there is somebody in a terminal to be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _answer() -> str:
    try:
        return input(f"\n{QUESTION}").strip()
    except EOFError:  # Ctrl-D
        raise UserError("The question was not answered, so no conf was written. Enter takes what was found.") from None


def _look(conf: str, path: str, overrides: Sequence[str]) -> Findings:
    strange = [pair for pair in overrides if not pair.startswith("data.")]
    if strange:
        raise UserError(f"{strange[0]!r}: init looks at data.* alone. Give the rest to `pricewright run`.")
    rules = load(conf, [*overrides, "data.source=files", _path_key(path)]).data
    given = {pair.partition("=")[0].strip().split(".")[1] for pair in overrides}
    return inspect(path, rules, {name: getattr(rules, name) for name in given})


def _path_key(path: str) -> str:
    return f"data.path={json.dumps(path, ensure_ascii=False)}"


def _as_overrides(answer: str) -> list[str]:
    """What a person typed, such as `price=Cost`, as overrides of a conf.

    Raises:
        UserError: it is something else.
    """
    pairs = shlex.split(answer)
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"{pair!r} is not a correction. Expected FIELD=NAME, such as price=Cost.")
    return [
        pair if pair.startswith("data.") else f"data.{'columns.' if pair.partition('=')[0] in FIELDS else ''}{pair}"
        for pair in pairs
    ]


def report(found: Findings) -> list[str]:
    """What was found, for a person."""
    rows = f"{found.rows:,} rows" if found.whole else f"the first {found.rows:,} rows"
    lines = [f"{found.file.name}: {found.form}; {rows}, {len(found.columns)} columns"]
    for ours in FIELDS:
        same = (name for name in found.columns if name.strip().casefold() == ours)
        theirs = found.rules.columns.get(ours) or next(same, None)
        if theirs:
            lines.append(f"  {ours:<12} {theirs if isinstance(theirs, str) else ', '.join(theirs)}")
    lines += [f"  {key:<12} {_value(getattr(found.rules, key))}  ({why})" for key, why in found.told.items()]
    lines += ["", f"The first {len(found.items)} items, as they would be read:" if found.items else "No item is left."]
    lines += [_item(item) for item in found.items]
    lines += ["", f"{found.tally.kept:,} of {found.rows:,} rows are kept. Dropped:" if found.tally.dropped else ""]
    for reason, count in found.tally.dropped.most_common():
        lines.append(f"  {count:,} {reason}, such as {found.tally.examples[reason][0][1]}"[:WIDTH])
    return lines if found.tally.dropped else [*lines[:-1], f"All {found.rows:,} rows are kept."]


def _item(item: Item) -> str:
    words = " | ".join(part for part in (item.category, item.title, item.text) if part)
    line = f"  {shown(item.known_price):>10}  {words}"
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."


def _value(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def conf_text(base: str, found: Findings) -> str:
    """The YAML of a base conf, with what was found in the place of its own section `data`, and why beside it."""
    rules, told = found.rules, found.told
    lines = ["data:", "  source: files", f"  path: {_yaml(rules.path)}"]
    if rules.columns:
        lines.append("  columns:              # our field: your column")
        lines += [f"    {ours}: {_yaml(theirs)}" for ours, theirs in rules.columns.items()]
    lines += [f"  {key}: {_yaml(getattr(rules, key))}   # {' '.join(why.split())}" for key, why in told.items()]
    written = dict.fromkeys((*FOUND, *found.given))
    for key in written:
        value = getattr(rules, key)
        differs = key in found.given or value != Data.model_fields[key].default
        if differs and key not in ("source", "path", "columns", *told):
            lines.append(f"  {key}: {_yaml(value)}")
    head, section, rest = _section(base, "data")
    kept = textwrap.indent(textwrap.dedent("\n".join(section[1:])), "  ").splitlines()
    text = "\n".join([*lines, *_without(kept, written)])
    if found.unit != 1:
        step = f"    unit: {found.unit:g}   # a step of the language model's answer, which has three digits\n"
        rest = re.sub(r"^(  prompt:\n)", rf"\g<1>{step}", rest, count=1, flags=re.MULTILINE)
    name = found.file.name
    return f"# Written by `pricewright init` after a look at {name}: pricewright run -c THIS FILE\n{head}{text}\n{rest}"


def _without(lines: Sequence[str], keys: Container[str]) -> Iterator[str]:
    """The lines of a section without some of its keys, each with what stands below it."""
    key = ""
    for line in lines:
        if found := re.match(r"  (\w+):", line):
            key = found[1]
        if key not in keys:
            yield line


def _section(text: str, name: str) -> tuple[str, list[str], str]:
    """The text before a section of a YAML, its lines, and the text after it.

    Raises:
        UserError: the conf has no such section.
    """
    lines = text.splitlines()
    if f"{name}:" not in [line.split("#")[0].rstrip() for line in lines]:
        raise UserError(f"The conf has no section {name}. Leave -c out, or give one that has it.")
    start = next(place for place, line in enumerate(lines) if line.split("#")[0].rstrip() == f"{name}:")
    after = [place for place, line in enumerate(lines) if place > start and re.match(r"\S", line)]
    end = min(after, default=len(lines))
    head = [line for line in lines[:start] if not line.startswith("#")]
    return "\n".join([*head, ""]) if head else "", lines[start:end], "\n".join([*lines[end:], ""])


def _yaml(value: Any) -> str:
    """A value in YAML's flow style; a text is quoted where a plain one would be read as something else."""
    if isinstance(value, str):
        bare = re.fullmatch(r"[A-Za-z/][\w/.-]*", value) and value.lower() not in RESERVED
        return value if bare else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_yaml, value))}]"
    return "null" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)

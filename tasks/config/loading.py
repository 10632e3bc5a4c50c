"""How an experiment is read: model defaults < YAML < `key=value` on the command line."""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from tasks.config.experiment import Experiment
from tasks.config.section import Section, shown
from tasks.errors import UserError
from tasks.paths import PROJECT

DEFAULT_CONF, FILES_CONF = "conf/laptop.yaml", "conf/files.yaml"


PATH_KEYS = (
    *(("data", "path"), ("data", "test_path"), ("evaluate", "human"), ("evaluate", "recorded")),
    *(("tracking", "uri"), ("tracking", "artifacts")),
)
# Each is a path if it holds a slash and such a folder is there; else it is the name of a model.
FOLDER_KEYS = (("data", "tokenizer"), ("finetune", "base"), ("finetune", "prompt", "encoder"))


def find_conf(conf: str | Path) -> Path:
    """The conf file: as typed, or in the project when there is none where the command was started.

    Raises:
        UserError: neither place has it.
    """
    for candidate in (Path(conf), PROJECT / conf):
        if candidate.is_file():
            return candidate.resolve()
    known = ", ".join(sorted(f"conf/{path.name}" for path in (PROJECT / "conf").glob("*.yaml")))
    raise UserError(f"There is no conf file {conf}. Give -c one of {known}, or a path to your own.")


def conf_files(conf: str | Path) -> list[Path]:
    """The files of a conf: one, or several parted by commas, such as an experiment and then a team's servers.

    Raises:
        UserError: one of them is not there.
    """
    if Path(conf).is_file():  # one with a comma in its name
        return [find_conf(conf)]
    return [find_conf(part.strip()) for part in str(conf).split(",")]


class _Loader(yaml.SafeLoader):
    """Numbers as YAML 1.2 has them: to PyYAML, which reads 1.1, 1e-3 is a text. A key that is there twice is an error,
    as in YAML: PyYAML would drop the first value, and with a section everything that was set in it."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if (name := (key.tag, key.value)) in lines:
                said = f"{key.value} is there twice, first in line {lines[name]}: keep one, with what belongs to both"
                raise yaml.MarkedYAMLError(None, None, said, key.start_mark)
            lines[name] = key.start_mark.line + 1
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(text: str) -> Any:
    """What a YAML text says.

    Raises:
        yaml.YAMLError: it is none.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _problem(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """What is wrong with a YAML text, in a sentence."""
    if not isinstance(error, yaml.MarkedYAMLError) or (mark := error.problem_mark) is None:
        return f"{error}."
    hint = " Put a text that begins with *, @, % or ` into quotes." if "cannot start" in str(error) else ""
    return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1}).{hint}"


def load(conf: str | Path = DEFAULT_CONF, overrides: Sequence[str] | None = None) -> Experiment:
    """Read an experiment: model defaults < YAML < `key=value` overrides, whose values parse as YAML.

    Of several files, parted by commas, each goes over those before it: sections key by key, lists as a whole. Paths in
    the YAML are relative to the project, paths in overrides to the current folder.

    Raises:
        UserError: the file is not there or not YAML, a key is unknown, or a value is of the wrong type.
    """
    tree: dict[str, Any] = {}
    files = conf_files(conf)
    for file in files:
        _lay_over(tree, _tree_of(file))
    for override in overrides or []:
        _apply(tree, override)
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(error, " and ".join(file.name for file in files))) from error


def _tree_of(path: Path) -> dict[str, Any]:
    try:
        tree = read_yaml(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable as YAML: {_problem(error)}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} should hold sections such as `data:`, but it holds {type(tree).__name__}.")
    _drop_empty(tree, Experiment)
    _anchor(tree, PROJECT)
    return tree


def _drop_empty(tree: dict[str, Any], section: type[Section]) -> None:
    """Drop the sections of which every key is commented out: they say nothing, so that what is below them stands."""
    for name, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Section | dict) and name in tree and tree[name] is None:
            del tree[name]
        elif isinstance(default, Section) and isinstance(tree.get(name), dict):
            _drop_empty(tree[name], type(default))


def _lay_over(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = value


def _anchor(tree: dict, folder: Path) -> None:
    for *sections, key in (*PATH_KEYS, *FOLDER_KEYS):
        values: Any = tree
        for section in sections:
            values = values.get(section) if isinstance(values, dict) else None
        if isinstance(values, dict) and key in values:
            values[key] = _placed_at((*sections, key), values[key], folder)


def _placed_at(key: tuple[str, ...], value: Any, folder: Path) -> Any:
    """The value of a key, absolute if it is a path: relative ones start from the folder."""
    if key in FOLDER_KEYS:
        here = isinstance(value, str) and "/" in value and (folder / Path(value).expanduser()).is_dir()
        return _placed(value, folder) if here else value
    return _placed(value, folder) if key in PATH_KEYS else value


def anchored(overrides: Sequence[str]) -> list[str]:
    """The same overrides for somebody who works in another folder: their paths are absolute."""
    result = []
    for override in overrides:
        key, _, value = override.partition("=")
        names = tuple(key.strip().split("."))
        if names in PATH_KEYS or names in FOLDER_KEYS:
            placed = _placed_at(names, _value_of(key.strip(), value), Path.cwd())
            override = f"{key}={json.dumps(placed, ensure_ascii=False)}"  # YAML reads no pairs of escapes
        result.append(override)
    return result


def _placed(value: Any, folder: Path) -> Any:
    """A path, or each path of a list, relative to a folder; an address stays as it is, but for the file of a database,
    and anything else is left for the validation to refuse."""
    if isinstance(value, list):
        return [_placed(part, folder) for part in value]
    if not isinstance(value, str):
        return value
    if value.startswith("sqlite:///"):
        return f"sqlite:///{folder / value.removeprefix('sqlite:///')}"
    return value if "://" in value or value.startswith("file:") else os.path.normpath(folder / Path(value).expanduser())


def command_of(conf: str | Path, overrides: Sequence[str] | None) -> str:
    """What makes the same leaderboard again; where it is tracked makes no difference, and is nobody else's business."""
    pairs = [_to_be_shown(pair) for pair in overrides or [] if not pair.startswith("tracking.")]
    return shlex.join(["pricewright", "run", "-c", str(conf), *pairs])


def _to_be_shown(override: str) -> str:
    key, _, value = override.partition("=")
    if "://" not in value:
        return override
    held = _value_of(key.strip(), value)
    safe = shown(held)
    return override if safe == held else f"{key}={safe if isinstance(safe, str) else json.dumps(safe)}"


def is_override(word: str) -> bool:
    """Whether a word of a command line sets a key of an experiment, such as `data.rows=500`; else it is a text. So is
    what looks like a key of a section that there is not: a misspelt one is to be refused, and not to be priced."""
    key, equals, _ = word.partition("=")
    return bool(equals) and (key in Experiment.model_fields or re.fullmatch(r"[a-z_]+(\.\w+)+", key) is not None)


def _apply(tree: dict, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{override!r} is not an override. Expected key=value, such as data.rows=500.")
    try:
        parsed = _value_of(key.strip(), value)
    except yaml.YAMLError as error:
        raise UserError(f"The value of {override!r} is not readable as YAML: {_problem(error)}") from error
    names = key.strip().split(".")
    parsed = _placed_at(tuple(names), parsed, Path.cwd())
    node = tree
    for name in names[:-1]:
        child = node.get(name)
        if child is None:
            child = node[name] = {}
        if not isinstance(child, dict):
            raise UserError(f"{override!r}: {name} is not a section.")
        node = child
    node[names[-1]] = parsed


def _value_of(key: str, value: str) -> Any:
    """What the value of an override says: YAML, but for what is meant as it stands: a text such as the name 2024, a
    path, a comma and the name of a column, unless it is quoted, a list or null.

    Raises:
        yaml.YAMLError: it is none.
    """
    names, word = tuple(key.split(".")), value.strip()
    named = names in PATH_KEYS or names in FOLDER_KEYS or names[:2] == ("data", "columns") or _is_text(names)
    if named and not word.startswith(("[", "{", "'", '"')) and word.lower() not in ("", "~", "null"):
        return word
    return value if key == "data.decimal" and value in (",", ".") else read_yaml(value)


def _is_text(names: tuple[str, ...]) -> bool:
    """Whether a key takes a text and nothing else but null."""
    section: Any = Experiment
    for name in names[:-1]:
        section = getattr(section.model_fields.get(name), "annotation", None)
        if not (isinstance(section, type) and issubclass(section, Section)):
            return False
    return getattr(section.model_fields.get(names[-1]), "annotation", None) in (str, str | None)


def _explain(error: ValidationError, name: str) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "(the whole)"
        if problem["type"] == "extra_forbidden":
            names = _names(problem["loc"][:-1])
            near = difflib.get_close_matches(str(problem["loc"][-1]), names, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Valid names: {', '.join(names)}."
            lines.append(f"{key}: there is no such key. {hint}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            # A section is too long to repeat, and somebody may have put the key itself where its name belongs.
            held = isinstance(problem["input"], dict) or re.search(":.*@", str(problem["input"]))
            shown = not held and not key.endswith(("key_env", "uri", "base_url"))
            got = f"got {problem['input']!r}. " if shown else ""
            number = problem["type"] == "string_type" and isinstance(problem["input"], int | float | date)
            hint = " Put it into quotes." if number else ""
            lines.append(f"{key}: {got}{message}.{hint}" if key != "(the whole)" else message)
    return f"{name} with its overrides is not a valid experiment:\n  " + "\n  ".join(lines)


def _names(location: tuple) -> list[str]:
    model: Any = Experiment
    for part in location:
        model = get_args(model)[0] if isinstance(part, int) else model.model_fields[part].annotation
    return list(model.model_fields)

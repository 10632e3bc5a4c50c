"""Whatever the documentation tells somebody to type or to open is there, and does what a command line takes."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from flows.cli.parser import parse, parser
from tasks.config.experiment import Experiment
from tasks.config.loading import find_conf, is_override, load, read_yaml
from tasks.errors import UserError
from tasks.paths import PROJECT
from tests.docs.pages import PAGES, blocks, broken, commands, inline, keys, lines, overrides
from tests.smoke import Finished, command

TEXTS = [pytest.param(page.read_text(encoding="utf-8"), id=page.stem) for page in PAGES]
QUICK = {"leaderboard", "predict", "doctor", "export", "human", "promote", "gc"}  # where a pipeline has been run


def refused(words: list[str]) -> str | None:
    """What is said of a command that is not taken: by the parser, or by the conf that its overrides go over."""
    if len(words) == 1 and words[0] in subcommands():
        return None  # the name of a command in a sentence
    try:
        arguments = parse(words)
    except SystemExit:
        return f"{' '.join(words)}: the parser refuses it"
    pairs = [word for word in arguments.overrides if is_override(word)]
    texts = [word for word in arguments.overrides if not is_override(word)]
    if texts and arguments.name != "predict" and texts != ["key=value"]:
        return f"{' '.join(words)}: takes no {texts}"
    return refused_conf(arguments.conf, pairs)


def refused_conf(conf: str | None, pairs: list[str]) -> str | None:
    """What is said of a conf with overrides that are not taken."""
    try:
        load(conf if conf and Path(PROJECT / conf).is_file() else "conf/files.yaml", pairs)
    except UserError as error:
        return str(error)
    return None


def unknown_key(key: str) -> str | None:
    """A key that no experiment has; what goes on to a library is checked against that library's own names."""
    model: Any = Experiment
    names = key.split(".")
    for place, name in enumerate(names):
        if name not in getattr(model, "model_fields", {}):
            return key
        kind = model.model_fields[name].annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            model = kind
        elif place + 1 < len(names):
            found = [part for part in get_args(kind) if isinstance(part, type) and issubclass(part, BaseModel)]
            if not found:
                ours = set(get_args(get_args(kind)[0])) if get_origin(kind) is dict else set()
                return None if names[place + 1] in ours | upstream(name) else key
            model = found[0]
    return None


def upstream(section: str) -> set[str]:
    """The names that a library takes for a section of the conf."""
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig
    from trl import SFTConfig

    library = {"sft": SFTConfig, "lora": LoraConfig, "quantization": BitsAndBytesConfig}.get(section)
    if library is None:
        return set()
    return set(inspect.signature(library).parameters)


@pytest.mark.parametrize("text", TEXTS)
def test_every_command_is_one(text: str) -> None:
    """It parses, and the conf takes its overrides; so with overrides that stand alone, or behind a benchmark."""
    assert [said for words in commands(text) if (said := refused(words))] == []
    assert [said for conf, pairs in overrides(text) if (said := refused_conf(conf, pairs))] == []


@pytest.mark.parametrize("text", TEXTS)
def test_every_option_and_key_exists(text: str) -> None:
    """Those of a table or a sentence too."""
    known = {option for sub in subcommands().values() for option in sub._option_string_actions}
    for benchmark in (PROJECT / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'"(--[a-z-]+)"', benchmark.read_text(encoding="utf-8")))
    options = {code.split()[0] for code in inline(text) if re.fullmatch(r"--[a-z][a-z-]*( [A-Z]+)?", code)}
    assert options - known == set()
    assert [key for key in sorted(keys(text)) if unknown_key(key)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_link_and_anchor_leads_somewhere(page: Path) -> None:
    """Pictures, modules and targets of make included."""
    assert broken(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("text", TEXTS)
def test_every_block_is_what_it_says(text: str, tmp_path: Path) -> None:
    """YAML is a conf that loads, JSON is JSON, and Python compiles."""
    for block in blocks(text):
        if block.language == "yaml":
            conf = read_yaml(find_conf("conf/files.yaml").read_text()) | read_yaml(block.text)
            (tmp_path / "conf.yaml").write_text(json.dumps(conf))
            load(tmp_path / "conf.yaml")
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "python":
            ast.parse(block.text)
        else:
            assert block.language in ("", "sh"), f"{block.language}: nothing here checks such a block"


def subcommands() -> dict[str, Any]:
    """The parser of each command."""
    (action,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def test_the_help_of_every_command_is_plain() -> None:
    """Each says what it does, and each option what it is for."""
    for name, sub in subcommands().items():
        assert sub.description, name
        assert all(action.help for action in sub._actions), name
        assert sub.format_help()


def documented() -> list[list[str]]:
    """The commands of all pages that end soon where a pipeline has been run, each once."""
    found = [words for text in TEXTS for words in commands(text.values[0])]
    quick = [words for words in found if words[0] in QUICK and "--delete" not in words and "-c" not in words]
    once = {tuple(words) for words in quick if not any(is_override(word) for word in words)}
    bare = {("predict",), ("export",), ("human",)}
    return [list(words) for words in sorted(once - bare)]


@pytest.mark.parametrize("words", documented(), ids=" ".join)
def test_a_quick_command_is_run(words: list[str], conf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands in the documentation, on the smoke experiment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pricewright"])
    (tmp_path / "products.jsonl").write_text('{"title": "Kettle", "description": "Boils a litre.", "price": 30}\n')
    status, said = command(*words, "-c", conf)
    assert status == 0 and said.strip(), said


def test_the_commands_that_are_run_are_those_of_the_pages() -> None:
    """The runner has found them: one of each kind at least."""
    assert {words[0] for words in documented()} == QUICK
    assert len(documented()) > 12


@pytest.mark.parametrize("page", ["README.md", "docs/mlflow.md"])
def test_the_python_of_a_page_runs(page: str, finished: Finished) -> None:
    """On the store of a finished run, in a new process and another folder; the README's champion gives a price with its
    interval."""
    (code,) = (block.text for block in blocks((PROJECT / page).read_text()) if block.language == "python")
    address = "sqlite:////path/to/pricewright/mlruns/mlflow.db"
    assert address in code
    code = code.replace(address, finished.overrides[0].partition("=")[2])
    if page == "README.md":
        code += "(row,) = champion.predict(['Steel kettle, pack of 2']).to_dict('records')\n"
        code += "assert 0 < row['low'] <= row['price'] <= row['high'], row\n"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=finished.folder, check=True, capture_output=True)


def test_the_tree_of_the_readme_is_the_house() -> None:
    """Each folder, and each room, stage and module of the ground in tasks/, and nothing else."""
    whole, inside = (block.text for block in blocks((PROJECT / "README.md").read_text()) if "/ " in block.text)
    assert all((PROJECT / folder).is_dir() for folder in re.findall(r"^(\w+)/", whole, re.MULTILINE))
    named = set(re.findall(r"(?:^|(?<= ))\w+(?:/|\.py)(?= |$)", inside, re.MULTILINE))
    there = {f"{path.name}/" if path.is_dir() else path.name for path in (PROJECT / "tasks").glob("[a-z]*")}
    assert there - named == set()
    assert {name for name in named - there if not list((PROJECT / "tasks").glob(f"*/{name}"))} <= {"flows/"}


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("```\npricewright run --agian\n```", "the parser refuses it"),
        ("Type `pricewright run data.row=5`.", "Did you mean rows?"),
        ("```\npricewright bake\n```", "the parser refuses it"),
        ("| `.venv/bin/pricewright curate -c conf/files.yaml text` |", "takes no ['text']"),
        ("`python -m benchmarks.laptop finetune.number_los=1`", "there is no such key"),
    ],
)
def test_a_stale_command_is_found(page: str, said: str) -> None:
    """In a block, in a sentence and in a table."""
    found = [refused(words) for words in commands(page)] + [refused_conf(*pairs) for pairs in overrides(page)]
    assert any(said in (one or "") for one in found), found


@pytest.mark.parametrize(
    "text",
    [
        "see [there](docs/nowhere.md)",
        "see [there](#nowhere)",
        "![a picture](docs/images/none.png)",
        "an entry in `tasks/models/clasic.py`",
        "`python -m benchmarks.none`",
        "`tasks.errors.UserErr`",
        "run `make nothing`",
    ],
)
def test_what_is_not_there_is_found(text: str) -> None:
    """A file, an anchor, a picture, a module, a name in a module, a target of make."""
    assert broken(PROJECT / "README.md", text)


@pytest.mark.parametrize(
    ("key", "unknown"),
    [
        ("finetune.prompt.comparables", False),
        ("finetune.prompt.comparable", True),
        ("finetune.sft.gradient_checkpointing", False),
        ("finetune.sft.gradient_chekpointing", True),
        ("finetune.number_loss", True),
        ("data.columns.price", False),
        ("data.columns.cost", True),
        ("schedule", False),
    ],
)
def test_a_stale_key_is_found(key: str, unknown: bool) -> None:
    """Ours, and those of the libraries that it goes on to."""
    assert bool(unknown_key(key)) == unknown


def test_words_that_only_look_like_commands_are_left_alone() -> None:
    """A name alone, prose with an apostrophe, words for another program."""
    page = "The pool `pricewright`, it's `curl -s http://127.0.0.1:8000`.\n```\nmake run\n```"
    assert commands(page) == [] and overrides(page) == []
    assert ["make", "run"] in lines(page)

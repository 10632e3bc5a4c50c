"""A stage's digest changes with what the stage depends on, and with nothing else."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import digests
from tasks.config.experiment import Finetune, Prompt
from tasks.digests import (
    COMPLETE,
    code,
    code_digest,
    digest,
    file_digest,
    folder_content,
    fraction,
    is_whole,
    mark_whole,
    versions,
)
from tasks.finetuning import untold
from tests.waiting import until


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changing_code: Callable[[], None]) -> Path:  # noqa: ARG001
    """A project of two modules: a stage and what it imports."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "stage.py").write_text("from tasks import shared\n\ndef work():\n    return shared.x\n")
    (tmp_path / "tasks" / "shared.py").write_text("x = 1\n")
    (tmp_path / "tasks" / "other.py").write_text("y = 1\n")
    monkeypatch.setattr(digests, "PROJECT", tmp_path)
    return tmp_path


def now() -> str:
    code_digest.cache_clear()
    return code_digest("tasks.stage")


def test_code_counts_but_comments_docstrings_and_layout_do_not(project: Path) -> None:
    """Explaining a stage better does not run it again; changing what it does, or what it imports, does."""
    before = now()
    stage, shared = project / "tasks" / "stage.py", project / "tasks" / "shared.py"
    stage.write_text(
        '"""Why."""\nfrom tasks import shared\n\n\ndef work():\n    """What."""\n    return (shared.x)  # how\n'
    )
    (project / "tasks" / "other.py").write_text("y = 2\n")
    assert now() == before
    shared.write_text("x = 2\n")
    changed = now()
    assert changed != before
    stage.write_text("from tasks import shared\n\ndef work():\n    return shared.x + 1\n")
    assert now() not in (before, changed)


def test_another_version_of_python_gives_the_same_digest(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trees may have fields more (3.12: the parameters of types) or no empty lists; what they hold counts."""
    (project / "tasks" / "shared.py").write_text("class A:\n    def x(self):\n        return None, {}, []\n")
    before = now()

    def parse(source: str, value: list | None) -> ast.Module:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            for name in [name for name, held in ast.iter_fields(node) if held == []]:
                delattr(node, name)
            if value is not None and isinstance(node, ast.ClassDef | ast.FunctionDef):
                node._fields, node.type_params = (*node._fields, "type_params"), value
        return tree

    def by(value: list | None) -> str:
        digests._counted.cache_clear()
        monkeypatch.setattr(digests, "_parse", lambda source: parse(source, value))
        return now()

    assert by(None) == by([]) == before != by([ast.Name("T")])


def test_a_stage_depends_on_the_code_it_runs_and_not_on_other_rungs() -> None:
    """A new baseline does not train the language model again, nor a change of the training the baselines."""
    training, classic = set(code("tasks.finetuning", untold(Finetune()))), set(code("tasks.baselines"))
    assert {
        "tasks.training.trainer",
        "tasks.models.language.price_distribution",
        "tasks.models.language.prompts",
        "tasks.models.language.model",
    } <= training
    assert "tasks.models.classic" in classic
    assert "tasks.models.classic" not in training
    told = Finetune(prompt=Prompt(opinions=["tfidf_ridge"]))
    assert "tasks.models.classic" in code("tasks.finetuning", untold(told))
    assert not classic & {
        "tasks.training.trainer",
        "tasks.models.language.price_distribution",
        "tasks.models.language.base_model",
        "tasks.models.language.model",
    }
    assert {"tasks.models.classic", "tasks.models.language.price_distribution", "tasks.scoring.metrics"} <= set(
        code("tasks.evaluation")
    )


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    """Equal values have equal names, others others."""
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})


def test_fractions_are_spread_evenly_and_depend_on_seed_and_text_alone() -> None:
    """The hash that splits items is uniform, and the same everywhere: two values are written down here."""
    values = [fraction(1, str(index)) for index in range(4000)]
    assert abs(sum(value < 0.1 for value in values) / 4000 - 0.1) < 0.02
    assert fraction(1, "a") != fraction(2, "a")
    assert (round(fraction(1, "a"), 6), round(fraction(42, "kettle"), 6)) == (0.255417, 0.943404)


def test_a_source_that_python_refuses_for_another_thread_is_parsed_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11 now and then mistakes the tree of another thread for a part of this one; the digest is as ever, and
    what goes on failing is said."""
    (project / "tasks" / "once.py").write_text("x = 1\n")
    sound, refusals = ast.parse, [SystemError("AST constructor recursion depth mismatch (before=204, after=76)")] * 2

    def parse(source: str) -> ast.Module:
        if refusals:
            raise refusals.pop()
        return sound(source)

    expected = list(code("tasks.once"))  # as it is; a source that was read before is not parsed again
    monkeypatch.setattr(ast, "parse", parse)
    (project / "tasks" / "once.py").write_text("x = 2\n")
    assert list(code("tasks.once")) == expected == ["tasks.once"]
    refusals += [SystemError("refused")] * 9
    (project / "tasks" / "once.py").write_text("x = 3\n")
    with pytest.raises(SystemError):
        code("tasks.once")


def test_a_folder_is_whole_while_every_noted_file_is_as_it_was(tmp_path: Path) -> None:
    """Changed, missing or never noted files are told; a file that came later does no harm."""
    folder = tmp_path / "kept"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.bin").write_bytes(b"a")
    assert not is_whole(folder)
    mark_whole(folder)
    mark_whole(folder)
    assert is_whole(folder) and [path.name for path in tmp_path.iterdir()] == ["kept"]
    (folder / "later.bin").write_bytes(b"b")
    assert is_whole(folder)
    (folder / "inner" / "a.bin").write_bytes(b"b")
    assert not is_whole(folder)
    (folder / "inner" / "a.bin").unlink()
    assert not is_whole(folder)
    (folder / COMPLETE).write_text("{")
    assert not is_whole(folder)


def test_a_folder_is_known_by_its_content_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bytes of the same size in a file of the same name are another content, whatever time it is given; where it
    lies makes no difference, and what did not change is not read again."""
    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "FRESH", -1)
    folder, read = tmp_path / "model", []
    folder.mkdir()
    (folder / "weights").write_bytes(b"one")
    (folder / ".DS_Store").write_bytes(b"x")
    os.utime(folder / "weights", (1000, 1000))
    monkeypatch.setattr(digests, "file_digest", lambda path: read.append(path.name) or file_digest(path))
    first = folder_content(folder)
    (folder / ".DS_Store").unlink()
    assert folder_content(folder) == first and read == ["weights"]
    replace_in_silence(folder / "weights", b"two")
    assert folder_content(folder) != first
    monkeypatch.undo()
    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path / "others"))
    second = folder_content(folder)
    os.utime(folder / "weights", (1000, 1000))
    (folder / "weights").write_bytes(b"one")  # so fresh that it is not remembered
    os.utime(folder / "weights", (1000, 1000))
    assert folder_content(folder) == first != second
    elsewhere = folder.rename(tmp_path / "elsewhere")
    assert folder_content(elsewhere) == first
    (tmp_path / "closed").touch()
    monkeypatch.setenv("PRICEWRIGHT_CACHE", str(tmp_path / "closed"))
    os.utime(elsewhere / "weights", (2000, 2000))
    assert folder_content(elsewhere) == first  # what nobody may remember is read


def replace_in_silence(file: Path, content: bytes) -> None:
    """Put another content of the same size in its place and keep its time, as `cp -p` or `tar` may."""
    before = file.stat()
    assert len(content) == before.st_size
    file.write_bytes(content)

    def later() -> bool:  # the clock of a file system ticks some hundred times in a second
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        return file.stat().st_ctime_ns != before.st_ctime_ns

    until(later)


def test_the_versions_of_libraries_are_those_installed() -> None:
    """One that is not installed has none."""
    import numpy  # torch will not do: its builds say what they compute on in __version__, and not all in their names

    assert versions("numpy", "no-such-library") == {"numpy": numpy.__version__, "no-such-library": None}


def test_the_digest_of_data_follows_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read once for as long as it stays as it was, and again when it has changed or is another one."""
    file = tmp_path / "goods.csv"
    file.write_text("a lamp")
    os.utime(file, ns=(1, 1))
    before = digests.data_digest(file)
    assert before == digests.file_digest(file)
    read: list[Path] = []
    real = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: (read.append(path), real(path))[1])
    assert digests.data_digest(file) == before and read == []
    replace_in_silence(file, b"a bed.")
    assert digests.data_digest(file) == real(file) != before and len(read) == 1

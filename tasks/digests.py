"""Short, stable names for content: of values, of files and of the code that a stage runs."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.paths import PROJECT, cache_folder

# What carries values and records but does not make them: a change there is no reason to train again.
PLUMBING = (
    *("tasks.config", "tasks.tracking", "tasks.report", "tasks.digests", "tasks.errors", "tasks.locks", "tasks.paths"),
    *("tasks.progress", "tasks.scoring.wording", "tasks.cache"),
    *("tasks.training.checkpoints", "tasks.training.launch", "tasks.training.memory"),
)
COMPLETE = "complete.json"  # the digests of a whole folder's files
FRESH = 2  # seconds within which a file may be written again without another time of change
ATTEMPTS = 5  # to parse a source
CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


def digest(value: Any) -> str:
    """Sixteen hex digits of a value made of dicts, lists, strings and numbers; the same on any machine."""
    return hashlib.sha256(CANONICAL.encode(value).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_digest(path: Path) -> str:
    """The same, read once in a process for as long as size and times of change are the same: data may be large, and
    several stages ask."""
    return _data_digest(path.resolve(), *_signature(path))


@functools.lru_cache(maxsize=10_000)
def _data_digest(path: Path, *_: int) -> str:
    return file_digest(path)


def _signature(path: Path) -> list[int]:
    """What tells by itself that a file was changed: its size, and both times of change, as `cp -p`, `tar` and `rsync`
    set that of the content to what it was elsewhere."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def folder_digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder, by its path inside it, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def folder_content(folder: Path) -> str:
    """Sixteen hex digits of the files of a folder, hidden ones left out, wherever it lies.

    Each file's sha256 is remembered in the user's cache by its size and times of change, so that gigabytes of weights
    are read once.
    """
    memory = cache_folder() / "contents" / f"{digest(str(folder.resolve()))}.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    found: dict[str, list[Any]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != COMPLETE and not any(part.startswith(".") for part in Path(name).parts):
            *before, content = known.get(name, [None])
            found[name] = [*(signature := _signature(path)), content if before == signature else file_digest(path)]
    lasting = {name: entry for name, entry in found.items() if not any(map(_is_fresh, entry[1:3]))}
    if lasting != known:
        with contextlib.suppress(OSError):  # a cache that others keep
            memory.parent.mkdir(parents=True, exist_ok=True)
            temporary = memory.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(lasting), encoding="utf-8")
            temporary.replace(memory)
    return digest({name: content for name, (*_, content) in found.items()})


def _is_fresh(nanoseconds: int) -> bool:
    return abs(time.time() - nanoseconds / 1e9) <= FRESH


@functools.cache
def versions(*libraries: str) -> dict[str, str | None]:
    """The installed versions of the libraries that make a stage's numbers; None for one that is not installed."""
    found = dict.fromkeys(libraries)
    for name in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def mark_whole(folder: Path) -> None:
    """Note the digests of a folder's files in it, last of all and by a rename, so that one cut short is recognised."""
    noted = {name: value for name, value in folder_digests(folder).items() if name != COMPLETE}
    temporary = folder.with_name(f"{folder.name}.part")
    temporary.write_text(json.dumps(noted), encoding="utf-8")
    temporary.rename(folder / COMPLETE)


def is_whole(folder: Path) -> bool:
    """Whether every file that `mark_whole` noted is still as it was."""
    try:
        noted = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return as_noted(folder_digests(folder), noted)


def as_noted(found: Mapping[str, str], noted: Mapping[str, str]) -> bool:
    """Whether every noted file was found with the noted digest; other files may have come since."""
    return noted.items() <= found.items()


def fraction(seed: int, text: str) -> float:
    """A number in [0, 1) that depends on nothing but the seed and the text: how items are split and sampled."""
    return int(hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()[:13], 16) / 16**13


@functools.cache
def code_digest(module: str, without: frozenset[str] = frozenset()) -> str:
    """The digest of a module of this project and of all it imports from the project, plumbing left out.

    `without` are modules and rooms that make no difference to what the digest is for, or whose results it holds
    besides. Comments, docstrings and layout do not count, so that explaining a stage better does not run it again.
    """
    return digest(code(module, without))


def code(module: str, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """What counts in a module of this project and in all it imports from it, plumbing and `without` left out."""
    pending, found = [module], {}
    while pending:
        name = pending.pop()
        path = _source(name)
        if name in found or path is None or _is_among(name, PLUMBING) or _is_among(name, without):
            continue
        found[name], imported = _counted(path.read_text(encoding="utf-8"))
        pending += imported
    return found


@functools.cache
def _counted(source: str) -> tuple[str, list[str]]:
    """The syntax tree of a source without docstrings, and what it imports; several stages ask for most sources."""
    tree = _parse(source)
    return _written(_without_docstrings(tree)), _imports(tree)


def _written(part: Any) -> str:
    """A part of a syntax tree as a text that is the same by any version of Python: newer ones give the nodes more
    fields, which are empty where a source has nothing of the kind, and their own dump leaves empty fields out."""
    if isinstance(part, list):
        return f"[{', '.join(map(_written, part))}]"
    if not isinstance(part, ast.AST):
        return repr(part)
    fields = {name: value for name, value in ast.iter_fields(part) if value is not None and value != []}
    return f"{type(part).__name__}({', '.join(f'{name}={_written(value)}' for name, value in fields.items())})"


def _is_among(module: str, rooms: Iterable[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def _parse(source: str) -> ast.Module:
    # Python 3.11 may count the depth of two trees that two threads build at once as one, and refuse a sound source
    # (python/cpython#106905); Prefect's threads build some. A moment later it is parsed.
    for _ in range(ATTEMPTS - 1):
        try:
            return ast.parse(source)
        except SystemError:
            time.sleep(0.1)
    return ast.parse(source)


def _source(module: str) -> Path | None:
    path = PROJECT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.startswith("tasks.")]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())), *rest]:
                    node.body = rest
    return tree

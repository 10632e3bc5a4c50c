"""The rule of the house: flows -> tasks.<stage> -> shared modules, and heavy libraries only where models are."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.config import PROJECT

STAGES = {"curation", "baselines", "finetuning", "evaluation", "promotion"}
MODULES = sorted((PROJECT / "tasks").rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_tasks_never_import_flows_nor_one_stage_another(path: Path) -> None:
    """Work knows nothing of wiring, stages meet only in flows, and shared modules know no Prefect."""
    names = imported(path)
    assert not {name for name in names if name.split(".")[0] == "flows"}
    assert not {name for name in names if name.startswith("tasks.") and name.split(".")[1] in STAGES - {path.stem}}
    if path.stem not in STAGES:
        assert not {name for name in names if name.split(".")[0] == "prefect"}


SOURCES = sorted(path for name in ("benchmarks", "flows", "tasks", "tests") for path in (PROJECT / name).rglob("*.py"))


def defined(module: str) -> set[str] | None:
    """The names of a module of this project, its submodules among them; None for a module that is not ours."""
    place = PROJECT.joinpath(*module.split("."))
    path = next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
    if path is None:
        return None
    names = {file.stem for file in place.glob("*.py")} if place.is_dir() else set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_what_is_imported_from_the_project_is_there() -> None:
    """In functions too, some of which only a long benchmark or another machine runs."""
    missing = [
        f"{path.relative_to(PROJECT)}: {node.module}.{alias.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and (names := defined(node.module)) is not None
        for alias in node.names
        if alias.name not in names
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("flows.cli", ["prefect", "mlflow", "pandas", "numpy", "torch"]),
        ("flows.curation", ["torch", "transformers", "trl"]),
        ("tasks.predictors.classic", ["torch", "transformers", "mlflow", "prefect"]),
    ],
)
def test_a_light_module_does_not_import_heavy_libraries(module: str, heavy: list[str]) -> None:
    """`pricewright --help`, curation and the classic baselines start without what only language models need."""
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == "[]"

"""The rooms of the house, and which way an import may go."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.paths import PROJECT

# From the top down: a room imports from the rooms below it and from itself, never from one above or beside it.
FLOORS = (
    ("flows",),
    ("tasks.curation", "tasks.baselines", "tasks.finetuning", "tasks.evaluation", "tasks.promotion", "tasks.export"),
    ("tasks.report", "tasks.training"),
    ("tasks.scoring",),
    ("tasks.models",),
    ("tasks.data",),
    ("tasks.tracking",),
    ("tasks.config",),
    ("tasks.cache",),
    ("tasks.digests", "tasks.locks"),
    ("tasks.errors", "tasks.paths", "tasks.progress"),
)
STAGES = FLOORS[1]
FLOOR = {room: height for height, floor in enumerate(reversed(FLOORS)) for room in floor}
MOST_MODULES, MOST_LINES, MOST_FUNCTION_LINES = 14, 400, 60
SOURCES = sorted(path for name in ("benchmarks", "flows", "tasks", "tests") for path in (PROJECT / name).rglob("*.py"))
PACKAGE = [path for path in SOURCES if path.relative_to(PROJECT).parts[0] in ("flows", "tasks")]


def module_of(path: Path, root: Path = PROJECT) -> str:
    """The dotted name of a source file."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """The room, stage or module of the ground that a module belongs to."""
    parts = module.split(".")
    return "flows" if parts[0] == "flows" else ".".join(parts[:2])


def imported(tree: ast.AST) -> set[str]:
    """The modules that a source imports, inside functions and for type checking too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module in ("flows", "tasks")}
    return names


def wrong_arrows(path: Path, root: Path = PROJECT) -> list[str]:
    """The imports of a file that go up or to the side, each as a sentence that says where they may go."""
    here = room_of(module_of(path, root))
    found = []
    for name in sorted(imported(ast.parse(path.read_text(encoding="utf-8")))):
        there = room_of(name)
        if name.split(".")[0] not in ("flows", "tasks") or there in (here, "tasks"):
            continue
        if there not in FLOOR or FLOOR[there] >= FLOOR[here]:
            below = [", ".join(floor) for floor in FLOORS if FLOOR[floor[0]] < FLOOR[here]]
            found.append(f"{module_of(path, root)} imports {name}, but {here} may import only from {'; '.join(below)}")
    return found


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: module_of(path))
def test_imports_go_down_only(path: Path) -> None:
    """Rooms know nothing of those above and beside them, and stages meet only in flows."""
    assert wrong_arrows(path) == []


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        (
            "tasks/data/items.py",
            "from tasks.models.predictor import Predictions",
            "may import only from tasks.tracking",
        ),
        (
            "tasks/report/board.py",
            "def f():\n    from tasks.training import trainer",
            "may import only from tasks.scoring",
        ),
        ("tasks/curation.py", "import tasks.baselines", "may import only from tasks.report, tasks.training"),
        ("tasks/paths.py", "from tasks import errors", "may import only from"),
        ("tasks/evaluation.py", "if TYPE_CHECKING:\n    from flows.cli.main import main", "may import only from"),
    ],
)
def test_an_arrow_the_wrong_way_is_named(file: str, line: str, said: str, tmp_path: Path) -> None:
    """The message says which way an import may go; lazy imports and those for types count too."""
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert len(found := wrong_arrows(path, tmp_path)) == 1 and said in found[0]


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    """Inside a room too: whoever reads a module need not have read those that use it."""
    graph = {}
    for path in PACKAGE:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = imported(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        graph[module_of(path)] = names
    graph = {name: names & graph.keys() - {name} for name, names in graph.items()}
    # What imports nothing, or is imported by nothing, of what is left cannot be on a circle.
    while True:
        used = set().union(*graph.values()) if graph else set()
        free = [name for name, names in graph.items() if not names & graph.keys() or name not in used]
        if not free:
            break
        for name in free:
            del graph[name]
    assert sorted(graph) == []


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: module_of(path))
def test_only_stages_know_prefect(path: Path) -> None:
    """Rooms can be used, and tested, without it."""
    if room_of(module_of(path)) not in (*STAGES, "flows"):
        names = imported(ast.parse(path.read_text(encoding="utf-8")))
        assert not {name for name in names if name.split(".")[0].startswith("prefect")}


def test_nothing_outgrows_its_room() -> None:
    """A large folder, file or function asks to be split."""
    large = []
    for folder in {path.parent for path in SOURCES}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        if len(modules) > MOST_MODULES:
            large.append(f"{folder.relative_to(PROJECT)}: {len(modules)} modules")
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(PROJECT)
        if (lines := text.count("\n")) > MOST_LINES:
            large.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    large.append(f"{name}: {node.name} has {lines} lines")
    assert large == []


@functools.cache
def defined(module: str) -> set[str] | None:
    """The names of a module of this project, its submodules among them; None for a module that is not ours."""
    place = PROJECT.joinpath(*module.split("."))
    path = next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)
    if path is None:
        return None
    names = {file.stem for file in place.iterdir()} if place.is_dir() else set()
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
        ("flows.cli.main", ["prefect", "mlflow", "pandas", "numpy", "torch", "croniter"]),
        ("flows.curation", ["torch", "transformers", "trl"]),
        ("tasks.models.classic", ["torch", "transformers", "mlflow", "prefect"]),
    ],
)
def test_a_light_module_does_not_import_heavy_libraries(module: str, heavy: list[str]) -> None:
    """`pricewright --help`, curation and the classic baselines start without what only language models need."""
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == "[]"

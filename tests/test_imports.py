"""Who may import whom: the architecture's table, as data; and what loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ORDER: tuple[tuple[str, ...], ...] = (
    ("calibrators",),
    ("errors",),
    ("names", "digest", "paths", "progress", "groups", "versions"),
    ("functions", "kept"),
    ("recipe",),
    ("engine",),
    ("model",),
    ("profiles", "batches", "opened"),
    ("precision",),
    ("rewrite",),
    ("targets",),
    ("collect",),
    ("ranges", "equalization"),
    ("calibrate", "bias_correction"),
    ("ranges_file",),
    ("tables",),
    ("corrections",),
    ("shards",),
    ("golden",),
    ("tune",),
    ("ship",),
    ("report",),
    ("locate",),
    ("pipeline", "validation"),
    ("finalists",),
    ("tuning",),
    ("doctor", "render", "bench"),
    ("cli",),
    ("entry",),
    ("__main__",),
)
"""The parts of trtbuild and calibrators. Each imports itself and the lines above it, nothing else."""

TENSORRT = {"tensorrt", "tensorrt_rtx", "pycuda"}
MAY_IMPORT_TENSORRT = ("trtbuild/targets/", "calibrators/tensorrt.py")
MAY_IMPORT_PYCUDA = ("calibrators/tensorrt.py",)
MAY_IMPORT_BY_NAME = ("trtbuild/targets/trt/binding.py", "trtbuild/functions.py")
MAY_OPEN_SESSIONS = ("trtbuild/targets/session.py",)

BY_NAME = ("import_module", "__import__", "resolve_name")

LIGHT = {"trtbuild", "calibrators", "click"}


@dataclass(frozen=True)
class Import:
    """One import: where it stands, what it names, and whether it is inside a function."""

    file: str
    line: int
    module: str
    in_function: bool
    for_types_only: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def sources() -> list[str]:
    files = [*(ROOT / "trtbuild").rglob("*.py"), *(ROOT / "calibrators").rglob("*.py")]
    return sorted(str(file.relative_to(ROOT)) for file in files)


def imports_in(file: str, source: str) -> Iterator[Import]:
    """Every import of a file, inside functions too, and `import_module("name")` like a statement."""
    tree = ast.parse(source)
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    typing = {
        node
        for condition in ast.walk(tree)
        if isinstance(condition, ast.If) and getattr(condition.test, "id", "") == "TYPE_CHECKING"
        for statement in condition.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        for module in _modules(node):
            yield Import(file, node.lineno, module, node in inside, node in typing)  # type: ignore[attr-defined]


def _modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and _called(node) in BY_NAME:
        name = node.args[0] if node.args else None
        yield str(name.value) if isinstance(name, ast.Constant) else "a module by a computed name"


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def all_imports() -> list[Import]:
    return [found for file in sources() for found in imports_in(file, (ROOT / file).read_text("utf-8"))]


def part_of(module: str) -> str | None:
    """The part that a dotted module belongs to; None for trtbuild/__init__.py and for other packages."""
    package, *rest = module.split(".")
    if package == "calibrators":
        return "calibrators"
    is_part = package == "trtbuild" and rest and rest[0] not in ("__init__", "__version__")
    return rest[0] if is_part else None


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def broken(found: Import) -> bool:
    """Whether an import goes against ORDER. trtbuild/__init__.py imports no part at all."""
    importer, imported = part_of(module_of(found.file)), part_of(found.module)
    if imported is None or importer == imported:
        return False
    rank = {part: index for index, line in enumerate(ORDER) for part in line}
    return importer is None or rank[importer] <= rank[imported]


def test_every_module_has_its_place_in_the_table() -> None:
    parts = {part_of(module_of(file)) for file in sources()} - {None}
    assert parts == {part for line in ORDER for part in line}


def test_imports_run_one_way() -> None:
    assert [str(found) for found in all_imports() if broken(found)] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("calibrators/scale.py", "import trtbuild.errors"),
        ("calibrators/scale.py", "def f():\n    from trtbuild import errors"),
        ("trtbuild/model/files.py", "from trtbuild.precision import map"),
        ("trtbuild/errors.py", "from trtbuild import names"),
        ("trtbuild/names.py", "import trtbuild.digest"),
        ("trtbuild/targets/session.py", "def f():\n    import trtbuild.calibrate"),
        ("trtbuild/pipeline.py", "from importlib import import_module\nimport_module('trtbuild.cli')"),
        ("trtbuild/__init__.py", "from trtbuild import pipeline"),
    ],
)
def test_the_table_catches(file: str, source: str) -> None:
    assert any(broken(found) for found in imports_in(file, source))


def test_tensorrt_is_imported_in_few_places_and_inside_functions() -> None:
    wrong = [
        str(found)
        for found in all_imports()
        if found.module.split(".")[0] in TENSORRT
        and not ((found.in_function or found.for_types_only) and found.file.startswith(MAY_IMPORT_TENSORRT))
    ]
    assert wrong == []
    assert any(found.module == "tensorrt" for found in all_imports()), "an import was overlooked"


def test_pycuda_is_imported_by_the_calibrator_alone() -> None:
    wrong = [
        str(found)
        for found in all_imports()
        if found.module.split(".")[0] == "pycuda" and not found.file.startswith(MAY_IMPORT_PYCUDA)
    ]
    assert wrong == []


def test_modules_are_imported_by_name_in_few_places() -> None:
    """Otherwise the tests above could be got around."""
    wrong = [
        file
        for file in sources()
        for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
        if isinstance(node, ast.Call) and _called(node) in BY_NAME and not file.startswith(MAY_IMPORT_BY_NAME)
    ]
    assert wrong == []


def test_there_is_one_session_factory() -> None:
    files = [
        file
        for file in sources()
        for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
        if isinstance(node, ast.Attribute | ast.alias)
        and getattr(node, "attr", getattr(node, "name", None)) == "InferenceSession"
    ]
    assert tuple(files) == MAY_OPEN_SESSIONS


def loaded_by(statement: str) -> set[str]:
    """The top-level modules outside the standard library that a fresh Python loads for `statement`."""
    script = (
        "import sys\nbefore = set(sys.modules)\n"
        f"{statement}\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print('loaded:', *sorted(names - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("loaded:"))
    return set(line.split()[1:])


def test_importing_trtbuild_loads_nothing() -> None:
    assert loaded_by("import trtbuild") == {"trtbuild"}


COMMAND_LINES = [
    *(["--help"], ["--version"], ["build", "--help"], ["validate", "-h"], ["no-such-command"]),
    *(["shards", "pack", "--help"], ["shards", "compare"]),
]


@pytest.mark.parametrize("arguments", COMMAND_LINES, ids=" ".join)
def test_help_loads_click_only(arguments: list[str]) -> None:
    loaded = loaded_by(f"from trtbuild.entry import run\nassert run({arguments!r}) in (0, 2)")
    assert loaded <= LIGHT
    assert loaded >= {"trtbuild", "click"}


def test_what_loads_shows() -> None:
    assert {"numpy", "onnx_ir"} <= loaded_by("import trtbuild.model.graph")

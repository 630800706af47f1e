"""The style that a machine can see: sizes, annotations, docstrings, leftovers (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = ("state", "runtime", "connectors", "taskmanager", "jobmanager", "api", "testing")
OTHERS = ("tests", "examples", "benchmarks")

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 65
LONGER_FILES: dict[str, int] = {}
"""Files that may be longer, with their own limit; each needs a reason here."""

PRINTING = (
    "api/command_line.py",
    "connectors/print.py",
    "testing/simulation.py",
    "examples/",
    "benchmarks/",
)
"""Where print is the purpose: commands, the print sink, examples and benchmarks."""

LEFTOVERS = re.compile(r"\b(?:{})\b".format("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"))))
MACHINE_PATHS = re.compile("|".join(f"/{folder}/" for folder in ("wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers")))
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".txt", ""}


def python_files(*folders: str) -> list[Path]:
    facade = [ROOT / "__init__.py"] if "state" in folders else []
    return facade + [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def text_files() -> list[Path]:
    hidden_or_built = {"build", "dist", "__pycache__"}
    found = []
    for top in sorted(ROOT.iterdir()):
        if top.name in hidden_or_built or top.suffix == ".egg-info" or (top.name.startswith(".") and top.name != ".ci"):
            continue
        found += [top] if top.is_file() else [path for path in sorted(top.rglob("*")) if path.is_file()]
    return [path for path in found if path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts]


Functions = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Functions]:
    return (node for node in ast.walk(tree) if isinstance(node, Functions))


def too_long(path: str, source: str) -> Iterator[str]:
    lines, limit = source.count("\n"), LONGER_FILES.get(path, MAX_FILE_LINES)
    if lines > limit:
        yield f"{path} has {lines} lines, the limit is {limit}"
    for function in functions(ast.parse(source)):
        length = (function.end_lineno or 0) - function.lineno + 1
        if length > MAX_FUNCTION_LINES:
            yield f"{path}:{function.lineno}: {function.name} has {length} lines, the limit is {MAX_FUNCTION_LINES}"


def unannotated(path: str, source: str) -> Iterator[str]:
    tree = ast.parse(source)
    methods = {item for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for item in node.body}
    for function in functions(tree):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args]
        static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in function.decorator_list)
        if function in methods and not static:
            named = named[1:]
        named += [*arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]
        missing = [argument.arg for argument in named if argument.annotation is None]
        if function.returns is None:
            missing.append("return")
        if missing:
            yield f"{path}:{function.lineno}: {function.name} lacks annotations: {', '.join(missing)}"


def undocumented(path: str, source: str) -> Iterator[str]:
    """Modules, and public classes that do something; a message of three fields is explained by its protocol's prose."""
    tree = ast.parse(source)
    if ast.get_docstring(tree) is None:
        yield f"{path}: the module has no docstring"
    public = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for node in public:
        if ast.get_docstring(node) is None and any(isinstance(item, Functions) for item in node.body):
            yield f"{path}:{node.lineno}: class {node.name} has no docstring"


def printing(path: str, source: str) -> Iterator[str]:
    if path.startswith(PRINTING):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{path}:{node.lineno}: print"


def sleeping(path: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == "sleep":
                yield f"{path}:{node.lineno}: a test waits for events, not for time"


def leftovers(path: str, source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), start=1):
        for match in (*LEFTOVERS.finditer(line), *MACHINE_PATHS.finditer(line)):
            yield f"{path}:{number}: {match.group()}"


Check = Callable[[str, str], Iterator[str]]


def problems(check: Check, files: list[Path]) -> list[str]:
    assert files
    return [
        problem
        for path in files
        for problem in check(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("check", [too_long, unannotated])
def test_all_python(check: Check) -> None:
    assert problems(check, python_files(*FLOORS, *OTHERS)) == []


@pytest.mark.parametrize("check", [undocumented, printing])
def test_the_package_and_its_examples(check: Check) -> None:
    assert problems(check, python_files(*FLOORS, "examples", "benchmarks")) == []


def test_no_sleep_in_tests() -> None:
    assert problems(sleeping, python_files("tests")) == []


def test_no_leftovers_in_any_text() -> None:
    assert problems(leftovers, text_files()) == []


def test_longer_files_still_need_their_exception() -> None:
    lengths = {path: (ROOT / path).read_text(encoding="utf-8").count("\n") for path in LONGER_FILES}
    assert [path for path, lines in lengths.items() if lines <= MAX_FILE_LINES] == []


def test_decisions_are_numbered_without_gaps() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "decisions").iterdir())
    assert names
    assert [name for name in names if not re.fullmatch(r"\d{4}(-[a-z0-9]+)+\.md", name)] == []
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (too_long, "x = 1\n" * (MAX_FILE_LINES + 1)),
        (too_long, "def f() -> None:\n" + "    x = 1\n" * MAX_FUNCTION_LINES),
        (unannotated, "def f(x) -> None: ..."),
        (unannotated, "def f(x: int): ..."),
        (unannotated, "class A:\n    async def f(self, *, x) -> None: ..."),
        (unannotated, "class A:\n    @staticmethod\n    def f(x) -> None: ..."),
        (undocumented, "x = 1"),
        (undocumented, '"""Module."""\nclass A:\n    def f(self) -> None: ...'),
        (printing, "def f() -> None:\n    print(1)"),
        (sleeping, "import time\ntime.sleep(1)"),
        (sleeping, "from time import sleep\nsleep(1)"),
        (leftovers, "# TO" + "DO later"),
        (leftovers, "path = '/ro" + "ot/x'"),
    ],
)
def test_each_check_finds_its_problem(check: Check, source: str) -> None:
    assert len(list(check("runtime/some.py", source))) == 1

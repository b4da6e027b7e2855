"""Allowed imports, read from the source; and the cost of importing the product."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from benchmarks.load_server import lines_of_code
from ibt_deploy.types import PARTS, TASKS, Part, Task

PACKAGES = ("ibt_deploy", "training", "export", "serving")
FORBIDDEN: dict[str, set[str]] = {
    "ibt_deploy": {
        "training",
        "export",
        "serving",
        "torch",
        "bentoml",
        "onnx",
        "onnxscript",
        "scipy",
        "sklearn",
        "ray",
    },
    "training": {"export", "serving", "bentoml"},
    "export": {"serving", "bentoml"},
    "serving": {"training", "export", "torch"},
}
LONGEST = 600
"""Lines of code in a module, without blank lines, comments and docstrings."""


def modules(root: Path, package: str) -> Iterator[Path]:
    yield from sorted((root / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names of everything that a module imports anywhere, lazily or for type checking too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(root: Path, package: str) -> None:
    wrong = {
        f"{path.relative_to(root)}: {', '.join(sorted(names))}"
        for path in modules(root, package)
        if (names := imported(path) & FORBIDDEN[package])
    }
    assert not wrong


def graph_of(root: Path, within_functions: bool) -> dict[str, set[str]]:
    """For each module those of ours that it imports; with or without imports within functions."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for path in modules(root, package):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path

    def imports(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not within_functions:
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    submodule = f"{child.module}.{alias.name}"
                    yield submodule if submodule in found else child.module or ""
            yield from imports(child)

    return {
        name: {other for other in imports(ast.parse(path.read_text(encoding="utf-8"))) if other in found}
        - {name}
        for name, path in found.items()
    }


def in_circles(graph: dict[str, set[str]]) -> set[str]:
    """Nodes on a circle or between two: what is left when sources and sinks are taken away repeatedly."""
    left = {node: set(others) for node, others in graph.items()}
    while True:
        reached = {other for others in left.values() for other in others}
        kept = {node: others & left.keys() for node, others in left.items() if others and node in reached}
        if kept == left:
            return set(left)
        left = kept


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, set()),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}, {"b", "c"}),
    ],
)
def test_circles_are_found(graph: dict[str, set[str]], expected: set[str]) -> None:
    assert in_circles(graph) == expected


def test_no_imports_go_in_a_circle(root: Path) -> None:
    assert not in_circles(graph_of(root, within_functions=False))


def test_imports_within_functions_go_in_circles_in_one_package_only(root: Path) -> None:
    """Predictions that show themselves (``_repr_html_``) import the package that renders predictions."""
    circles = in_circles(graph_of(root, within_functions=True))
    assert {name.partition(".")[0] for name in circles} <= {"ibt_deploy"}


def test_every_task_names_parts_that_exist() -> None:
    assert get_args(Task) == TASKS
    for parts in PARTS.values():
        named = [value for value in vars(parts).values() if isinstance(value, Part)]
        assert len(named) == 13
        assert all(callable(part.load()) for part in named)


def test_only_pictures_need_matplotlib(root: Path) -> None:
    users = {
        p.relative_to(root).as_posix() for p in modules(root, "ibt_deploy") if "matplotlib" in imported(p)
    }
    assert all(user.startswith("ibt_deploy/render/") for user in users)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", 0),
        ("# a\n\nx = 1\n", 1),
        ('"""A.\n\nB.\n"""\nx = (\n    1\n)\n', 3),
        ("def f():\n    'a'\n    return 1", 2),
    ],
)
def test_docstrings_comments_and_blank_lines_are_not_code(source: str, expected: int) -> None:
    assert lines_of_code(source) == expected


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_two_concepts_long(root: Path, package: str) -> None:
    long = [
        path.relative_to(root).as_posix()
        for path in modules(root, package)
        if lines_of_code(path.read_text(encoding="utf-8")) > LONGEST
    ]
    assert not long


HEAVY = (
    "torch",
    "bentoml",
    "duckdb",
    "pint",
    "matplotlib",
    "pandas",
    "scipy",
    "wfdb",
    "rich",
    "pyarrow",
    "onnx",
    "ray",
    "sklearn",
)


def loaded_after(code: str) -> tuple[set[str], float]:
    """Heavy packages that are loaded after running ``code`` in a new interpreter, and its CPU seconds."""
    report = (
        "import sys, time; start = time.process_time()\n"
        f"{code}\n"
        "used = time.process_time() - start\n"
        f"print(' '.join(name for name in {HEAVY!r} if name in sys.modules)); print(used)"
    )
    out = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True).stdout
    names, used = out.splitlines()[-2:]
    return set(names.split()), float(used)


def test_importing_the_product_loads_nothing_heavy_and_is_quick() -> None:
    loaded, seconds = loaded_after("import ibt_deploy")
    assert not loaded
    assert seconds < 0.3


def test_the_command_line_loads_nothing_heavy_before_it_is_needed() -> None:
    loaded, _ = loaded_after("import ibt_deploy.cli, ibt_deploy.cli.predict, ibt_deploy.predictor")
    assert not loaded


def test_the_names_the_package_offers_exist() -> None:
    loaded, _ = loaded_after("import ibt_deploy\nfor name in ibt_deploy.__all__: getattr(ibt_deploy, name)")
    assert not loaded


def test_the_page_on_the_architecture_names_what_exists(root: Path) -> None:
    page = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(rf"`({'|'.join(PACKAGES)})((?:\.[a-z_]+)*)`", page))
    assert len(names) > len(PACKAGES)
    for package, rest in names:
        place = root.joinpath(package, *rest.split(".")[1:])
        assert place.is_dir() or place.with_suffix(".py").is_file(), f"{package}{rest}"
    for path in re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests)/[\w/.]+)`", page):
        assert (root / path).exists(), path

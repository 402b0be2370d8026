"""How the tests are laid out, and that the page of promises names what is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import page

TESTS = Path(__file__).parent
#: What any module of the tests may import, besides what is below its own folder.
SHARED = ("tests.support", "tests.tools")
#: Programs of several modules.
PROGRAMS = ("bench",)


def imported(path: Path) -> Iterator[str]:
    """The modules of the tests that a file imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "tests")


def test_no_test_module_imports_another() -> None:
    """What two of them use is in ``tests.support``, or a fixture."""
    wrong = []
    for path in sorted(TESTS.rglob("*.py")):
        folder = path.relative_to(TESTS).parts[0]
        allowed = (*SHARED, f"tests.{folder}") if folder in PROGRAMS else SHARED
        wrong += [
            f"{path.relative_to(TESTS)} imports {name}"
            for name in imported(path)
            if not f"{name}.".startswith(tuple(f"{one}." for one in allowed))
        ]
    assert wrong == []


def test_every_folder_of_tests_that_mirrors_the_package_mirrors_it() -> None:
    own = {"support", "e2e", "browser", "crash", "faults", "bench", "tools", "__pycache__"}
    package = TESTS.parent / "opuslive"
    # A module with many tests may have a folder of them.
    missing = [
        str(folder.relative_to(TESTS))
        for folder in TESTS.rglob("*")
        if folder.is_dir()
        and not own.intersection(folder.relative_to(TESTS).parts)
        and not (package / folder.relative_to(TESTS)).is_dir()
        and not (package / folder.relative_to(TESTS)).with_suffix(".py").is_file()
    ]
    assert missing == []


def promises() -> list[str]:
    """The rows of the table of promises."""
    return [line for line in page("reliability").splitlines() if line.startswith("| ")]


def test_the_table_of_promises_is_read() -> None:
    assert len(promises()) > 25


@pytest.mark.parametrize("row", promises(), ids=lambda row: row[2:40])
def test_a_promise_names_tests_that_exist(row: str) -> None:
    proof = row.split("|")[2]
    path = TESTS
    for name in re.findall("`([^`]+)`", proof):
        if name.endswith((".py", "/")):
            path = TESTS / name
            assert path.exists(), name
        elif name.startswith("Test"):
            assert re.search(rf"^class {name}\b", path.read_text("utf-8"), re.MULTILINE), name
        else:
            assert name.startswith("python -m tests."), name

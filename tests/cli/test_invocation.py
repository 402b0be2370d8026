"""How a printed command line names the program, so that it works as it stands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from opuslive.cli.invocation import command_line, own_words


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program in a folder of PATH."""
    program = tmp_path / "bin" / "opuslive"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def called(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", [name, "init"])
    return list(own_words())


def test_what_is_found_in_path_is_a_word(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(monkeypatch, str(installed)) == ["opuslive"]
    # As a single executable sees it.
    assert called(monkeypatch, "opuslive") == ["opuslive"]


def test_what_is_called_by_a_path_stays_that_path(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called(monkeypatch, ".venv/bin/opuslive") == [".venv/bin/opuslive"]


def test_a_module_is_run_by_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    words = called(monkeypatch, "/somewhere/opuslive/__main__.py")
    assert words == [sys.executable, "-m", "opuslive"]


def test_words_with_blanks_are_quoted() -> None:
    assert command_line("a b", "--config", "it's") == "'a b' --config 'it'\"'\"'s'"

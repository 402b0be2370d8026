"""How many files may be open, and how much room there is."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from opuslive.diagnostics.files import disk, open_files


@pytest.mark.parametrize(
    ("limit", "level"), [(256, "warning"), (4096, "ok"), (resource.RLIM_INFINITY, "ok")]
)
def test_few_open_files_are_told(limit: int, level: str) -> None:
    assert open_files(limit).level == level


def test_a_database_larger_than_what_is_free_is_told(tmp_path: Path) -> None:
    database = tmp_path / "not" / "there" / "yet.db"
    assert disk(database, 2**60).level == "warning"

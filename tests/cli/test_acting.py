"""Root acts as the owner of the data."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from opuslive.cli.acting import as_owner_of
from opuslive.errors import UsageError
from tests.support.service_user import NEEDS_TWO_USERS, SERVICE

pytestmark = NEEDS_TWO_USERS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    os.chown(tmp_path, SERVICE, SERVICE)
    return tmp_path


def test_what_is_made_meanwhile_belongs_to_the_owner(folder: Path) -> None:
    with as_owner_of(folder):
        assert (os.geteuid(), os.getegid()) == (SERVICE, SERVICE)
    assert (os.geteuid(), os.getegid()) == (0, 0)


@pytest.mark.parametrize(
    "load",
    [lambda: importlib.import_module("opuslive.not_there"), lambda: "x".encode("not-there")],
    ids=["a module", "an encoding"],
)
def test_what_the_owner_can_not_load_is_told_in_a_sentence(
    folder: Path, load: Callable[[], object]
) -> None:
    with pytest.raises(UsageError) as raised, as_owner_of(folder):
        load()
    assert raised.value.message.startswith(
        f"The user with the id {SERVICE}, who owns {folder}, can't read all of this program in "
    )
    assert os.geteuid() == 0


def test_other_faults_stay_what_they_are(folder: Path) -> None:
    with pytest.raises(KeyError), as_owner_of(folder):
        raise KeyError
    with pytest.raises(ImportError), as_owner_of(folder.parent):
        importlib.import_module("opuslive.not_there")

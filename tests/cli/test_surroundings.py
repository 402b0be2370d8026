"""Commands where the process lacks what most processes have.

A fault of this kind is any environment in which a path can't be made or looked at: no HOME and no
entry in the system's list of users (containers with a random uid), HOME or an XDG variable that is
empty or relative, a home or a working folder of somebody else's, a working folder that was
removed, no folder for temporary files, a home whose name is not UTF-8. A command goes on where it
needs nothing of that; else it says in one sentence what to set.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import Outcome
from tests.support.workplace import SERVED, MakeWorkplace, Workplace

pytestmark = SERVED

NOTHING = {"HOME": "", "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": "", "XDG_RUNTIME_DIR": ""}
PASSWORD = "correct horse battery"
COMMANDS = [
    ["keys", "list"],
    ["keys", "create", "someone"],
    ["keys", "delete", "someone", "--yes"],
    ["usage"],
    ["serve", "--port", "0"],
]


@pytest.fixture
def homeless(make_workplace: MakeWorkplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A workplace whose user is not in the system's list of users."""

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    work = make_workplace()
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    return work


@pytest.fixture
def removed_folder() -> Iterator[Path]:
    """A working folder that is there no longer."""
    before = Path.cwd()
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    folder.rmdir()
    yield folder
    os.chdir(before)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "environ",
    [{}, {"HOME": "relative"}, {"XDG_STATE_HOME": "relative", "XDG_CONFIG_HOME": "relative"}],
    ids=["empty", "a relative home", "relative XDG folders"],
)
def test_without_a_home_the_remedies_are_named(
    homeless: Workplace, command: list[str], environ: dict[str, str]
) -> None:
    done = homeless.run_bare(*command, **NOTHING | environ, ANTHROPIC_API_KEY="sk")
    assert done.complaint == (
        "There is no place for the database, since this user has no home folder; set [storage] "
        "url in the configuration, or HOME or XDG_STATE_HOME to the absolute path of a folder."
    )


def test_without_a_home_what_is_configured_is_enough(homeless: Workplace) -> None:
    done = homeless.run("keys", "list", **NOTHING)
    assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize("variable", ["HOME", "XDG_STATE_HOME"])
def test_without_a_home_a_variable_is_enough(homeless: Workplace, variable: str) -> None:
    folder = homeless.folder / "chosen"
    done = homeless.run_bare("keys", "list", **NOTHING | {variable: str(folder)})
    assert (done.status, done.err) == (0, "")
    below = ".local/state" if variable == "HOME" else ""
    assert (folder / below / "opuslive" / "opuslive.db").is_file()


def test_without_a_home_a_password_can_be_set(homeless: Workplace) -> None:
    done = homeless.run_bare("admin", "password", "--password-stdin", input_=PASSWORD, **NOTHING)
    assert (done.status, done.err) == (0, "")
    assert "password_hash" in (homeless.home / "config.toml").read_text()


def test_a_home_whose_name_is_not_utf_8_holds_a_database(workplace: Workplace) -> None:
    home = f"{workplace.folder}/\udce9" + "long" * 20
    done = workplace.run_bare("keys", "list", **NOTHING | {"HOME": home})
    assert (done.status, done.err) == (0, "")
    assert Path(home, ".local/state/opuslive/opuslive.db").is_file()


def run_in(folder: Path, work: Workplace, *arguments: str, named: bool = False) -> Outcome:
    """Run a command as a process of its own: its working folder is gone or somebody else's."""
    config = ("--config", str(work.config_file)) if named else ()
    done = subprocess.run(
        [sys.executable, "-c", "from opuslive.__main__ import main; main()", *config, *arguments],
        env={"XDG_STATE_HOME": str(work.folder / "state"), "HOME": str(folder)},
        input=PASSWORD.encode(),
        capture_output=True,
        timeout=60,
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_in_a_removed_folder_commands_go_on(workplace: Workplace, removed_folder: Path) -> None:
    for named in (False, True):
        done = run_in(removed_folder, workplace, "keys", "list", named=named)
        assert (done.status, done.err) == (0, "")


def test_in_a_removed_folder_a_new_configuration_has_no_place(
    workplace: Workplace, removed_folder: Path
) -> None:
    done = run_in(removed_folder, workplace, "admin", "password", "--password-stdin")
    assert "the working folder is gone" in done.complaint
    assert "--config" in done.complaint


@pytest.mark.parametrize("command", [["serve", "--sandbox", "--port", "0"], ["keys", "list"]])
def test_without_a_folder_for_temporary_files_its_variable_is_named(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    gone = str(workplace.folder / "gone")
    monkeypatch.setattr(tempfile, "tempdir", gone)
    workplace.config_file.write_text("")
    assert "set TMPDIR" in workplace.run(*command, TMPDIR=gone).complaint

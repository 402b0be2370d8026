"""What all commands share: where the configuration is found, help, the version."""

from __future__ import annotations

import re

import pytest

from tests.support.workplace import SERVED, Workplace

pytestmark = SERVED


@pytest.mark.parametrize(
    ("place", "environ"),
    [
        ("elsewhere.toml", {"OPUSLIVE_CONFIG": "../elsewhere.toml"}),
        ("home/config.toml", {}),
        ("xdg/opuslive/config.toml", {}),
    ],
    ids=["by its variable", "in the working folder", "where XDG says"],
)
def test_a_configuration_is_found(
    workplace: Workplace, place: str, environ: dict[str, str]
) -> None:
    workplace.create_key("findable")
    moved = workplace.folder / place
    moved.parent.mkdir(exist_ok=True)
    workplace.config_file.rename(moved)
    found = workplace.run_bare("keys", "show", "findable", **environ)
    assert (found.status, found.err) == (0, "")


def test_a_named_configuration_that_is_missing_is_an_error(workplace: Workplace) -> None:
    workplace.config_file.unlink()
    complaint = workplace.run("keys", "list").complaint
    assert complaint.startswith(f"The configuration {workplace.config_file} can't be read: No such")


def test_a_configuration_with_a_secret_that_others_may_read_is_warned_of(
    workplace: Workplace,
) -> None:
    workplace.config_file.chmod(0o644)
    listed = workplace.run("keys", "list")
    assert listed.status == 0
    assert listed.err.startswith(f"Warning: {workplace.config_file} holds a secret")


def test_help_and_version(workplace: Workplace) -> None:
    shown, version = workplace.run("--help"), workplace.run("--version")
    assert (shown.status, version.status) == (0, 0)
    assert "opuslive serve --sandbox" in shown.out
    parts = r"opuslive [\d.]+ \(Python [\d.]+, SQLite [\d.]+, aiohttp [\d.]+, uvloop [\d.]+\)\n"
    assert re.fullmatch(parts, version.out)


@pytest.mark.parametrize("command", [("serve",), ("keys", "create")], ids=" ".join)
@pytest.mark.parametrize("option", [("--config", "x"), ("--config=x",)], ids=" ".join)
def test_the_configuration_behind_a_command_is_told_where_it_goes(
    workplace: Workplace, command: tuple[str, ...], option: tuple[str, ...]
) -> None:
    done = workplace.run_bare(*command, *option)
    assert done.status == 2
    assert f"--config goes first: 'opuslive --config FILE {' '.join(command)}'." in done.err

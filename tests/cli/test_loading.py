"""Commands load no more than they need: nobody waits for a server that is not to run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from opuslive.cli.later import LaterCommand
from opuslive.cli.root import main
from tests.support.commands import subcommands
from tests.support.workplace import Workplace

#: What serves, what draws pages, what proves passwords, and engines of databases.
OF_SERVERS = (
    "aiohttp",
    "aiosqlite",
    "bcrypt",
    "jinja2",
    "opuslive.bootstrap",
    "opuslive.gateway",
    "opuslive.web",
    "prometheus_client",
    "sqlite3",
    "uvloop",
)

#: Runs the program, and tells on the last line of standard error what it has loaded by then.
TELLING = """
import sys
sys.argv[0] = "opuslive"
from opuslive.__main__ import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def loaded(work: Workplace | None, *arguments: str, **environ: str) -> set[str]:
    """Those of ``OF_SERVERS`` that a command loads, which has to succeed."""
    named = () if work is None else ("--config", str(work.config_file))
    environ |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", TELLING, *named, *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return {*done.stderr.splitlines()[-1].split()}.intersection(OF_SERVERS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "list"),
        ("keys", "show", "alice", "--json"),
        ("keys", "update", "alice", "--add-limit", "9 concurrent"),
        ("usage",),
        ("usage", "alice", "--json"),
        ("top", "--once"),
    ],
    ids=" ".join,
)
def test_a_command_to_a_server_that_runs_loads_no_server(
    workplace: Workplace, arguments: tuple[str, ...]
) -> None:
    with workplace.serving():
        workplace.create_key("alice")
        assert loaded(workplace, *arguments) == set()


def test_completion_of_a_name_loads_no_server(workplace: Workplace) -> None:
    with workplace.serving():
        environ = {
            "_OPUSLIVE_COMPLETE": "bash_complete",
            "COMP_WORDS": f"opuslive --config {workplace.config_file} keys show ",
            "COMP_CWORD": "5",
        }
        assert loaded(None, **environ) == set()


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_loads_no_command(option: str) -> None:
    assert loaded(None, option) == set()


def test_the_list_of_commands_says_of_each_what_the_command_says_itself() -> None:
    for name, command in subcommands(main).items():
        listed = main.commands[name]
        assert isinstance(listed, LaterCommand)
        for width in (40, 200):
            assert listed.get_short_help_str(width) == command.get_short_help_str(width), name
        assert command.name == name

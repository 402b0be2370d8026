"""A service with a user of its own, and root's commands: with the server up, and stopped."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.provider import ScriptedUpstream
from tests.support.server import Servers
from tests.support.service_user import (
    NEEDS_TWO_USERS,
    Installation,
    as_service,
    lives,
    server_of,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), NEEDS_TWO_USERS]

#: A program that nobody but root can load more of: what is missing is not there.
HIDDEN = """
import os, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if os.geteuid() != 0:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
from opuslive.__main__ import main
main()
"""


def reachable_python() -> str | None:
    """An interpreter of this version that every user can run, and that loads the same libraries."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    places = (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}")
    for python in filter(os.path.exists, places):
        words = as_service(python, "-c", "import opuslive.cli")
        done = subprocess.run(words, capture_output=True, env=library())
        if done.returncode == 0:
            return python
    return None


def library() -> dict[str, str]:
    """Where the package and what it needs are, for another interpreter."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.mark.long
@pytest.mark.parametrize("root_alone", [False, True], ids=["by all", "by root alone"])
async def test_root_s_commands_work_where_the_program_can_be_loaded(
    servers: Servers, upstream: ScriptedUpstream, root_alone: bool
) -> None:
    python = reachable_python()
    if python is None:
        pytest.skip("there is no interpreter that every user can run")
    server = server_of(servers, upstream)
    server.environ |= library()
    words = (python, "-m", "opuslive")
    root = (sys.executable, "-c", HIDDEN) if root_alone else words
    await lives(Installation(server, words, root), upstream)

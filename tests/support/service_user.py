"""A service with a user of its own, and root's commands beside it.

The configuration and the credential are root's, to be read by the service's group. Whatever root
does, no file among the data belongs to root.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.provider import ScriptedUpstream
from tests.support.server import Outcome, Server, Servers
from tests.support.wire import message_body

NEEDS_TWO_USERS = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can be two users"
)
#: No user of this system.
SERVICE = 54_321
#: With a server and without.
COMMANDS = (
    ("keys", "create", "bob"),
    ("keys", "list"),
    ("keys", "update", "bob", "--limit", "9 requests/1m"),
    ("keys", "rotate", "bob"),
    ("keys", "delete", "bob", "--yes"),
    ("usage", "--by", "day"),
    ("check",),
    ("database", "check"),
    ("database", "compact"),
)


def as_service(*words: str) -> list[str]:
    return ["setpriv", f"--reuid={SERVICE}", f"--regid={SERVICE}", "--clear-groups", *words]


class Installation:
    """A server as the service's user, and root's commands. Each runs with words of its own."""

    def __init__(self, server: Server, service: Sequence[str], root: Sequence[str]) -> None:
        self.server = server
        self.data = server.database.parent
        self.credential = server.folder / "provider.key"
        self._service, self._root = as_service(*service), list(root)
        server.folder.chmod(0o755)
        os.chown(self.data, SERVICE, SERVICE)
        self.give(self.credential, "first-credential")
        self.give(server.config_file, server.config_file.read_text())

    def give(self, path: Path, text: str) -> None:
        """Put a file there as 'opuslive systemd' says."""
        new = path.with_suffix(".new")
        new.write_text(text)
        os.chown(new, 0, SERVICE)
        new.chmod(0o640)
        new.rename(path)

    async def start(self) -> None:
        self.server.program = self._service
        await self.server.start()

    async def run(self, *arguments: str) -> Outcome:
        """Run a command as root."""
        self.server.program = self._root
        outcome = await self.server.run(*arguments)
        assert outcome.status == 0, (arguments, outcome)
        assert "Traceback" not in outcome.err
        return outcome

    async def run_all(self, name: str) -> None:
        """Run each command, make a backup, and see whose files there are."""
        for command in COMMANDS:
            await self.run(*command)
        await self.run("database", "backup", str(self.data / name))
        owners = {path: path.stat().st_uid for path in self.data.rglob("*")}
        assert set(owners.values()) == {SERVICE}, owners


def server_of(servers: Servers, upstream: ScriptedUpstream) -> Server:
    upstream_ = {"api_key_file": "provider.key", "models": ["claude-*"]}
    source = {"name": "provider", "base_url": upstream.base_url, **upstream_}
    return servers.make(None, upstreams=[source])


async def lives(installation: Installation, upstream: ScriptedUpstream) -> None:
    """Root's commands before the service, beside it and after it; a credential is replaced."""
    server = installation.server
    made = (await installation.run("keys", "create", "alice", "--json")).json()
    await installation.start()
    await installation.run_all("up.db")
    assert (await server.messages(made["key"], message_body())).status == 200
    assert upstream.requests[-1].header("x-api-key") == "first-credential"

    installation.give(installation.credential, "second-credential")
    told = await installation.run("reload")
    assert "upstreams.provider.api_key_file" in told.out
    assert (await server.messages(made["key"], message_body())).status == 200
    assert upstream.requests[-1].header("x-api-key") == "second-credential"

    server.signal(signal.SIGTERM)
    assert await server.wait() == 0
    await installation.run_all("down.db")
    await installation.run("database", "restore", str(installation.data / "up.db"), "--yes")
    await installation.run_all("restored.db")

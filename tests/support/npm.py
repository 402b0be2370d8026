"""The clients that come from npm, at the versions that ``node/package-lock.json`` names.

They are kept between runs in a folder of the checkout; see .gitignore. ``python -m
tests.support.npm`` installs them ahead of the tests. Nothing of them runs while they are
installed: the programs among them are whole in their packages.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PINNED = Path(__file__).parent / "node"
FOLDER = Path(__file__).parents[2] / ".clients"

#: It asks for the packages, and for nothing else.
_OPTIONS = (
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--no-update-notifier",
    "--loglevel=error",
    "--fetch-retries=1",
    "--fetch-retry-mintimeout=1000",
)
#: The oldest release of Node that all of them run on.
_OLDEST_NODE = 20
#: What npm calls it when it did not get to the packages.
_UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")


class UnavailableError(Exception):
    """There is no npm that serves, or no packages for it; the message says which."""


class NpmClients:
    """What is installed. Made by ``install``."""

    def __init__(self) -> None:
        self._modules = FOLDER / "node_modules"

    @property
    def claude_code(self) -> Path:
        """Claude Code's program, from the package for this kind of machine."""
        (program,) = (self._modules / "@anthropic-ai").glob("claude-code-*/claude")
        return program

    @property
    def codex(self) -> Path:
        """Codex's program, from the package for this kind of machine."""
        (program,) = (self._modules / "@openai").glob("codex-*/vendor/*/bin/codex")
        return program

    async def run(self, script: str, *arguments: str) -> str:
        """Run a script of ``node/``; return what it printed. It has to succeed."""
        return await self.run_source((PINNED / script).read_text(), *arguments)

    async def run_source(self, source: str, *arguments: str) -> str:
        """The same for a module that is given as text."""
        # Read from standard input it finds the packages in the working folder.
        program = shutil.which("node")
        assert program is not None
        node = await asyncio.create_subprocess_exec(
            *(program, "--input-type=module", "-", *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=FOLDER,
            env={"PATH": "/usr/bin:/bin", "HOME": str(FOLDER)},
        )
        out, err = await node.communicate(source.encode())
        assert node.returncode == 0, err.decode()
        return out.decode()


def install(*, everything: bool = False) -> NpmClients:
    """Install what the quick tests need, or everything; takes part of a minute the first time.

    Raises UnavailableError. Processes that do this at the same time wait for each other.
    """
    if shutil.which("npm") is None or (node := shutil.which("node")) is None:
        raise UnavailableError("npm is not there")
    version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
    if int(version.lstrip("v").partition(".")[0]) < _OLDEST_NODE:
        raise UnavailableError(f"node is older than {_OLDEST_NODE}: {version.strip()}")
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pins = hashlib.sha256((PINNED / "package-lock.json").read_bytes()).hexdigest()
        # Codex is as large as all others together.
        _install(FOLDER / "ready", pins, ["ci", "--omit=dev"])
        if everything:
            _install(FOLDER / "ready-everything", pins, ["install", "--no-save"])
    return NpmClients()


def _install(ready: Path, pins: str, command: Sequence[str]) -> None:
    if ready.exists() and ready.read_text() == pins:
        return
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PINNED / name, FOLDER / name)
    done = subprocess.run(["npm", *command, *_OPTIONS], cwd=FOLDER, capture_output=True, text=True)
    if done.returncode:
        if any(code in done.stderr for code in _UNREACHABLE):
            raise UnavailableError("no package registry of npm's can be reached")
        raise AssertionError(done.stderr)
    ready.write_text(pins)


if __name__ == "__main__":
    try:
        install(everything="--everything" in sys.argv)
    except UnavailableError as error:
        print(f"Clients from npm are not tested: {error}")

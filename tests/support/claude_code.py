"""Claude Code itself: as a user sets it up, on a new home, in a network namespace of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.doors import Door
from tests.support.namespaces import BASE_URL, spawn
from tests.support.terminals import Terminal

MODEL = "claude-opus-4-7"
#: What would otherwise be another each time it is started.
SESSION = "11111111-2222-4333-8444-555555555555"
_USER = "0" * 64

#: It shall report nothing, look for nothing newer, and ask nobody for an opinion.
_SILENT = {
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_UPDATES": "1",
    "DISABLE_FEEDBACK_COMMAND": "1",
    "CLAUDE_CODE_DISABLE_FEEDBACK_SURVEY": "1",
    "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1",
}


@dataclass(frozen=True, slots=True)
class Turn:
    """How a run without a terminal ended."""

    status: int
    out: str
    err: str
    #: How many messages it asked for.
    requests: int


class ClaudeCode:
    """The program. ``folder`` is its own, and lasts; what is in it is new for each start."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder

    async def ask(self, port: int, key: str, prompt: str, *options: str, **environ: str) -> Turn:
        """Ask one thing of what listens at the port, without a terminal."""
        words = ["-p", prompt, "--session-id", SESSION, *options]
        async with self._started(port, key, words, environ) as (process, door):
            out, err = await asyncio.to_thread(process.communicate)
        requests = door.count(b"POST /v1/messages?")
        return Turn(process.returncode, out.decode(), err.decode(), requests)

    @contextlib.asynccontextmanager
    async def opened(
        self, port: int, key: str, *options: str, **environ: str
    ) -> AsyncIterator[Terminal]:
        """Open it in a terminal, ready to be typed into."""
        terminal = Terminal()
        words = ["--session-id", SESSION, *options]
        try:
            async with self._started(port, key, words, environ, terminal):
                await terminal.shows("shift+tab to cycle")
                yield terminal
        finally:
            terminal.close()

    @contextlib.asynccontextmanager
    async def _started(
        self,
        port: int,
        key: str,
        options: list[str],
        more: dict[str, str],
        terminal: Terminal | None = None,
    ) -> AsyncIterator[tuple[subprocess.Popen[bytes], Door]]:
        home, work = self._furnish()
        environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "TMPDIR": str(home),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            **_SILENT,
            "CLAUDE_CODE_USE_GATEWAY": "1",
            "ANTHROPIC_BASE_URL": BASE_URL,
            "ANTHROPIC_AUTH_TOKEN": key,
            **more,
        }
        command = [str(self._program), *options]
        if terminal is None:
            process, listening = spawn(command, environ=environ, folder=work)
        else:
            far = terminal.far
            process, listening = spawn(
                command, environ=environ, folder=work, stdin=far, stdout=far, stderr=far
            )
            terminal.started()
        door = Door(port)
        await door.open(listening)
        try:
            yield process, door
        finally:
            process.kill()
            await asyncio.to_thread(process.communicate)
            await door.close()

    def _furnish(self) -> tuple[Path, Path]:
        """A home whose user has been through the first questions, and an empty project."""
        shutil.rmtree(self._folder, ignore_errors=True)
        home, work = self._folder / "home", self._folder / "work"
        home.mkdir(parents=True)
        work.mkdir()
        trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
        state = {
            "userID": _USER,
            "hasCompletedOnboarding": True,
            "theme": "dark",
            "projects": {str(work): trusted},
        }
        (home / ".claude.json").write_text(json.dumps(state))
        return home, work

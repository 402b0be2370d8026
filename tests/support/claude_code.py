"""Claude Code itself, as a user sets it up."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from opuslive import set_up
from tests.support.namespaces import BASE_URL
from tests.support.sealed import Sealed, Turn
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


class ClaudeCode:
    def __init__(self, program: Path, folder: Path) -> None:
        self._sealed = Sealed(program, folder)

    async def ask(self, port: int, key: str, prompt: str, *options: str, **environ: str) -> Turn:
        """Ask one thing of what listens at the port, without a terminal."""
        self._furnish()
        words = ["-p", prompt, "--session-id", SESSION, *options]
        settings = _settings(key, environ)
        return await self._sealed.run(port, words, settings, asks=b"POST /v1/messages?")

    @contextlib.asynccontextmanager
    async def opened(
        self, port: int, key: str, *options: str, **environ: str
    ) -> AsyncIterator[Terminal]:
        """Open it in a terminal, ready to be typed into."""
        self._furnish()
        words = ["--session-id", SESSION, *options]
        async with self._sealed.opened(port, words, _settings(key, environ)) as terminal:
            await terminal.shows("shift+tab to cycle")
            yield terminal

    def _furnish(self) -> None:
        """A home whose user has been through the first questions."""
        self._sealed.furnish()
        trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
        state = {
            "userID": _USER,
            "hasCompletedOnboarding": True,
            "theme": "dark",
            "projects": {str(self._sealed.work): trusted},
        }
        (self._sealed.home / ".claude.json").write_text(json.dumps(state))


def _settings(key: str, more: Mapping[str, str]) -> dict[str, str]:
    """What a holder is told to set, and nothing else that has to do with a gateway."""
    lines = next(each for each in set_up.claude_code(BASE_URL, key, None) if "json" in each.place)
    told: dict[str, str] = json.loads(lines.text)["env"]
    assert len(told) == 3
    return {**_SILENT, **told, **more}

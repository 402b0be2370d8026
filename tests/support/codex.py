"""Codex itself, as a user sets it up."""

from __future__ import annotations

from pathlib import Path

from opuslive import set_up
from tests.support.namespaces import BASE_URL
from tests.support.sealed import Sealed, Turn

MODEL = "gpt-5-mini"
#: It shall report nothing, and look for nothing newer.
_SILENT = """
check_for_update_on_startup = false
analytics.enabled = false
feedback.enabled = false
"""


class Codex:
    def __init__(self, program: Path, folder: Path) -> None:
        self._sealed = Sealed(program, folder)

    async def ask(self, port: int, key: str, prompt: str) -> Turn:
        """Ask one thing of what listens at the port."""
        self._sealed.furnish()
        folder = self._sealed.home / ".codex"
        folder.mkdir()
        # What a holder is told to write there.
        told = next(each for each in set_up.codex(BASE_URL, key, MODEL) if "toml" in each.place)
        (folder / "config.toml").write_text(_SILENT + told.text)
        words = ["exec", "--skip-git-repo-check", prompt]
        settings = {"OPUSLIVE_API_KEY": key}
        return await self._sealed.run(port, words, settings, asks=b"POST /v1/responses ")

"""Codex itself, as a user sets it up."""

from __future__ import annotations

from pathlib import Path

from tests.support.namespaces import BASE_URL
from tests.support.sealed import Sealed, Turn

MODEL = "gpt-5-mini"
#: It shall report nothing, and look for nothing newer.
_CONFIG = f"""
model = "{MODEL}"
model_provider = "opuslive"
check_for_update_on_startup = false

[analytics]
enabled = false

[feedback]
enabled = false

[model_providers.opuslive]
name = "OpusLive"
base_url = "{BASE_URL}/v1"
env_key = "OPUSLIVE_KEY"
wire_api = "responses"
"""


class Codex:
    def __init__(self, program: Path, folder: Path) -> None:
        self._sealed = Sealed(program, folder)

    async def ask(self, port: int, key: str, prompt: str) -> Turn:
        """Ask one thing of what listens at the port."""
        self._sealed.furnish()
        folder = self._sealed.home / ".codex"
        folder.mkdir()
        (folder / "config.toml").write_text(_CONFIG)
        words = ["exec", "--skip-git-repo-check", prompt]
        settings = {"OPUSLIVE_KEY": key}
        return await self._sealed.run(port, words, settings, asks=b"POST /v1/responses ")

"""The lines with which a holder sets up a client, for a gateway's address, a key and a model.

Every value stands in them as the shell, JSON or TOML reads it back. A model is None where none is
known: the client then takes its own default.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

#: How the key reaches Codex, whose file has the name of the variable.
_CODEX_KEY: Final = "OPUSLIVE_API_KEY"
#: PowerShell takes each of these for the end of a text in single quotes.
_POWERSHELL_QUOTES: Final = "'\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}" + (
    "\N{SINGLE LOW-9 QUOTATION MARK}\N{SINGLE HIGH-REVERSED-9 QUOTATION MARK}"
)


@dataclass(frozen=True, slots=True)
class SetUp:
    """Lines to paste: into ``place``, which is a shell or a file. ``note`` is what else the reader
    has to know, perhaps nothing."""

    client: str
    place: str
    text: str
    note: str = ""

    @property
    def id(self) -> str:
        """The same words as an identifier in HTML."""
        words = "".join(c if c.isalnum() else " " for c in f"{self.client} {self.place}".lower())
        return "-".join(words.split())


def claude_code(base_url: str, key: str, model: str | None) -> Sequence[SetUp]:
    """Claude Code in its gateway mode, in which it shows how much of the key's limits is used."""
    settings = {
        "CLAUDE_CODE_USE_GATEWAY": "1",
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_AUTH_TOKEN": key,
    }
    if model is not None:
        settings["ANTHROPIC_MODEL"] = model
    file = json.dumps({"env": settings}, indent=2, ensure_ascii=False)
    return [
        *_in_shells("Claude Code", settings, "claude"),
        SetUp("Claude Code", "~/.claude/settings.json", file, "It holds for good, in every shell."),
    ]


def codex(base_url: str, key: str, model: str | None) -> Sequence[SetUp]:
    """Codex CLI, by OpenAI's Responses API."""
    lines = [] if model is None else [f"model = {toml(model)}"]
    lines += [
        'model_provider = "opuslive"',
        "",
        "[model_providers.opuslive]",
        'name = "OpusLive"',
        f"base_url = {toml(base_url + '/v1')}",
        'wire_api = "responses"',
        f'env_key = "{_CODEX_KEY}"',
    ]
    return [
        *_in_shells("Codex", {_CODEX_KEY: key}, "codex"),
        SetUp(
            "Codex",
            "~/.codex/config.toml",
            "\n".join(lines),
            "It names the variable above. These lines stand before any table of the file.",
        ),
    ]


def bash(text: str) -> str:
    """The text as one word of bash and its like."""
    return shlex.quote(text)


def powershell(text: str) -> str:
    """The text as a literal of PowerShell."""
    return "'" + "".join(c * 2 if c in _POWERSHELL_QUOTES else c for c in text) + "'"


def toml(text: str) -> str:
    """The text as a basic string of TOML: JSON's, but for DEL and for what JSON writes as a pair
    of surrogates."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


#: Shell → how it sets a variable of the environment.
_SHELLS: Final[Mapping[str, Callable[[str, str], str]]] = MappingProxyType(
    {
        "bash": lambda name, value: f"export {name}={bash(value)}",
        "PowerShell": lambda name, value: f"$env:{name} = {powershell(value)}",
    }
)


def _in_shells(client: str, variables: Mapping[str, str], command: str) -> Sequence[SetUp]:
    return [
        SetUp(client, shell, "\n".join([*(set_(*each) for each in variables.items()), command]))
        for shell, set_ in _SHELLS.items()
    ]

"""The lines with which a holder sets up a client, for a gateway's address, a key and a model.

Every value stands in them as the shell, JSON, TOML, Python or TypeScript reads it back. A model is
None where none is known: a client then takes its own default, or has ``MODEL`` for one.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

#: What stands for a model that isn't known, where one has to be named.
_NO_MODEL: Final = "MODEL"
#: How the key reaches Codex, whose file has the name of the variable.
_CODEX_KEY: Final = "OPUSLIVE_API_KEY"
_CODEX_FILE: Final = "~/.codex/config.toml"
_BASH: Final = "bash"
_WITH_V1: Final = "Its base URL ends in /v1."
_WITHOUT_V1: Final = "Its base URL has nothing after the address."
_JSON: Final = "content-type: application/json"
#: PowerShell takes each of these for the end of a text in single quotes.
_POWERSHELL_QUOTES: Final = "'\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}" + (
    "\N{SINGLE LOW-9 QUOTATION MARK}\N{SINGLE HIGH-REVERSED-9 QUOTATION MARK}"
)


@dataclass(frozen=True, slots=True)
class SetUp:
    """Lines to paste: into ``place``, which is a shell, a file, or a program in that language or
    for that format. ``note`` is what else the reader has to know, perhaps nothing."""

    client: str
    place: str
    text: str
    note: str = ""

    @property
    def id(self) -> str:
        """The same words as an identifier in HTML."""
        return _identifier(f"{self.client} {self.place}")


@dataclass(frozen=True, slots=True)
class Client:
    """A client, and what sets it up."""

    name: str
    set_ups: Sequence[SetUp]

    @property
    def id(self) -> str:
        """Its name as an identifier in HTML."""
        return _identifier(self.name)


def clients(base_url: str, key: str, models: Mapping[str, str | None]) -> Sequence[Client]:
    """Every client of these dialects, what most people look for first. ``models``: dialect → one
    that the key may use, perhaps None."""
    found: dict[str, list[SetUp]] = {}
    for dialect, client in _CLIENTS:
        if dialect in models:
            for lines in client(base_url, key, models[dialect]):
                found.setdefault(lines.client, []).append(lines)
    return [Client(name, set_ups) for name, set_ups in found.items()]


def in_terminal(base_url: str, key: str, models: Mapping[str, str | None]) -> Sequence[SetUp]:
    """What a terminal has room for: how the clients that run in one are set up in bash. ``models``
    as those of ``clients``."""
    return [
        lines
        for client in clients(base_url, key, models)
        for lines in client.set_ups
        if lines.place in (_BASH, _CODEX_FILE)
    ]


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
        *_in_shells("Codex CLI", {_CODEX_KEY: key}, "codex"),
        SetUp(
            "Codex CLI",
            _CODEX_FILE,
            "\n".join(lines),
            "It names the variable above. These lines stand before any table of the file.",
        ),
    ]


def _anthropic_sdks(base_url: str, key: str, model: str | None) -> Sequence[SetUp]:
    python = f"""\
# pip install anthropic
from anthropic import Anthropic

client = Anthropic(
    base_url={literal(base_url)},
    api_key={literal(key)},
)
message = client.messages.create(
    model={literal(model or _NO_MODEL)},
    max_tokens=200,
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(message.content[0].text)"""
    typescript = f"""\
// npm install @anthropic-ai/sdk
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({{
  baseURL: {literal(base_url)},
  apiKey: {literal(key)},
}});
const message = await client.messages.create({{
  model: {literal(model or _NO_MODEL)},
  max_tokens: 200,
  messages: [{{ role: "user", content: "Hello" }}],
}});
console.log(message.content);"""
    return _sdks("Anthropic SDK", python, typescript, _WITHOUT_V1)


def _openai_sdks(base_url: str, key: str, model: str | None) -> Sequence[SetUp]:
    python = f"""\
# pip install openai
from openai import OpenAI

client = OpenAI(
    base_url={literal(base_url + "/v1")},
    api_key={literal(key)},
)
answer = client.chat.completions.create(
    model={literal(model or _NO_MODEL)},
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.choices[0].message.content)"""
    typescript = f"""\
// npm install openai
import OpenAI from "openai";

const client = new OpenAI({{
  baseURL: {literal(base_url + "/v1")},
  apiKey: {literal(key)},
}});
const answer = await client.chat.completions.create({{
  model: {literal(model or _NO_MODEL)},
  messages: [{{ role: "user", content: "Hello" }}],
}});
console.log(answer.choices[0].message.content);"""
    return _sdks("OpenAI SDK", python, typescript, _WITH_V1)


def _sdks(name: str, python: str, typescript: str, note: str) -> Sequence[SetUp]:
    return [SetUp(name, "Python", python, note), SetUp(name, "TypeScript", typescript, note)]


def _ai_sdk_for_anthropic(base_url: str, key: str, model: str | None) -> Sequence[SetUp]:
    return [_ai_sdk(base_url, key, model, "Anthropic", "anthropic")]


def _ai_sdk_for_openai(base_url: str, key: str, model: str | None) -> Sequence[SetUp]:
    # Without ``chat`` it asks for responses, which not every server of the format has.
    return [_ai_sdk(base_url, key, model, "OpenAI", "openai.chat")]


def _ai_sdk(base_url: str, key: str, model: str | None, provider: str, choose: str) -> SetUp:
    """``choose`` is what makes a model of its name."""
    package = provider.lower()
    text = f"""\
// npm install ai @ai-sdk/{package}
import {{ create{provider} }} from "@ai-sdk/{package}";
import {{ generateText }} from "ai";

const {package} = create{provider}({{
  baseURL: {literal(base_url + "/v1")},
  apiKey: {literal(key)},
}});
const {{ text }} = await generateText({{
  model: {choose}({literal(model or _NO_MODEL)}),
  prompt: "Hello",
}});
console.log(text);"""
    return SetUp("AI SDK", f"{provider} format", text, _WITH_V1)


def _curl_for_anthropic(base_url: str, key: str, model: str | None) -> Sequence[SetUp]:
    body = f"""\
{{"model": {literal(model or _NO_MODEL)}, "max_tokens": 200,
 "messages": [{{"role": "user", "content": "Hello"}}]}}"""
    headers = (f"x-api-key: {key}", "anthropic-version: 2023-06-01", _JSON)
    return [_curl(f"{base_url}/v1/messages", headers, body, "Anthropic")]


def _curl_for_openai(base_url: str, key: str, model: str | None) -> Sequence[SetUp]:
    body = f"""\
{{"model": {literal(model or _NO_MODEL)},
 "messages": [{{"role": "user", "content": "Hello"}}]}}"""
    headers = (f"authorization: Bearer {key}", _JSON)
    return [_curl(f"{base_url}/v1/chat/completions", headers, body, "OpenAI")]


def _curl(url: str, headers: Sequence[str], body: str, provider: str) -> SetUp:
    options = [f"-H {bash(header)}" for header in headers]
    text = " \\\n  ".join([f"curl {bash(url)}", *options, f"-d {bash(body)}"])
    return SetUp("curl", f"{provider} format", text)


#: Dialect and what sets up a client of it, in the order in which people see them.
_CLIENTS: Final[Sequence[tuple[str, Callable[[str, str, str | None], Sequence[SetUp]]]]] = (
    ("anthropic", claude_code),
    ("openai", codex),
    ("anthropic", _anthropic_sdks),
    ("openai", _openai_sdks),
    ("anthropic", _ai_sdk_for_anthropic),
    ("openai", _ai_sdk_for_openai),
    ("anthropic", _curl_for_anthropic),
    ("openai", _curl_for_openai),
)


def bash(text: str) -> str:
    """The text as one word of bash and its like."""
    return shlex.quote(text)


def powershell(text: str) -> str:
    """The text as a literal of PowerShell."""
    return "'" + "".join(c * 2 if c in _POWERSHELL_QUOTES else c for c in text) + "'"


def toml(text: str) -> str:
    """The text as a basic string of TOML: JSON's, but for DEL."""
    return literal(text).replace("\x7f", "\\u007f")


def literal(text: str) -> str:
    """The text as a literal of JSON, Python and TypeScript alike."""
    return json.dumps(text, ensure_ascii=False)


def _identifier(words: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in words.lower()).split())


#: Shell → how it sets a variable of the environment.
_SHELLS: Final[Mapping[str, Callable[[str, str], str]]] = MappingProxyType(
    {
        _BASH: lambda name, value: f"export {name}={bash(value)}",
        "PowerShell": lambda name, value: f"$env:{name} = {powershell(value)}",
    }
)


def _in_shells(client: str, variables: Mapping[str, str], command: str) -> Sequence[SetUp]:
    return [
        SetUp(client, shell, "\n".join([*(set_(*each) for each in variables.items()), command]))
        for shell, set_ in _SHELLS.items()
    ]

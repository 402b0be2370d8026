"""What ``serve`` prints once it serves: where, and what to do next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from opuslive.cli.invocation import command_line, own_words
from opuslive.cli.output import echo
from opuslive.config.files import Settings, shown_path
from opuslive.config.sections import ServerConfig
from opuslive.sandbox import MODEL
from opuslive.web.http.listening import listen_everywhere


def places_of(server: ServerConfig, urls: Sequence[str]) -> str:
    """Where it listens, for people."""
    places = " and ".join(urls)
    if listen_everywhere(server.host):
        places += ", and on this machine's other addresses"
    return places


def print_places(places: str, file: Path | None) -> None:
    echo(
        f"OpusLive listens on {places} (hand out a key with 'opuslive keys create NAME', "
        "stop with Ctrl-C)"
    )
    _print_configuration(file)


def print_sandbox(
    settings: Settings, places: str, address: str, credential: str, *, found: bool
) -> None:
    """Requests to ``address`` that work as they stand. ``found``: commands that name no
    configuration find the sandbox."""
    body = {
        "model": MODEL,
        "max_tokens": 1024,
        "stream": True,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    echo(
        f"""OpusLive listens on {places} with a simulated model: no account, no bill.

Ask it something, in another terminal:

  curl -N {address}/v1/messages -H 'x-api-key: {credential}' \\
    -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' \\
    -d '{json.dumps(body)}'

Then see what was recorded of it:

  curl -H 'x-api-key: {credential}' {address}/v1/usage

{_more_keys(settings, found=found)}

Stop with Ctrl-C."""
    )
    _print_configuration(settings.file)


def _more_keys(settings: Settings, *, found: bool) -> str:
    named = settings.file is not None and settings.config.storage.url is not None
    if not named and not found:
        return "Other commands don't find this sandbox: there is no place to note where it is."
    options = ("--config", shown_path(settings.file)) if named and settings.file else ()
    command = command_line(*own_words(), *options, "keys", "create", "alice")
    return f"Make another key for it:\n\n  {command}"


def _print_configuration(file: Path | None) -> None:
    if file is not None:
        echo(f"Configuration: {shown_path(file)}")

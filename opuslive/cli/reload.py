"""``opuslive reload``: a running server takes its configuration anew."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from opuslive.cli.control import running_sandbox, running_server
from opuslive.cli.output import echo, json_option, print_json
from opuslive.config.files import Settings, database_url
from opuslive.errors import UsageError


@click.command()
@json_option
@click.pass_obj
def reload(load: Callable[[], Settings], as_json: bool) -> None:
    """Let the running server read its configuration and certificate anew.

    No request is dropped, and nothing that was used is forgotten. It says what changed, and which
    keys need a restart; these stay as they were. If the configuration can't be used, the one from
    before stays in force.
    """
    reloaded = asyncio.run(reload_server(load()))
    if reloaded is None:
        raise UsageError(
            "No server runs on the database of this configuration; start one with 'opuslive serve'."
            " (A server that runs on another database has to be restarted to change it.)"
        )
    if as_json:
        print_json(reloaded)
        return
    echo("Changed: " + (", ".join(reloaded["changed"]) or "nothing"))
    if reloaded["needs_restart"]:
        echo("Needs a restart: " + ", ".join(reloaded["needs_restart"]))
    echo(f"Configuration: {reloaded['file'] or 'no file'}, in force since {reloaded['since']}")


async def reload_server(settings: Settings) -> Mapping[str, Any] | None:
    """Let the server that runs reload, or the sandbox; return what it answers, None if none runs.

    Raises OpusLiveError if the server refuses."""
    try:
        sandbox = await running_sandbox(settings)
        url = database_url(settings.config, os.environ) if sandbox is None else sandbox.url
    except UsageError:
        return None  # There is no place for a database, and so no server.
    async with running_server(url) as server:
        if server is None:
            return None
        reloaded: Mapping[str, Any] = await server.call("POST", "reload")
        return reloaded

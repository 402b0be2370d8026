"""What a shell is offered for an argument: names of keys, and of groups.

Somebody waits with a finger on the key. So nothing fails and nothing is said here: what can't be
found at once is not offered.
"""

from __future__ import annotations

import asyncio
import os
import re

import click
from click.shell_completion import CompletionItem

from opuslive.cli.control import found_control, running_sandbox
from opuslive.config.files import Settings, database_url, load_settings
from opuslive.errors import OpusLiveError
from opuslive.storage import database_path

#: Seconds until nothing is offered.
_SECONDS = 3.0
#: Keys that are looked through.
_MOST_KEYS = "1000"
#: A name that every shell takes as one word, as it stands.
_WORD = re.compile(r"[\w@%+=:,./-]+")


def keys(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """Keys whose name or id begins so. A name that is no single word is told beside the id."""
    settings = _settings(ctx)
    if settings is None:
        return []
    try:
        listed = asyncio.run(_listed(settings))
    except (OpusLiveError, TimeoutError, OSError):
        return []
    items = []
    for key in listed:
        is_word = _WORD.fullmatch(key["name"]) is not None
        value, help_ = (key["name"], key["id"]) if is_word else (key["id"], key["name"])
        if value.startswith(begun):
            items.append(CompletionItem(value, help=help_))
    return items


def groups(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """Groups of the configuration whose name begins so."""
    settings = _settings(ctx)
    named = () if settings is None else settings.config.limits.groups
    return [
        CompletionItem(group)
        for group in sorted(named)
        if group.startswith(begun) and _WORD.fullmatch(group)
    ]


def _settings(ctx: click.Context) -> Settings | None:
    try:
        return load_settings(ctx.find_root().params.get("config"), os.environ)
    except OpusLiveError:
        return None


async def _listed(settings: Settings) -> list[dict[str, str]]:
    async with asyncio.timeout(_SECONDS):
        default = database_path(database_url(settings.config, os.environ))
        # (A command would make the database, where there is none.)
        if not default.exists() and await running_sandbox(settings) is None:
            return []
        async with found_control(settings, quiet=True) as api:
            page = await api.call("GET", "keys", query={"limit": _MOST_KEYS})
    items: list[dict[str, str]] = page["items"]
    return items

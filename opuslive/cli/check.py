"""``opuslive check``: what is wrong with this installation, and how to mend it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import click

from opuslive.bootstrap import system_clock
from opuslive.cli.acting import as_owner_of
from opuslive.cli.control import running_server
from opuslive.cli.output import (
    Cell,
    TableColumn,
    echo,
    encoding_of,
    json_option,
    one_line,
    print_json,
    print_table,
)
from opuslive.config.files import Settings, database_url
from opuslive.diagnostics import checkup
from opuslive.diagnostics.findings import Level, count, document
from opuslive.errors import UsageError
from opuslive.storage import database_path
from opuslive.web.admin.checking import subject

_STYLES = MappingProxyType(
    {Level.OK: "green", Level.WARNING: "bold yellow", Level.ERROR: "bold red"}
)


@click.command()
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Look at everything that has to be right, and say what is not.

    The configuration, each upstream and its credential, the files with secrets, the database,
    the certificate, and whether the gateway answers. While a server runs, that one looks. Nothing
    is changed. The exit status is 1 if there is an error.
    """
    load: Callable[[], Settings] = ctx.obj
    try:
        settings = load()
        found = asyncio.run(_check(settings, database_url(settings.config, os.environ)))
    except UsageError as problem:
        found = document(checkup.unreadable(problem))
    if as_json:
        print_json(found)
    else:
        _print(found)
    if not found["ok"]:
        ctx.exit(1)


async def _check(settings: Settings, url: str) -> Any:
    async with running_server(url) as server:
        if server is not None:
            return await server.call("GET", "check")
    with as_owner_of(database_path(url).parent):
        looked_at = subject(settings, os.environ, url, system_clock().wall_ms, serving=False)
        return document(await checkup.check(looked_at))


def _print(found: Any) -> None:
    arrow = "→" if encoding_of(sys.stdout).lower().startswith("utf") else "->"
    print_table(
        (TableColumn(""), TableColumn("", wraps=True, style="bold"), TableColumn("", wraps=True)),
        [
            (
                Cell(each["level"], style=_STYLES[Level(each["level"])]),
                one_line(each["name"]),
                one_line(each["text"])
                + (f"\n{arrow} {one_line(each['remedy'])}" if each["remedy"] else ""),
            )
            for each in found["checks"]
        ],
    )
    number = Counter(each["level"] for each in found["checks"])
    echo(
        f"\n{number[Level.OK]} ok, {count(number[Level.WARNING], 'warning')}, "
        f"{count(number[Level.ERROR], 'error')}"
    )

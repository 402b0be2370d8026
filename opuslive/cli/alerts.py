"""``opuslive alerts``: whether what tells of limits, credentials and expiries works."""

from __future__ import annotations

from collections.abc import Callable

import click

from opuslive.cli.control import run
from opuslive.cli.output import (
    Cell,
    TableColumn,
    json_option,
    one_line,
    print_json,
    print_table,
)
from opuslive.config.files import Settings
from opuslive.errors import UsageError


@click.group()
def alerts() -> None:
    """Try the channels that tell of limits, credentials and expiries.

    They are [alerts] webhook and [alerts.smtp] in the configuration.
    """


@alerts.command()
@json_option
@click.pass_context
def test(ctx: click.Context, as_json: bool) -> None:
    """Send a test through every channel, and say what each answered.

    The running server sends it, or else this command does. There is one attempt, of half a minute
    at most. The exit status is 1 if a channel did not take it.
    """
    load: Callable[[], Settings] = ctx.obj
    channels = run(load, lambda api: api.call("POST", "alerts", "test"))["channels"]
    if not channels:
        raise UsageError(
            "There is no channel of alerts; set webhook in [alerts], or write [alerts.smtp]."
        )
    if as_json:
        print_json({"channels": channels})
    else:
        print_table(
            (TableColumn("channel"), TableColumn("result"), TableColumn("answer", wraps=True)),
            [
                (
                    each["channel"],
                    Cell("ok", style="green") if each["ok"] else Cell("failed", style="bold red"),
                    one_line(": ".join(part for part in (each["problem"], each["answer"]) if part)),
                )
                for each in channels
            ],
        )
    if not all(each["ok"] for each in channels):
        ctx.exit(1)

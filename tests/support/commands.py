"""The commands of the program, as a person finds them."""

from __future__ import annotations

from collections.abc import Mapping

import click

from opuslive.cli.later import LaterCommand


def subcommands(command: click.Command) -> Mapping[str, click.Command]:
    """Name → command, each loaded; none of what is no group."""
    if not isinstance(command, click.Group):
        return {}
    return {
        name: each.load() if isinstance(each, LaterCommand) else each
        for name, each in command.commands.items()
    }

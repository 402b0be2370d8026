"""Commands whose modules are loaded when they run: no command waits for what another one needs."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from opuslive import INTERRUPTED


class LaterCommand(click.Command):
    """Stands for the command ``NAME`` of the module ``opuslive.cli.NAME``.

    ``summary`` is the first sentence of that command's help: it is shown without the module.
    """

    def __init__(self, name: str, summary: str) -> None:
        super().__init__(name, help=summary)

    def load(self) -> click.Command:
        """The command itself. Ctrl-C meanwhile ends the process without a word."""
        try:
            module = importlib.import_module(f"opuslive.cli.{self.name}")
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        command: click.Command = getattr(module, str(self.name))
        return command

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """The context of the command itself: what runs, helps and completes from here on is it."""
        return self.load().make_context(info_name, args, parent, **extra)

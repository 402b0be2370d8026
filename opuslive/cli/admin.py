"""``opuslive admin``: the password of the pages and the API of the administration."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from opuslive.administration.password import USER, checked_password, hash_password
from opuslive.cli.output import echo
from opuslive.cli.questions import Questions
from opuslive.cli.reload import reload_server
from opuslive.config.edit import read_valid_text, write_password_hash
from opuslive.config.files import Settings, config_path_to_write
from opuslive.errors import OpusLiveError, UsageError


@click.group()
def admin() -> None:
    """Set up administration over HTTP."""


@admin.command()
@click.option(
    "--password-stdin",
    "from_stdin",
    is_flag=True,
    help="Read the password from standard input instead of asking for it.",
)
@click.pass_context
def password(ctx: click.Context, from_stdin: bool) -> None:
    """Set the password of the user "admin".

    Only a bcrypt hash of it is stored: as [admin] password_hash, in the configuration file
    that is in use, or in a new ./config.toml if there is none. A running server takes it at once,
    by reloading its configuration.
    """
    named = ctx.find_root().params["config"]
    path = config_path_to_write(named, os.environ)
    # Before the question: nobody should type a password twice for a file that can't be changed.
    text = read_valid_text(path)
    write_password_hash(
        path, text, hash_password(read_password() if from_stdin else _ask_password())
    )
    echo(
        f"The password of the user {USER!r} is set in {path}"
        f"{', a new file' if text is None else ''}, which others may not read. "
        + _taken(ctx.obj, path)
    )


def _taken(load: Callable[[], Settings], path: Path) -> str:
    """Let a server that runs take the configuration; a sentence says what came of it."""
    try:
        reloaded = asyncio.run(reload_server(load()))
    except OpusLiveError as error:
        return f"The running server keeps the password from before: {error.message}"
    if reloaded is None:
        return "No server runs: the next one to start uses it."
    taken = "admin.password_hash" in reloaded["changed"]
    # Another reload may have taken it just before.
    if not taken and os.path.realpath(reloaded["file"] or "") != os.path.realpath(path):
        return "The running server has another configuration, and does not use it."
    return "The running server uses it from now on."


def _ask_password() -> str:
    questions = Questions(asking=True)
    return questions.new_secret(f"New password of the user {USER!r}", checked_password)


def read_password() -> str:
    """The first line of standard input."""
    try:
        return sys.stdin.buffer.readline().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError("The password on standard input is not UTF-8 text.") from None

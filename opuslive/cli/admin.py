"""``opuslive admin``: the password of the pages and the API of the administration."""

from __future__ import annotations

import os
import sys

import click

from opuslive.administration.password import USER, hash_password
from opuslive.cli.output import echo
from opuslive.config.edit import read_valid_text, write_password_hash
from opuslive.config.files import config_path_to_write
from opuslive.errors import UsageError


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
    that is in use, or in a new ./config.toml if there is none.
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
        "A running server uses it once it is restarted."
    )


def _ask_password() -> str:
    answer: str = click.prompt(
        f"New password of the user {USER!r}",
        hide_input=True,
        confirmation_prompt="The same again",
        err=True,
    )
    return answer


def read_password() -> str:
    """The first line of standard input."""
    try:
        return sys.stdin.buffer.readline().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError("The password on standard input is not UTF-8 text.") from None

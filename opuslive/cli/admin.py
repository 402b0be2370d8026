"""``opuslive admin``: the password of the pages and the API of the administration."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from opuslive.administration.password import USER, hash_password
from opuslive.config.files import config_path
from opuslive.config.sections import parse_config_text
from opuslive.errors import UsageError

#: What a new file holds besides: what is used without any configuration.
_NEW_FILE = """\
# The configuration of OpusLive. config.example.toml has every key with its meaning.

[[upstreams]]
name = "anthropic"
base_url = "https://api.anthropic.com"
api_key_env = "ANTHROPIC_API_KEY"
"""

_HASH_LINE = re.compile(
    r"""^([ \t]*(?:admin[ \t]*\.[ \t]*)?password_hash[ \t]*=[ \t]*)(?:"[^"\n]*"|'[^'\n]*')""",
    re.MULTILINE,
)
_ADMIN_TABLE = re.compile(
    r"^[ \t]*\[[ \t]*admin[ \t]*\][ \t]*(?:#[^\n]*)?(?:\r?\n|\Z)", re.MULTILINE
)


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
    path = (config_path(named, os.environ) or Path("config.toml")).absolute()
    before = _read(path)
    if before is not None:
        parse_config_text(before, source=str(path))
    hashed = hash_password(_read_password() if from_stdin else _ask_password())
    text = with_password_hash(_NEW_FILE if before is None else before, hashed, str(path))
    _replace(path, text)
    click.echo(
        f"The password of the user {USER!r} is set in {path}"
        f"{', a new file' if before is None else ''}, which only its owner may read. "
        "A running server uses it once it is restarted."
    )


def with_password_hash(text: str, hashed: str, source: str) -> str:
    """The valid configuration with this hash; every other byte of it stays as it is.

    Raises UsageError if it is written in a way that this can't change.
    """
    wanted = tomllib.loads(text)
    wanted["admin"] = wanted.get("admin", {}) | {"password_hash": hashed}
    for edited in _edits(text, hashed):
        if _parsed(edited) == wanted:
            parse_config_text(edited, source=source)
            return edited
    raise UsageError(
        f"{source}: can't find the place for the password's hash; "
        "write [admin] there on a line of its own, then try again."
    )


def _edits(text: str, hashed: str) -> Iterator[str]:
    """Ways to change the text. Any may be wrong, as a string may hold what looks like a table."""
    for found in _HASH_LINE.finditer(text):
        yield f'{text[: found.start()]}{found[1]}"{hashed}"{text[found.end() :]}'
    ends = "\r\n" if "\r\n" in text else "\n"
    line = f'password_hash = "{hashed}"{ends}'
    for found in _ADMIN_TABLE.finditer(text):
        head = text[: found.end()]
        yield f"{head}{'' if head.endswith(ends) else ends}{line}{text[found.end() :]}"
    gap = ends if text.endswith(ends) or not text else ends * 2
    yield f"{text}{gap}[admin]{ends}{line}"


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _ask_password() -> str:
    answer: str = click.prompt(
        f"New password of the user {USER!r}",
        hide_input=True,
        confirmation_prompt="The same again",
        err=True,
    )
    return answer


def _read_password() -> str:
    """The first line of standard input."""
    try:
        return sys.stdin.buffer.readline().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UsageError("The password on standard input is not UTF-8 text.") from None


def _read(path: Path) -> str | None:
    """The file as it is, to the line ends; None if there is none."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"The configuration {path} can't be read: {reason}.") from None


def _replace(path: Path, text: str) -> None:
    """Put the text in the file's place, all at once, for its owner alone to read."""
    target = path.resolve()  # A link goes on leading there.
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            _keep_owner(target, name)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink()
            raise
    except OSError as error:
        raise UsageError(
            f"The configuration {target} can't be written: {error.strerror or error}."
        ) from None


def _keep_owner(target: Path, name: str) -> None:
    """Give the new file the owner of the old one: root may act for the server's user."""
    if target.exists():
        owner = target.stat()
        if owner.st_uid != os.geteuid():
            os.chown(name, owner.st_uid, owner.st_gid)

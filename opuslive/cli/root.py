"""The ``opuslive`` command and what all its commands share."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import click

from opuslive.cli.later import LaterCommand
from opuslive.cli.output import encoding_of, visible
from opuslive.config.files import config_path, load_settings, shown_path
from opuslive.errors import OpusLiveError


class _Group(click.Group):
    """Shows what went wrong as one sentence on standard error, never as a traceback."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        with _plain_complaints():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _plain_complaints():
                return super().invoke(ctx)
        except OpusLiveError as error:
            sentence = error.message + _configuration(ctx.params["config"], error.message)
            message = visible(sentence, encoding_of(sys.stderr), lines=False)
            raise click.ClickException(message) from error
        except BrokenPipeError:
            # Whoever read the output has seen enough, as in 'opuslive keys list | head'.
            _drop_output()
            ctx.exit(1)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _drop_output()
            raise click.ClickException("The output can't be written: the disk is full.") from error


def _configuration(named: str | None, message: str) -> str:
    """Names the configuration in use, for a message that does not, unless the command named it."""
    found = None if named else config_path(None, os.environ)
    if found is None or shown_path(found) in message:
        return ""
    return f" (Configuration: {shown_path(found)})"


@contextlib.contextmanager
def _plain_complaints() -> Iterator[None]:
    """Words of the command line that a complaint repeats must not steer a terminal."""
    try:
        yield
    except click.UsageError as error:
        message = error.format_message()
        if isinstance(error, click.NoSuchOption) and error.option_name == "--config":
            message = f"--config goes first: 'opuslive --config FILE{_command(error.ctx)}'."
        plain = visible(message, encoding_of(sys.stderr))
        if plain == error.format_message():
            raise
        raise click.UsageError(plain, error.ctx) from error


def _command(ctx: click.Context | None) -> str:
    """The words of a command, behind the name of the program."""
    words = "" if ctx is None else ctx.command_path
    return words.removeprefix("" if ctx is None else str(ctx.find_root().info_name))


def _drop_output() -> None:
    """Let nothing that is still buffered fail when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _show_versions(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print what a report of a fault should name."""
    if not wanted or ctx.resilient_parsing:
        return
    import importlib.metadata
    import platform

    from opuslive.administration.version import version
    from opuslive.storage import engine

    aiohttp, uvloop = (importlib.metadata.version(name) for name in ("aiohttp", "uvloop"))
    click.echo(
        f"opuslive {version()} (Python {platform.python_version()}, {engine()}, "
        f"aiohttp {aiohttp}, uvloop {uvloop})"
    )
    ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_versions,
    help="Show the version, and those of what it runs on, and exit.",
)
@click.option(
    "--config",
    metavar="FILE",
    help="Configuration to use. Default: the first of $OPUSLIVE_CONFIG, ./config.toml, "
    "$XDG_CONFIG_HOME/opuslive/config.toml and /etc/opuslive/config.toml.",
)
@click.pass_context
def main(ctx: click.Context, config: str | None) -> None:
    """OpusLive, an API gateway to AI language models.

    You hold one account with a model provider; OpusLive hands out keys to it, streams
    answers straight through, and keeps token counts: never a prompt, an answer, an
    address or a name.

    \b
    Try it with no account:    opuslive serve --sandbox
    Set it up:                 opuslive init
    Run it:                    opuslive serve
    Hand out a key:            opuslive keys create alice
    See what is wrong:         opuslive check
    """
    ctx.obj = lambda: load_settings(config, os.environ)


#: Command → the first sentence of its help; a module of its name in this package has it.
_COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "init": "Set a gateway up: its configuration, a password, a first key.",
        "serve": "Run the gateway until SIGTERM or Ctrl-C.",
        "reload": "Let the running server read its configuration and certificate anew.",
        "keys": "Hand out keys, change them, take them back.",
        "groups": "See the groups of keys that share limits, and how those limits stand.",
        "usage": "Show what was used, by all keys or by one, and how that compares with the time "
        "before.",
        "export": "Write every usage record: of all keys, of each KEY, or of a group.",
        "admin": "Set up administration over HTTP.",
        "alerts": "Try the channels that tell of limits, credentials and expiries.",
        "check": "Look at everything that has to be right, and say what is not.",
        "database": "Back up the database, restore a backup, check it, compact it.",
        "systemd": "Print a hardened systemd unit for this installation.",
        "top": "Show what goes on: requests, upstreams, the busiest keys and how full their limits "
        "are.",
        "completion": "Print a completion script, which completes names of keys and groups, too.",
    }
)
for _name, _summary in _COMMANDS.items():
    main.add_command(LaterCommand(_name, _summary))

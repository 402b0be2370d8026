"""``opuslive init``: from nothing to a gateway that can be started.

First everything is asked, tried and hashed (``cli.setup``); then files are written, all or none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import click

from opuslive.cli.control import control
from opuslive.cli.invocation import command_line, own_words
from opuslive.cli.output import echo, encoding_of, json_option, print_json, visible
from opuslive.cli.questions import Questions
from opuslive.cli.setup.choices import Choices
from opuslive.cli.setup.plan import Plan, plan
from opuslive.config.files import config_path, config_path_to_make
from opuslive.config.staging import staged
from opuslive.diagnostics.findings import count
from opuslive.errors import Code, OpusLiveError, UsageError


@dataclass(frozen=True, slots=True)
class Made:
    """What there is now. ``key`` is the first key's credential; ``next`` are command lines."""

    plan: Plan
    key: str = field(repr=False)
    next: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        made = self.plan
        credential_file = made.credential_file
        return {
            "config": str(made.path),
            "credential_file": None if credential_file is None else str(credential_file),
            "models": made.models,
            "admin_password": made.admin_password,
            "key": self.key,
            "next": list(self.next),
        }


@click.command()
@click.option(
    "--config",
    metavar="FILE",
    help="The file to make. Default: ./config.toml, as root /etc/opuslive/config.toml.",
)
@click.option(
    "--provider",
    metavar="NAME",
    help="anthropic, openai, or the URL of another one, which is asked for the format that it "
    "speaks. Default: anthropic.",
)
@click.option(
    "--credential-file",
    metavar="FILE",
    help="A file with nothing but the provider's key. It stays where it is.",
)
@click.option(
    "--credential-env",
    metavar="NAME",
    help="The environment variable with the provider's key, here and where the server runs.",
)
@click.option(
    "--host-name",
    metavar="HOST",
    help="The name under which clients of other machines reach the gateway. Needs --acme or "
    "--behind-proxy. Default: none, for clients on this machine.",
)
@click.option(
    "--acme",
    metavar="EMAIL",
    help="Get certificates for that name from Let's Encrypt; the address is for the account there.",
)
@click.option("--behind-proxy", is_flag=True, help="A reverse proxy in front does TLS.")
@click.option(
    "--host",
    metavar="ADDRESS",
    help="The address to listen on. Default: 127.0.0.1; with --acme every one.",
)
@click.option("--port", metavar="N", help="The port to listen on. Default: 8080; with --acme 443.")
@click.option(
    "--database",
    metavar="FILE",
    help="Where keys and usage are kept. Default: $XDG_STATE_HOME/opuslive/opuslive.db; for root's "
    "default configuration /var/lib/opuslive/opuslive.db.",
)
@click.option("--contact", metavar="TEXT", help="Whom holders of keys may ask. Default: nobody.")
@click.option(
    "--admin-password-stdin",
    is_flag=True,
    help='Read the password of the user "admin" from standard input. Default: one is made, and '
    "printed once.",
)
@click.option("--no-admin", is_flag=True, help="No administration over HTTP.")
@click.option("--key", metavar="NAME", help="What to call the first key. Default: first.")
@click.option(
    "--limit",
    "limits",
    metavar="LIMIT",
    multiple=True,
    help="A limit of that key, such as '20 usd/month'. May be given several times.",
)
@click.option(
    "--no-verify",
    is_flag=True,
    help="Don't ask the provider whether it takes the credential. A URL is then taken for one of "
    "OpenAI's format.",
)
@click.option("--yes", is_flag=True, help="Ask nothing: take the defaults.")
@json_option
@click.pass_context
def init(
    ctx: click.Context, /, config: str | None, as_json: bool, yes: bool, **options: Any
) -> None:
    """Set a gateway up: its configuration, a password, a first key.

    On a terminal it asks for what no option says, and shows what it takes when you press Enter.
    The provider's key is tried before anything is written, and kept in a file of its own. No file
    is ever overwritten. It ends with the commands to go on with.

    \b
    With no questions:    opuslive init --yes --credential-env ANTHROPIC_API_KEY
    Another provider:     opuslive init --provider https://openrouter.ai/api
    On the internet:      opuslive init --host-name ai.example.com --acme you@example.com
    """
    named = config or ctx.find_root().params["config"]
    try:
        path = config_path_to_make(named, os.environ)
        _carry_out(
            plan(Choices(**options), path, Questions.on_terminal(yes=yes), os.environ), as_json
        )
    except OpusLiveError as problem:
        # (Another configuration that is in use has nothing to do with it.)
        message = visible(problem.message, encoding_of(sys.stderr), lines=False)
        raise click.ClickException(message) from problem


def _carry_out(made: Plan, as_json: bool) -> None:
    """Write the files, make the key, print what nobody will see again: all of it or nothing."""
    group = None if made.service is None else made.service.pw_gid
    with _interruptible(), _data_folder(made), staged(made.files, group) as place:
        key = asyncio.run(_make_key(made))
        try:
            place()
            outcome = Made(made, key["key"], _next(made, os.environ))
            if as_json:
                print_json(outcome.as_dict())
            else:
                _print(outcome)
            sys.stdout.flush()
        except BaseException:
            asyncio.run(_delete_key(made, key["id"]))
            raise


async def _make_key(made: Plan) -> Any:
    members = {"name": made.key} | ({"limits": made.limits} if made.limits else {})
    async with control(made.settings) as api:
        try:
            return await api.call("POST", "keys", members=members)
        except OpusLiveError as refusal:
            if refusal.code is not Code.CONFLICT:
                raise
            raise UsageError(
                f"There is a key named {made.key!r} in {made.database} already; choose another "
                "name with --key, or another database with --database."
            ) from None


async def _delete_key(made: Plan, key_id: str) -> None:
    async with control(made.settings) as api:
        await api.call("DELETE", "keys", key_id)


def _next(made: Plan, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The commands to go on with."""
    found = config_path(None, environ)
    needed = found is None or found.absolute() != made.path
    options = ("--config", str(made.path)) if needed else ()
    own = (*own_words(), *options)
    as_service = () if made.service is None else ("runuser", "-u", made.service.pw_name, "--")
    return (
        command_line(*as_service, *own, "serve"),
        command_line(*own, "check"),
        command_line(*own, "keys", "create", "alice"),
    )


def _print(outcome: Made) -> None:
    made = outcome.plan
    echo(f"The configuration is {made.path}.")
    if made.credential_file is not None:
        echo(f"The provider's key is in {made.credential_file}.")
    if made.models is not None:
        echo(f"The provider lists {count(made.models, 'model')}.")
    public = made.settings.config.server.public_url or made.address
    if made.admin_password is not None:
        echo(f"\nAdministration is at {public}/admin, for the user 'admin' with the password\n")
        echo(f"  {made.admin_password}")
    echo(f"\nThe first key, {made.key!r}:\n")
    echo(f"  {outcome.key}")
    echo("\nThis is the only time that it is shown: only a hash is kept.")
    serve, check, create = outcome.next
    echo(f"\nStart the gateway:\n\n  {serve}")
    echo(f"\nThen, in another terminal, see whether all is right, and make more keys:\n\n  {check}")
    echo(f"  {create}")
    echo(f"\nHolders find the set-up of their clients at {public}/.")


@contextlib.contextmanager
def _data_folder(made: Plan) -> Iterator[None]:
    """Where the service's database is to be, there is its folder, and it is the service's."""
    folder = made.database.parent
    if made.service is None or folder.exists():
        yield
        return
    folder.mkdir(0o700)
    os.chown(folder, made.service.pw_uid, made.service.pw_gid)
    yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """What would end the process at once interrupts it, as Ctrl-C does: so it can clean up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        # Not an exception from here: in the midst of an event loop it would leave threads behind.
        signal.raise_signal(signal.SIGINT)

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

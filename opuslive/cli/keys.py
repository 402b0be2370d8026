"""``opuslive keys``: hand out keys, change them, take them back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from textwrap import indent
from typing import Any

import click

from opuslive import set_up
from opuslive.cli import completing
from opuslive.cli.control import ControlClient, run
from opuslive.cli.invite import invite, print_link
from opuslive.cli.listing import all_keys
from opuslive.cli.many import (
    change,
    expiry,
    groups_meant,
    keys_argument,
    of_group_option,
    print_warnings,
    which,
)
from opuslive.cli.many import rotate as rotate_many
from opuslive.cli.output import (
    Cell,
    TableColumn,
    all_tokens,
    count_cell,
    echo,
    encoding_of,
    format_count,
    json_option,
    one_line,
    print_fields,
    print_json,
    print_table,
    visible,
    wide_option,
)
from opuslive.cli.raising import limit_lines, limits_text, raise_member, raise_options
from opuslive.cli.standing import causes, print_standing
from opuslive.cli.states import state_cell, state_of
from opuslive.config.files import Settings
from opuslive.errors import OpusLiveError

#: Whose limit is used up → that in a word.

limit_option = click.option(
    "--limit",
    "limits",
    metavar="LIMIT",
    multiple=True,
    help="A limit, such as '60 requests/1m', '2M tokens/5h', '20 usd/month' or '8 concurrent'. "
    "May be given several times; all of them hold.",
)
model_option = click.option(
    "--model",
    "models",
    metavar="GLOB",
    multiple=True,
    help="Models that the key may use, such as 'claude-sonnet-*': * stands for any characters, and "
    "nothing else is special. May be given several times. Default: every model.",
)
expires_option = click.option(
    "--expires",
    metavar="WHEN",
    help="When the key stops working: a span (30d), a day (2026-12-31: its end, UTC) or a time "
    "(2026-12-31T12:00:00Z).",
)
group_option = click.option(
    "--group",
    metavar="NAME",
    shell_complete=completing.groups,
    help="A group of [limits.groups], whose limits the key shares.",
)
key_argument = click.argument("key", shell_complete=completing.keys)


@click.group()
def keys() -> None:
    """Hand out keys, change them, take them back.

    KEY is a key's id, its name or its display prefix. A change takes effect with the next
    request, whether the server runs or not.
    """


@keys.command()
@click.argument("name")
@limit_option
@model_option
@expires_option
@group_option
@click.option(
    "--invite",
    is_flag=True,
    help="Print a link instead of a key: its holder makes the key's secret there, and nobody else "
    "sees it. It works once, for 7 days, and needs [server] public_url.",
)
@json_option
@click.pass_obj
def create(
    load: Callable[[], Settings],
    name: str,
    limits: tuple[str, ...],
    models: tuple[str, ...],
    expires: str | None,
    group: str | None,
    invite: bool,
    as_json: bool,
) -> None:
    """Make a key and print it, this once, with the lines that set its holder's client up.

    NAME is for you to know the key by. It is kept until the key is deleted, and so is the
    group's name: they are the only free text that OpusLive keeps.
    """
    members: dict[str, object] = {"name": name, "models": models}
    if limits:
        members["limits"] = limits
    if expires is not None:
        members["expires"] = expires
    if group is not None:
        members["group"] = group
    if invite:
        members["invite"] = True
    if as_json:
        print_json(run(load, lambda api: api.call("POST", "keys", members=members)))
        return
    if invite:
        print_link(run(load, lambda api: api.call("POST", "keys", members=members)))
        _note_name(name)
        return
    key, usable, base_url = run(load, lambda api: _create(api, members))
    _print_secret(key)
    _note_name(key["name"])
    _print_set_ups(base_url, key["key"], usable)
    print_warnings([key], as_json=False)


@keys.command("list")
@wide_option
@json_option
@click.pass_obj
def list_(load: Callable[[], Settings], wide: bool, as_json: bool) -> None:
    """List all keys, with what they have used so far.

    A key is exhausted while a limit is used up: one of its own, its group's or the gateway's.
    """
    found = run(load, all_keys)
    if as_json:
        print_json(found)
    elif not found:
        echo("There are no keys yet; make one with 'opuslive keys create NAME'.")
    else:
        print_table(
            (
                TableColumn("name", wraps=True),
                TableColumn("id"),
                TableColumn("state", priority=1),
                TableColumn("expires", priority=4),
                TableColumn("limits", priority=3),
                TableColumn("requests", right=True, priority=6),
                TableColumn("tokens", right=True, priority=2),
                TableColumn("last used", priority=5),
            ),
            [
                (
                    one_line(key["name"]),
                    key["id"],
                    state_cell(key),
                    expiry(key),
                    _limits_cell(limit_lines(key)),
                    count_cell(key["usage"]["requests"]),
                    count_cell(all_tokens(key["usage"])),
                    "never" if key["last_used_at"] is None else key["last_used_at"][:10],
                )
                for key in found
            ],
            wide=wide,
        )


@keys.command()
@key_argument
@wide_option
@json_option
@click.pass_obj
def show(load: Callable[[], Settings], key: str, wide: bool, as_json: bool) -> None:
    """Show one key, what it has used so far, and how every limit stands that holds for it."""
    found = run(load, lambda api: api.call("GET", "keys", key))
    _print_key(found, as_json, wide=wide)
    print_warnings([found], as_json=as_json)


@keys.command()
@keys_argument
@click.option("--name", metavar="NAME", help="A new name.")
@limit_option
@click.option(
    "--add-limit",
    "add_limits",
    metavar="LIMIT",
    multiple=True,
    help="Add one limit, or change the amount of the one with the same metric and window.",
)
@click.option(
    "--remove-limit", "remove_limits", metavar="LIMIT", multiple=True, help="Remove one limit."
)
@click.option("--no-limits", is_flag=True, help="Remove all limits.")
@model_option
@click.option("--all-models", is_flag=True, help="Allow every model.")
@expires_option
@click.option("--never-expires", is_flag=True, help="Remove the expiry date.")
@click.option(
    "--group",
    metavar="NAME",
    shell_complete=completing.groups,
    help="Beside KEYs, the group to put them into. Without any KEY, all keys of this group are "
    "changed.",
)
@click.option(
    "--to-group",
    metavar="NAME",
    shell_complete=completing.groups,
    help="The group to put the keys into.",
)
@click.option("--no-group", is_flag=True, help="Take the keys out of their group.")
@raise_options
@json_option
@click.pass_obj
def update(
    load: Callable[[], Settings],
    chosen: tuple[str, ...],
    name: str | None,
    limits: tuple[str, ...],
    add_limits: tuple[str, ...],
    remove_limits: tuple[str, ...],
    no_limits: bool,
    models: tuple[str, ...],
    all_models: bool,
    expires: str | None,
    never_expires: bool,
    group: str | None,
    to_group: str | None,
    no_group: bool,
    raised: str | None,
    span: str | None,
    until: str | None,
    no_raise: bool,
    as_json: bool,
) -> None:
    """Change a key, several, or all of a group (--group without a KEY). What is not named stays as
    it is.

    --limit and --model replace all that the key has; --add-limit and --remove-limit change
    single limits; --raise changes one for a while. What was used so far keeps counting. Of several
    keys all are changed, or none.

    \b
    opuslive keys update alice --raise '4M tokens/5h' --for 1d
    opuslive keys update alice bob --expires 90d
    opuslive keys update --group friends --model 'claude-*'
    """
    of_group, group = groups_meant(chosen, group, to_group, no_group=no_group)
    which(chosen, of_group)
    members: dict[str, object] = {**raise_member(raised, span, until, no_raise)}
    for member, value, clear, nothing in (
        ("limits", limits, no_limits, ()),
        ("models", models, all_models, ()),
        ("expires", expires, never_expires, None),
        ("group", group, no_group, None),
    ):
        if value not in (None, ()) and clear:
            raise click.UsageError(f"Give new {member}, or the option that removes them, not both.")
        if value not in (None, ()) or clear:
            members[member] = nothing if clear else value
    single = {"name": name, "add_limits": add_limits, "remove_limits": remove_limits}
    members |= {member: value for member, value in single.items() if value not in (None, ())}
    if not members:
        raise click.UsageError(
            "Say what to change; 'opuslive keys update --help' shows what can be."
        )
    change(load, chosen, of_group, members, as_json=as_json, print_key=_print_key)


@keys.command()
@keys_argument
@of_group_option
@json_option
@click.pass_obj
def disable(
    load: Callable[[], Settings], chosen: tuple[str, ...], of_group: str | None, as_json: bool
) -> None:
    """Refuse new requests of a key, of several, or of all of a group; running ones finish."""
    members = {"enabled": False}
    change(load, chosen, of_group, members, as_json=as_json, print_key=_print_key)


@keys.command()
@keys_argument
@of_group_option
@json_option
@click.pass_obj
def enable(
    load: Callable[[], Settings], chosen: tuple[str, ...], of_group: str | None, as_json: bool
) -> None:
    """Let a disabled key work again, or several, or all of a group."""
    members = {"enabled": True}
    change(load, chosen, of_group, members, as_json=as_json, print_key=_print_key)


@keys.command()
@keys_argument
@of_group_option
@click.option(
    "--grace",
    metavar="SPAN",
    default="0s",
    help="How long the old secret goes on working, such as 24h. Default: it stops at once.",
)
@json_option
@click.pass_obj
def rotate(
    load: Callable[[], Settings],
    chosen: tuple[str, ...],
    of_group: str | None,
    grace: str,
    as_json: bool,
) -> None:
    """Give a key a new secret and print it, this once. Its id, limits and history stay.

    A grace that is still running ends: only the secret before the new one may go on working. Of
    several keys, or of a group, all get one, or none.
    """
    if len(chosen) != 1 or of_group is not None:
        rotate_many(load, chosen, of_group, grace, as_json=as_json)
        return
    (key,) = chosen
    members = {"grace": grace}
    rotated = run(load, lambda api: api.call("POST", "keys", key, "rotate", members=members))
    if as_json:
        print_json(rotated)
        return
    _print_secret(rotated)
    until = rotated["previous_secret_expires_at"]
    echo(f"\nThe old secret works until {until}." if until else "\nThe old secret is void.")
    print_warnings([rotated], as_json=as_json)


@keys.command()
@key_argument
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
@click.pass_obj
def delete(load: Callable[[], Settings], key: str, yes: bool, as_json: bool) -> None:
    """Delete a key and erase everything held about it. This can't be undone.

    Its running requests are cut. Nothing of it is left in the database; backups made
    earlier keep what they hold.
    """
    if not yes:
        # Between two calls, so that no other command waits for the answer.
        found = run(load, lambda api: api.call("GET", "keys", key))
        question = (
            f"Delete the key {found['name']!r} ({found['prefix']}…) and the records of its "
            f"{format_count(found['usage']['requests'])} requests?"
        )
        click.confirm(visible(question, encoding_of(sys.stderr), lines=False), abort=True, err=True)
        key = found["id"]
    deleted = run(load, lambda api: api.call("DELETE", "keys", key))
    if as_json:
        print_json(deleted)
    else:
        echo(
            f"Deleted the key {deleted['name']!r} and erased "
            f"{format_count(deleted['erased_records'])} records of its usage."
        )
        for shared in deleted["no_longer_counts"]:
            whose = "the gateway" if shared["group"] is None else f"the group {shared['group']!r}"
            echo(
                f"{shared['amount']:,} of the limit of {whose}, {shared['limit']}, no longer count."
            )


def _note_name(name: str) -> None:
    echo(f"\nThe name {name!r} is kept with the key's usage until the key is deleted.")


keys.add_command(invite)


async def _create(api: ControlClient, members: Mapping[str, object]) -> tuple[Any, Any, Any]:
    """A new key, the models that it may use, and where."""
    key = await api.call("POST", "keys", members=members)
    try:
        models = await api.call("GET", "keys", key["id"], "models")
        if api.sandbox is not None:
            return key, models, api.sandbox.address
        # A server from before an upgrade does not tell it.
        return key, models, (await api.call("GET", "status")).get("base_url")
    except OpusLiveError:
        return key, {}, None  # The key is made, and has to be seen.


def _print_set_ups(
    base_url: str | None, credential: str, models: Mapping[str, Sequence[str]]
) -> None:
    """What its holder pastes. ``models``: dialect → those that the key may use."""
    base_url = base_url or "http://HOST:PORT"
    first = {dialect: next(iter(names), None) for dialect, names in models.items()}
    told = set_up.in_terminal(base_url, credential, first)
    for lines in told:
        note = f"{lines.note}\n" if lines.note else ""
        echo(f"\n{lines.client}, {lines.place}:\n{note}\n{indent(lines.text, '  ')}")
    if told:
        echo(f"\nFor PowerShell, settings.json, SDKs, the AI SDK and curl:\n\n  {base_url}/")


def _print_secret(key: Any) -> None:
    echo(key["key"])
    echo("\nThis is the only time the key is shown: only a hash of it is kept.")


def _print_key(key: Any, as_json: bool, *, wide: bool = False) -> None:
    if as_json:
        print_json(key)
        return
    usage = key["usage"]
    state = state_of(key)
    if why := causes(key["exhausted_by"]):
        state += f" by {why}"
    requests, refusals = format_count(usage["requests"]), format_count(usage["refusals"])
    fields = {
        "name": key["name"],
        "id": key["id"],
        "prefix": key["prefix"],
        "state": state,
        "group": key["group"] or "none",
        "created": key["created_at"],
        "expires": expiry(key, whole=True),
        "models": ", ".join(key["models"]) or "all",
        "limits": limits_text(key) or "none",
        "last used": key["last_used_at"] or "never",
        "requests": f"{requests}, and {refusals} refused",
        "input tokens": format_count(usage["input_tokens"]),
        "output tokens": format_count(usage["output_tokens"]),
        "cache reads": format_count(usage["cache_read_tokens"]),
        "cache writes": format_count(usage["cache_write_tokens"]),
    }
    if key["previous_secret_expires_at"]:
        fields["old secret until"] = key["previous_secret_expires_at"]
    if key["invitation_expires_at"]:
        fields["invitation until"] = key["invitation_expires_at"]
    print_fields(fields)
    print_standing(key["standing"], wide=wide)


def _limits_cell(limits: Sequence[str]) -> Cell:
    return Cell(
        "\n".join(limits) or "none",
        "none" if not limits else f"{len(limits)} limit{'' if len(limits) == 1 else 's'}",
    )

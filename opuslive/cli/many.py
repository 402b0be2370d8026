"""Commands that change several keys at once: those that are named, or all of a group.

All of them are changed, or none; there is one answer. With one key's name the answer is that key,
else it is a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from opuslive.cli import completing
from opuslive.cli.control import run
from opuslive.cli.output import TableColumn, echo, print_json, print_table
from opuslive.cli.raising import limit_lines
from opuslive.cli.states import state_cell
from opuslive.config.files import Settings
from opuslive.quantities import format_when, parse_when

keys_argument = click.argument(
    "chosen", metavar="[KEY]...", nargs=-1, shell_complete=completing.keys
)
of_group_option = click.option(
    "--group",
    "of_group",
    metavar="NAME",
    shell_complete=completing.groups,
    help="All keys of this group, in place of KEYs.",
)


def which(chosen: Sequence[str], of_group: str | None) -> Mapping[str, object]:
    """The members of the API that say which keys are meant. Raises click.UsageError."""
    if chosen and of_group is not None:
        raise click.UsageError("Name KEYs or give --group, not both.")
    if of_group is not None:
        return {"group": of_group}
    if not chosen:
        raise click.UsageError("Name a KEY or several, or a group of keys with --group.")
    return {"keys": chosen}


def groups_meant(
    chosen: Sequence[str], group: str | None, to_group: str | None, *, no_group: bool
) -> tuple[str | None, str | None]:
    """Of ``keys update``: the group whose keys are changed, and the one that keys are put into.

    ``--group`` is the latter beside KEYs, and else the former. Raises click.UsageError.
    """
    of_group, into = (None, group) if chosen else (group, None)
    if into is not None and to_group is not None:
        raise click.UsageError(
            "Beside KEYs, --group and --to-group say the same; give one of them."
        )
    into = to_group if into is None else into
    if into is not None and no_group:
        raise click.UsageError("Give new group, or the option that removes them, not both.")
    return of_group, into


def change(
    load: Callable[[], Settings],
    chosen: Sequence[str],
    of_group: str | None,
    members: Mapping[str, object],
    *,
    as_json: bool,
    print_key: Callable[[Any, bool], object],
) -> None:
    """Change the keys, and print them; one that is named alone as ``print_key`` does."""
    meant = which(chosen, of_group)
    if len(chosen) == 1:
        key = run(load, lambda api: api.call("PATCH", "keys", chosen[0], members=members))
        print_key(key, as_json)
        print_warnings([key], as_json=as_json)
        return
    body = {**meant, "changes": members}
    changed = run(load, lambda api: api.call("PATCH", "keys", members=body))
    if as_json:
        print_json(changed)
        return
    keys = changed["items"]
    print_keys(keys)
    several = len(keys) > 1
    echo(f"\n{len(keys):,} keys were changed together." if several else "\nOne key was changed.")
    print_warnings(keys, as_json=as_json)


def rotate(
    load: Callable[[], Settings],
    chosen: Sequence[str],
    of_group: str | None,
    grace: str,
    *,
    as_json: bool,
) -> None:
    """Give several keys new secrets, and print these, this once."""
    body = {**which(chosen, of_group), "grace": grace}
    rotated = run(load, lambda api: api.call("POST", "rotations", members=body))
    if as_json:
        print_json(rotated)
        return
    keys = rotated["items"]
    for key in keys:
        # Each in a line of its own, whole, whatever the width.
        echo(f"{key['name']!r} ({key['id']}):\n  {key['key']}")
    echo("\nThis is the only time the keys are shown: only hashes of them are kept.")
    until = keys[0]["previous_secret_expires_at"]
    echo(f"The old secrets work until {until}." if until else "The old secrets are void.")
    print_warnings(keys, as_json=as_json)


def print_keys(keys: Iterable[Mapping[str, Any]], *, wide: bool = False) -> None:
    """Print one key a line, with what can be changed of several at once."""
    print_table(
        (
            TableColumn("name", wraps=True),
            TableColumn("id"),
            TableColumn("state", priority=1),
            TableColumn("group", wraps=True, priority=2, least=8),
            TableColumn("expires", priority=3),
            TableColumn("limits", priority=4),
        ),
        [
            (
                key["name"],
                key["id"],
                state_cell(key),
                key["group"] or "none",
                expiry(key),
                "\n".join(limit_lines(key)) or "none",
            )
            for key in keys
        ],
        wide=wide,
    )


def expiry(key: Mapping[str, Any], *, whole: bool = False) -> str:
    """The day on which the key expires, or the ``whole`` moment, marked if that is soon."""
    if key["expires_at"] is None:
        return "never"
    when = format_when(parse_when(key["expires_at"], 0))
    return f"{when if whole else when[:10]}{' (soon)' if key['expires_soon'] else ''}"


def print_warnings(answers: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print what is worth a look, each once; in JSON it stands with the rest."""
    if not as_json:
        for warning in dict.fromkeys(text for each in answers for text in each.get("warnings", ())):
            echo(f"Note: {warning}", err=True)

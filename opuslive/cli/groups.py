"""``opuslive groups``: the groups of keys that share limits, and how those stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from opuslive.cli import completing
from opuslive.cli.control import ControlClient, run
from opuslive.cli.listing import all_keys
from opuslive.cli.many import print_keys, print_warnings
from opuslive.cli.output import (
    Cell,
    TableColumn,
    count_cell,
    echo,
    format_count,
    json_option,
    one_line,
    print_fields,
    print_json,
    print_table,
    wide_option,
)
from opuslive.cli.standing import print_standing
from opuslive.config.files import Settings

#: Names that no path can have: those of this folder and of the one above it.
_NO_PATH = (".", "..")


@click.group()
def groups() -> None:
    """See the groups of keys that share limits, and how those limits stand.

    A group has the limits that [limits.groups] of the configuration gives it. 'opuslive keys update
    KEY --group NAME' puts a key into one.
    """


@groups.command("list")
@wide_option
@json_option
@click.pass_obj
def list_(load: Callable[[], Settings], wide: bool, as_json: bool) -> None:
    """List all groups: those of the configuration, and those that keys are in."""
    found = run(load, lambda api: api.call("GET", "groups"))["items"]
    if as_json:
        print_json(found)
        return
    if not found:
        echo(
            "There are no groups yet; give one limits in [limits.groups] of the configuration, and "
            "put keys into it with 'opuslive keys update KEY --group NAME'."
        )
        return
    print_table(
        (
            TableColumn("group", wraps=True),
            TableColumn("keys", right=True),
            TableColumn("expire soon", right=True, priority=3),
            TableColumn("used", right=True, priority=1),
            TableColumn("of its fullest limit", priority=2),
        ),
        [_row(group) for group in found],
        wide=wide,
    )
    print_warnings(found, as_json=as_json)


@groups.command()
@click.argument("name", shell_complete=completing.groups)
@wide_option
@json_option
@click.pass_obj
def show(load: Callable[[], Settings], name: str, wide: bool, as_json: bool) -> None:
    """Show one group: how its limits stand, and its keys."""
    group, members = run(load, lambda api: _group(api, name))
    if as_json:
        print_json({**group, "members": members})
        return
    print_fields(
        {
            "group": one_line(group["name"]),
            "keys": format_count(group["keys"]),
            "expire soon": format_count(group["expiring_soon"]),
            "limits": ", ".join(limit["limit"] for limit in group["limits"]) or "none",
        }
    )
    print_standing(group["limits"], wide=wide)
    if members:
        echo("")
        print_keys(members, wide=wide)
    print_warnings([group], as_json=as_json)


async def _group(api: ControlClient, name: str) -> tuple[Any, list[Any]]:
    if name in _NO_PATH:
        (group,) = (await api.call("GET", "groups", query={"name": name}))["items"]
    else:
        group = await api.call("GET", "groups", name)
    return group, await all_keys(api, group=name)


def _row(group: Mapping[str, Any]) -> Sequence[str | Cell]:
    fullest = max(group["limits"], key=_fullness, default=None)
    return (
        one_line(group["name"]),
        count_cell(group["keys"]),
        count_cell(group["expiring_soon"]),
        "" if fullest is None else f"{int(100 * _fullness(fullest))} %",
        "no limits" if fullest is None else fullest["limit"],
    )


def _fullness(limit: Mapping[str, Any]) -> float:
    return float((limit["used"] + limit["reserved"]) / limit["max"])

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
    TableColumn,
    echo,
    format_count,
    json_option,
    print_fields,
    print_json,
    print_table,
)
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
@json_option
@click.pass_obj
def list_(load: Callable[[], Settings], as_json: bool) -> None:
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
            TableColumn("expire soon", right=True),
            TableColumn("used", right=True),
            TableColumn("of its fullest limit", wraps=True),
        ),
        [_row(group) for group in found],
    )
    print_warnings(found, as_json=as_json)


@groups.command()
@click.argument("name", shell_complete=completing.groups)
@json_option
@click.pass_obj
def show(load: Callable[[], Settings], name: str, as_json: bool) -> None:
    """Show one group: how its limits stand, and its keys."""
    group, members = run(load, lambda api: _group(api, name))
    if as_json:
        print_json({**group, "members": members})
        return
    print_fields(
        {
            "group": group["name"],
            "keys": format_count(group["keys"]),
            "expire soon": format_count(group["expiring_soon"]),
            "limits": ", ".join(limit["limit"] for limit in group["limits"]) or "none",
        }
    )
    if group["limits"]:
        echo("")
        print_limits(group["limits"])
    if members:
        echo("")
        print_keys(members)
    print_warnings([group], as_json=as_json)


async def _group(api: ControlClient, name: str) -> tuple[Any, list[Any]]:
    if name in _NO_PATH:
        (group,) = (await api.call("GET", "groups", query={"name": name}))["items"]
    else:
        group = await api.call("GET", "groups", name)
    return group, await all_keys(api, group=name)


def _row(group: Mapping[str, Any]) -> Sequence[str]:
    fullest = max(group["limits"], key=_fullness, default=None)
    return (
        group["name"],
        format_count(group["keys"]),
        format_count(group["expiring_soon"]),
        "" if fullest is None else f"{int(100 * _fullness(fullest))} %",
        "no limits" if fullest is None else fullest["limit"],
    )


def _fullness(limit: Mapping[str, Any]) -> float:
    return float((limit["used"] + limit["reserved"]) / limit["max"])


def print_limits(limits: Sequence[Mapping[str, Any]]) -> None:
    """Print how limits stand, one a line."""
    print_table(
        (
            TableColumn("limit"),
            TableColumn("used", right=True),
            TableColumn("left", right=True),
            TableColumn("reserved", right=True),
            TableColumn("more frees"),
        ),
        [
            (
                limit["limit"],
                f"{limit['used']:,}",
                f"{limit['remaining']:,}",
                f"{limit['reserved']:,}",
                limit["frees_at"] or "",
            )
            for limit in limits
        ],
    )

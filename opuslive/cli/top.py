"""``opuslive top``: a live view of the running server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from opuslive.cli.control import ControlClient, run
from opuslive.cli.output import (
    TableColumn,
    console,
    format_count,
    format_short_count,
    json_option,
    print_json,
    table_of,
)
from opuslive.config.files import Settings
from opuslive.config.reader import Place, duration
from opuslive.errors import UsageError

#: Seconds between two looks, at least and at most.
_LEAST, _MOST = 0.2, 3600.0
#: A limit is near from so many percent on.
_NEAR = 80
#: Lines that are no keys: of the head, of each table, and the one that the cursor is in.
_OTHER_LINES = 7


@click.command()
@click.option("--once", is_flag=True, help="Print one view and end. Default without a terminal.")
@click.option("--every", metavar="SPAN", default="2s", help="Time between two looks. Default: 2s.")
@json_option
@click.pass_obj
def top(load: Callable[[], Settings], once: bool, every: str, as_json: bool) -> None:
    """Show what goes on: requests, upstreams, the busiest keys and how full their limits are.

    Figures a minute are of the last minute. Ctrl-C ends it.
    """
    pause = duration(_LEAST, _MOST)(every, Place("--every"))
    if as_json or once or not console().is_terminal:
        activity = run(load, _look)
        if as_json:
            print_json(activity)
        else:
            console().print(_view(activity, None))
        return
    with contextlib.suppress(KeyboardInterrupt):
        run(load, lambda api: _watch(api, pause))


async def _look(api: ControlClient) -> Any:
    if api.own:
        raise UsageError("No server runs on this database; start one with 'opuslive serve'.")
    return await api.call("GET", "activity")


async def _watch(api: ControlClient, pause: float) -> None:
    screen = console()
    with Live(console=screen, screen=True, auto_refresh=False) as live:
        while True:
            view = _view(await _look(api), screen.size.height)
            live.update(view, refresh=True)
            await asyncio.sleep(pause)


def _view(activity: Mapping[str, Any], height: int | None) -> RenderableType:
    """What is shown; in so many lines, if they are counted."""
    upstreams, keys = activity["upstreams"], activity["keys"]
    if height is not None:
        keys = keys[: max(0, height - _OTHER_LINES - len(upstreams))]
    parts: list[RenderableType] = [_head(activity), Text()]
    if upstreams:
        parts += [table_of(_UPSTREAM_COLUMNS, list(map(_upstream_row, upstreams))), Text()]
    if keys:
        parts.append(table_of(_KEY_COLUMNS, list(map(_key_row, keys))))
    else:
        parts.append(Text("No key was used within the last minute.", style="dim"))
    return Group(*parts)


def _head(activity: Mapping[str, Any]) -> Text:
    def words() -> Iterator[str]:
        yield f"{format_count(activity['in_flight'])} in flight"
        yield f"{format_count(activity['waiting'])} waiting"
        yield f"{format_short_count(activity['requests_per_minute'])} requests a minute"
        yield f"{format_short_count(activity['tokens_per_minute'])} tokens a minute"

    return Text("  ".join(words()), style="bold")


_UPSTREAM_COLUMNS = (
    TableColumn("upstream", wraps=True),
    TableColumn("state"),
    TableColumn("last failure", wraps=True),
)
_KEY_COLUMNS = (
    TableColumn("key", wraps=True),
    TableColumn("id"),
    TableColumn("requests/min", right=True),
    TableColumn("tokens/min", right=True),
    TableColumn("tightest limit"),
    TableColumn("full", right=True),
)


def _upstream_row(upstream: Mapping[str, Any]) -> Sequence[str]:
    failure = upstream["last_failure"]
    state = upstream["state"].replace("_", " ")
    return upstream["name"], state, failure or ""


def _key_row(key: Mapping[str, Any]) -> Sequence[str]:
    tightest = key["tightest"]
    limit, full = "none", ""
    if tightest is not None:
        limit = tightest["limit"]
        mark = "!" if tightest["percent"] >= _NEAR else ""
        full = f"{mark}{tightest['percent']}%"
    return (
        key["name"],
        key["id"],
        format_count(key["requests_per_minute"]),
        format_short_count(key["tokens_per_minute"]),
        limit,
        full,
    )

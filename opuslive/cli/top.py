"""``opuslive top``: a live view of the running server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from opuslive.cli.control import ControlClient, run
from opuslive.cli.output import (
    Cell,
    TableColumn,
    console,
    count_cell,
    format_count,
    format_short_count,
    json_option,
    one_line,
    print_json,
    table_of,
    wide_option,
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
@wide_option
@json_option
@click.pass_obj
def top(load: Callable[[], Settings], once: bool, every: str, wide: bool, as_json: bool) -> None:
    """Show what goes on: requests, upstreams, the busiest keys and how full their limits are.

    Figures a minute are of the last minute. Ctrl-C ends it. --wide prints one view.
    """
    pause = duration(_LEAST, _MOST)(every, Place("--every"))
    if as_json or once or wide or not console().is_terminal:
        activity = run(load, _look)
        if as_json:
            print_json(activity)
        else:
            screen = console(wide=wide)
            screen.print(_view(activity, screen.width, None))
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
            view = _view(await _look(api), screen.width, screen.size.height)
            live.update(view, refresh=True)
            await asyncio.sleep(pause)


def _view(activity: Mapping[str, Any], width: int, height: int | None) -> RenderableType:
    """What is shown on so many columns; in so many lines, if they are counted."""
    upstreams, keys = activity["upstreams"], activity["keys"]
    if height is not None:
        keys = keys[: max(0, height - _OTHER_LINES - len(upstreams))]
    parts: list[RenderableType] = [_head(activity), Text()]
    if upstreams:
        parts += [_table(_UPSTREAM_COLUMNS, map(_upstream_row, upstreams), width), Text()]
    if keys:
        parts.append(_table(_KEY_COLUMNS, map(_key_row, keys), width))
    else:
        parts.append(Text("No key was used within the last minute.", style="dim"))
    return Group(*parts)


def _table(
    columns: Sequence[TableColumn], rows: Iterable[Sequence[str | Cell]], width: int
) -> Table:
    table, _ = table_of(columns, list(rows), width=width)
    return table


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
    TableColumn("last failure", wraps=True, priority=1),
)
_KEY_COLUMNS = (
    TableColumn("key", wraps=True),
    TableColumn("id", priority=4),
    TableColumn("requests/min", right=True, priority=2),
    TableColumn("tokens/min", right=True, priority=1),
    TableColumn("tightest own limit", priority=3),
    TableColumn("full", right=True),
)


def _upstream_row(upstream: Mapping[str, Any]) -> Sequence[str]:
    failure = upstream["last_failure"]
    state = upstream["state"].replace("_", " ")
    return one_line(upstream["name"]), state, failure or ""


def _key_row(key: Mapping[str, Any]) -> Sequence[str | Cell]:
    tightest = key["tightest"]
    limit, full = "none", ""
    if tightest is not None:
        limit = tightest["limit"]
        mark = "!" if tightest["percent"] >= _NEAR else ""
        full = f"{mark}{tightest['percent']}%"
    return (
        one_line(key["name"]),
        key["id"],
        count_cell(key["requests_per_minute"]),
        count_cell(key["tokens_per_minute"]),
        limit,
        full,
    )

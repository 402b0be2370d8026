"""``opuslive usage``: who used what."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from rich.cells import cell_len

from opuslive.cli.control import run
from opuslive.cli.output import (
    TableColumn,
    bar,
    console,
    json_option,
    print_json,
    print_table,
    rough,
)
from opuslive.config.files import Settings
from opuslive.web.admin.schemas import BY_KEY, REPORTS

#: Characters of the longest bar, where there is room for it, and of one that is still of use.
BAR_WIDTH = 24
LEAST_BAR = 4
#: What a label takes of a line at most before it gives way to bars, and between two columns.
LABEL_WIDTH = 24
GAP = 2


@click.command()
@click.argument("key", required=False)
@click.option(
    "--since",
    metavar="WHEN",
    default="7d",
    help="From when on: a span back from now (7d), a day (2026-01-31, UTC) or a time. "
    "Widened to whole hours. Default: 7d.",
)
@click.option(
    "--by",
    type=click.Choice(REPORTS),
    help="What a row is of. Default: key, or day for a single key.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("table", "json", "csv")),
    default="table",
    help="How to print it. Default: table.",
)
@json_option
@click.pass_obj
def usage(
    load: Callable[[], Settings],
    key: str | None,
    since: str,
    by: str | None,
    form: str,
    as_json: bool,
) -> None:
    """Show what was used, by all keys or by one.

    KEY is a key's id, its name or its display prefix.
    """
    query = {"since": since, "by": by or (BY_KEY if key is None else "day")}
    if key is not None:
        query["key"] = key
    report = run(load, lambda api: api.call("GET", "usage", query=query))
    if as_json or form == "json":
        print_json(report)
    elif form == "csv":
        _print_csv(report)
    else:
        _print_table(report)


def _print_csv(report: Any) -> None:
    by = report["by"]
    columns = [by, *(["name"] if by == BY_KEY else []), *report["totals"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(report["series"])
    click.echo(text.getvalue(), nl=False)


def _print_table(report: Any) -> None:
    by, series, totals = report["by"], report["series"], report["totals"]
    whose = "" if report["key"] is None else f" of the key {report['key']['name']!r}"
    if not series:
        click.echo(f"Nothing was used since {report['since']}{whose}.")
        return
    click.echo(f"Usage{whose} from {report['since']} to {report['until']}\n")
    figures = {
        heading: value
        for heading, value in _FIGURES.items()
        if heading not in _LEFT_OUT_IF_NONE or value(totals)
    }
    rows = [[_label(row, by), *(rough(value(row)) for value in figures.values())] for row in series]
    total = ["total", *(rough(value(totals)) for value in figures.values())]
    columns = [
        TableColumn(by, wraps=True),
        *(TableColumn(heading, right=True) for heading in figures),
    ]
    if totals["usd"] is not None:
        columns.append(TableColumn("usd", right=True))
        for cells, row in zip([*rows, total], [*series, totals], strict=True):
            cells.append(_usd(row["usd"]))
    width = _room_for_bars(columns, [*rows, total])
    if width:
        columns.append(TableColumn("", style="cyan"))
        most = max(_tokens(row) for row in series)
        for cells, row in zip(rows, series, strict=True):
            cells.append(bar(_tokens(row), most, width=width))
        total.append("")
    print_table(columns, rows, total)


def _room_for_bars(columns: Sequence[TableColumn], rows: Sequence[Sequence[str]]) -> int:
    """How wide the bars may be, so that figures stay whole on a narrow terminal."""
    label, *widths = (
        max(
            *(len(line) for line in column.heading.split("\n")),
            *(cell_len(row[at]) for row in rows),
        )
        for at, column in enumerate(columns)
    )
    room = console().width - min(label, LABEL_WIDTH) - sum(GAP + width for width in widths) - GAP
    return 0 if room < LEAST_BAR else min(room, BAR_WIDTH)


def _label(row: Any, by: str) -> str:
    """What a row is of, in words."""
    if by == BY_KEY:
        return str(row["name"])
    if by == "hour":
        return f"{row['hour'][:10]} {row['hour'][11:16]}"
    # Of a model that the gateway does not know, the name is not kept.
    return str(row[by] or "(not kept)")


def _usd(amount: float | None) -> str:
    """In cents; of what has no price nothing, and of what costs less than a cent that it does."""
    if amount is None:
        return ""
    return "<0.01" if 0 < amount < 0.01 else f"{amount:,.2f}"


def _tokens(members: Any) -> int:
    return sum(number for name, number in members.items() if name.endswith("_tokens"))


#: The columns of the table by their headings, and what stands in them.
_FIGURES: Mapping[str, Callable[[Any], int]] = {
    "requests": lambda members: members["requests"],
    "refused": lambda members: members["refusals"],
    "input": lambda members: members["input_tokens"],
    "output": lambda members: members["output_tokens"],
    "cache\nreads": lambda members: members["cache_read_tokens"],
    "cache\nwrites": lambda members: members["cache_write_tokens"],
    "tokens": _tokens,
}
_LEFT_OUT_IF_NONE = ("refused", "cache\nreads", "cache\nwrites")

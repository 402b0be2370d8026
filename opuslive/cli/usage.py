"""``opuslive usage``: who used what."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click
from rich.cells import cell_len

from opuslive.administration.reports import BY_KEY, REPORTS
from opuslive.cli import completing
from opuslive.cli.control import run
from opuslive.cli.output import (
    TableColumn,
    all_tokens,
    bar,
    console,
    echo,
    encoding_of,
    format_short_count,
    json_option,
    print_csv,
    print_json,
    print_table,
    visible,
)
from opuslive.config.files import Settings
from opuslive.usage import csv_row

#: Widths in characters. Bars narrower than the minimum are left out.
MAX_BAR_WIDTH = 24
MIN_BAR_WIDTH = 4
#: A label longer than this wraps, to leave room for bars.
MAX_LABEL_WIDTH = 24
COLUMN_GAP = 2


@click.command()
@click.argument("key", required=False, shell_complete=completing.keys)
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
    help="One row for each of these. Default: key, or day for a single key.",
)
@click.option(
    "--format",
    "output_format",
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
    output_format: str,
    as_json: bool,
) -> None:
    """Show what was used, by all keys or by one.

    KEY is a key's id, its name or its display prefix.
    """
    query = {"since": since, "by": by or (BY_KEY if key is None else "day")}
    if key is not None:
        query["key"] = key
    report = run(load, lambda api: api.call("GET", "usage", query=query))
    if as_json or output_format == "json":
        print_json(report)
    elif output_format == "csv":
        print_csv(_csv_text(report))
    else:
        _print_table(report)


def _csv_text(report: Any) -> str:
    by = report["by"]
    columns = [by, *(["name"] if by == BY_KEY else []), *report["totals"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(csv_row, report["series"]))
    return text.getvalue()


def _print_table(report: Any) -> None:
    by, series, totals = report["by"], report["series"], report["totals"]
    whose = "" if report["key"] is None else f" of the key {report['key']['name']!r}"
    if not series:
        echo(f"Nothing was used since {report['since']}{whose}.")
        return
    echo(f"Usage{whose} from {report['since']} to {report['until']}\n")
    counts = {
        heading: count_of
        for heading, count_of in _COUNT_COLUMNS.items()
        if heading not in _HIDDEN_IF_ZERO or count_of(totals)
    }

    def cells_of(label: str, members: Any) -> list[str]:
        return [label, *(format_short_count(count_of(members)) for count_of in counts.values())]

    rows = [cells_of(_label(row, by), row) for row in series]
    total = cells_of("total", totals)
    columns = [
        TableColumn(by, wraps=True),
        *(TableColumn(heading, right=True) for heading in counts),
    ]
    if totals["usd"] is not None:
        columns.append(TableColumn("usd", right=True))
        for cells, row in zip([*rows, total], [*series, totals], strict=True):
            cells.append(_usd(row["usd"]))
    width = _bar_width(columns, [*rows, total])
    if width:
        columns.append(TableColumn("", style="cyan"))
        most = max(all_tokens(row) for row in series)
        for cells, row in zip(rows, series, strict=True):
            cells.append(bar(all_tokens(row), most, width=width))
        total.append("")
    print_table(columns, rows, total)


def _bar_width(columns: Sequence[TableColumn], rows: Sequence[Sequence[str]]) -> int:
    """The width of the longest bar, in characters; 0 if the other columns leave no room."""
    label, *widths = (
        max(
            *(len(line) for line in column.heading.split("\n")),
            *(cell_len(row[at]) for row in rows),
        )
        for at, column in enumerate(columns)
    )
    taken = min(label, MAX_LABEL_WIDTH) + sum(widths) + COLUMN_GAP * (len(widths) + 1)
    room = console().width - taken
    return 0 if room < MIN_BAR_WIDTH else min(room, MAX_BAR_WIDTH)


def _label(row: Any, by: str) -> str:
    """The first cell of a row: a key's name, a day, an hour or a model."""
    if by == BY_KEY:
        return _one_line(row["name"])
    if by == "hour":
        return f"{row['hour'][:10]} {row['hour'][11:16]}"
    # The name of a model that the gateway does not know is not kept.
    return _one_line(row[by] or "(not kept)")


def _one_line(name: str) -> str:
    """A name that somebody chose, whatever is in it."""
    return visible(name, encoding_of(sys.stdout), lines=False)


def _usd(amount: float | None) -> str:
    """The amount to the cent, ``<0.01`` below; nothing if a model has no price."""
    if amount is None:
        return ""
    return "<0.01" if 0 < amount < 0.01 else f"{amount:,.2f}"


#: Heading of a column → its count, from the members of a row or of the totals.
_COUNT_COLUMNS: Mapping[str, Callable[[Any], int]] = MappingProxyType(
    {
        "requests": lambda members: members["requests"],
        "refused": lambda members: members["refusals"],
        "input": lambda members: members["input_tokens"],
        "output": lambda members: members["output_tokens"],
        "cache\nreads": lambda members: members["cache_read_tokens"],
        "cache\nwrites": lambda members: members["cache_write_tokens"],
        "tokens": all_tokens,
    }
)
_HIDDEN_IF_ZERO = ("refused", "cache\nreads", "cache\nwrites")

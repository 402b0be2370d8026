"""``opuslive usage``: who used what."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import click

from opuslive.cli import completing
from opuslive.cli.control import run
from opuslive.cli.output import (
    Bar,
    Cell,
    TableColumn,
    all_tokens,
    count_cell,
    echo,
    json_option,
    one_line,
    print_csv,
    print_json,
    print_table,
    wide_option,
)
from opuslive.cli.standing import print_standing
from opuslive.config.files import Settings
from opuslive.usage import csv_row
from opuslive.web.admin.schemas import BY_KEY, REPORTS


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
    help="How to print it. Default: table.",
)
@wide_option
@json_option
@click.pass_obj
def usage(
    load: Callable[[], Settings],
    key: str | None,
    since: str,
    by: str | None,
    output_format: str | None,
    wide: bool,
    as_json: bool,
) -> None:
    """Show what was used, by all keys or by one.

    KEY is a key's id, its name or its display prefix.
    """
    if as_json and output_format not in (None, "json"):
        raise click.UsageError(f"Give --json or --format {output_format}, not both.")
    query = {"since": since, "by": by or (BY_KEY if key is None else "day")}
    if key is not None:
        query["key"] = key
    report = run(load, lambda api: api.call("GET", "usage", query=query))
    if as_json or output_format == "json":
        print_json(report)
    elif output_format == "csv":
        print_csv(_csv_text(report))
    else:
        _print_table(report, wide=wide)


def _csv_text(report: Any) -> str:
    by = report["by"]
    columns = [by, *(["name"] if by == BY_KEY else []), *report["totals"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(csv_row, report["series"]))
    return text.getvalue()


def _print_table(report: Any, *, wide: bool) -> None:
    by, series, totals = report["by"], report["series"], report["totals"]
    whose = "" if report["key"] is None else f" of the key {report['key']['name']!r}"
    if not series:
        echo(f"Nothing was used since {report['since']}{whose}.")
        print_standing(report["limits"], wide=wide)
        return
    echo(f"Usage{whose} from {report['since']} to {report['until']}\n")
    counts = {
        column: count_of
        for column, count_of in _COUNT_COLUMNS.items()
        if column.heading not in _HIDDEN_IF_ZERO or count_of(totals)
    }
    columns = [TableColumn(by, wraps=True), *counts]
    with_cost = totals["usd"] is not None
    if with_cost:
        columns.append(_COST_COLUMN)
    most = max(all_tokens(row) for row in series)

    def cells_of(label: str, members: Any) -> list[str | Cell | Bar]:
        counted = [count_cell(count_of(members)) for count_of in counts.values()]
        return [label, *counted, *([_usd(members["usd"])] if with_cost else [])]

    print_table(
        [*columns, TableColumn("", style="cyan", bars=True)],
        [[*cells_of(_label(row, by), row), Bar(all_tokens(row), most)] for row in series],
        [*cells_of("total", totals), ""],
        wide=wide,
    )
    print_standing(report["limits"], wide=wide)


def _label(row: Any, by: str) -> str:
    """The first cell of a row: a key's name, a day, an hour or a model."""
    if by == BY_KEY:
        return one_line(row["name"])
    if by == "hour":
        return f"{row['hour'][:10]} {row['hour'][11:16]}"
    # The name of a model that the gateway does not know is not kept.
    return one_line(row[by] or "(not kept)")


def _usd(amount: float | None) -> str:
    """The amount to the cent, ``<0.01`` below; nothing if a model has no price."""
    if amount is None:
        return ""
    return "<0.01" if 0 < amount < 0.01 else f"{amount:,.2f}"


#: A column → its count, from the members of a row or of the totals.
_COUNT_COLUMNS: Mapping[TableColumn, Callable[[Any], int]] = MappingProxyType(
    {
        TableColumn("requests", right=True, priority=1): lambda members: members["requests"],
        TableColumn("refused", right=True, priority=4): lambda members: members["refusals"],
        TableColumn("input", right=True, priority=3): lambda members: members["input_tokens"],
        TableColumn("output", right=True, priority=3): lambda members: members["output_tokens"],
        TableColumn("cache\nreads", right=True, priority=5): (
            lambda members: members["cache_read_tokens"]
        ),
        TableColumn("cache\nwrites", right=True, priority=5): (
            lambda members: members["cache_write_tokens"]
        ),
        TableColumn("tokens", right=True): all_tokens,
    }
)
_COST_COLUMN = TableColumn("usd", right=True, priority=2)
_HIDDEN_IF_ZERO = ("refused", "cache\nreads", "cache\nwrites")

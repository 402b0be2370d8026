"""``opuslive usage``: who used what."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click

from opuslive.administration.report_kinds import BY_KEY, REPORTS
from opuslive.cli import completing
from opuslive.cli.control import run
from opuslive.cli.many import print_warnings
from opuslive.cli.outcomes import (
    name_before,
    percent,
    print_comparison,
    print_outcomes,
    print_summary,
)
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
from opuslive.latencies import Latencies, format_latency
from opuslive.usage import csv_row


@click.command()
@click.argument("key", required=False, shell_complete=completing.keys)
@click.option(
    "--since",
    metavar="WHEN",
    default="7d",
    help="From when on: today, week or month (UTC), a span back from now (7d), a day (2026-01-31) "
    "or a time. Widened to whole hours. Default: 7d.",
)
@click.option("--until", metavar="WHEN", help="Until when; of a day, its end. Default: now.")
@click.option(
    "--by",
    type=click.Choice(REPORTS),
    help="One row for each of these; status is how requests ended. Default: key, or day for a "
    "single key.",
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
    until: str | None,
    by: str | None,
    output_format: str | None,
    wide: bool,
    as_json: bool,
) -> None:
    """Show what was used, by all keys or by one, and how that compares with the time before.

    KEY is a key's id, its name or its display prefix.

    \b
    The month so far, by group:         opuslive usage --since month --by group
    What went wrong yesterday and now:  opuslive usage --since 1d --by status
    """
    if as_json and output_format not in (None, "json"):
        raise click.UsageError(f"Give --json or --format {output_format}, not both.")
    query = {"since": since, "by": by or (BY_KEY if key is None else "day"), "compare": "true"}
    if key is not None:
        query["key"] = key
    if until is not None:
        query["until"] = until
    report = run(load, lambda api: api.call("GET", "usage", query=query))
    if as_json or output_format == "json":
        print_json(report)
    elif output_format == "csv":
        print_csv(_csv_text(report))
    else:
        _print_table(report, before=name_before(since, report), wide=wide)
        print_warnings([report], as_json=False)


def _csv_text(report: Any) -> str:
    by = report["by"]
    figures = [name for name in report["totals"] if by == "model" or name not in _LATENCIES]
    columns = [by, *(["name"] if by == BY_KEY else []), *figures]
    if by == "status":
        columns = [by, "requests", "share"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(csv_row, report["series"]))
    return text.getvalue()


def _print_table(report: Any, *, before: str, wide: bool) -> None:
    by, series, totals = report["by"], report["series"], report["totals"]
    whose = "" if report["key"] is None else f" of the key {report['key']['name']!r}"
    if not series:
        echo(f"Nothing was used since {report['since']}{whose}.")
        print_comparison(report["comparison"], before)
        print_standing(report["limits"], wide=wide)
        return
    echo(f"Usage{whose} from {report['since']} to {report['until']}\n")
    if by == "status":
        print_outcomes(series, wide=wide)
    else:
        _print_series(by, series, totals, wide=wide)
    print_summary(totals)
    print_comparison(report["comparison"], before)
    print_standing(report["limits"], wide=wide)


def _print_series(by: str, series: Sequence[Any], totals: Any, *, wide: bool) -> None:
    counts = {
        column: count_of
        for column, count_of in _COUNT_COLUMNS.items()
        if column.heading not in _HIDDEN_IF_ZERO or count_of(totals)
    }
    columns = [TableColumn(by, wraps=True), *counts]
    with_cost = totals["usd"] is not None
    if with_cost:
        columns.append(_COST_COLUMN)
    with_latencies = by == "model" and totals["latency_median_ms"] is not None
    if with_latencies:
        columns += _LATENCY_COLUMNS
    with_share = by not in ("day", "hour")
    if with_share:
        columns.append(_SHARE_COLUMN)
    most, whole = max(all_tokens(row) for row in series), all_tokens(totals)

    def cells_of(label: str, members: Any) -> list[str | Cell | Bar]:
        counted = [count_cell(count_of(members)) for count_of in counts.values()]
        cost = [_usd(members["usd"])] if with_cost else []
        latencies = [_latency(members[name]) for name in _LATENCIES] if with_latencies else []
        share = [percent(all_tokens(members), whole)] * with_share
        return [label, *counted, *cost, *latencies, *share]

    print_table(
        [*columns, TableColumn("", style="cyan", bars=True)],
        [[*cells_of(_label(row, by), row), Bar(all_tokens(row), most)] for row in series],
        [*cells_of("total", totals), ""],
        wide=wide,
    )


def _label(row: Any, by: str) -> str:
    """The first cell of a row: a key's name, a group, a day, an hour or a model."""
    if by == BY_KEY:
        return one_line(row["name"])
    if by == "hour":
        return f"{row['hour'][:10]} {row['hour'][11:16]}"
    # The name of a model that the gateway does not know is not kept.
    return one_line(row[by] or ("(no group)" if by == "group" else "(not kept)"))


def _usd(amount: float | None) -> str:
    """The amount to the cent, ``<0.01`` below; nothing if a model has no price."""
    if amount is None:
        return ""
    return "<0.01" if 0 < amount < 0.01 else f"{amount:,.2f}"


def _latency(ms: int | None) -> str:
    return "" if ms is None else format_latency(ms)


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
#: How long answers took that were served.
_LATENCY_COLUMNS = (
    TableColumn("median", right=True, priority=6),
    TableColumn("p95", right=True, priority=6),
)
#: The share of all tokens.
_SHARE_COLUMN = TableColumn("share", right=True, priority=4)
_LATENCIES = tuple(Latencies().as_dict())
_HIDDEN_IF_ZERO = ("refused", "cache\nreads", "cache\nwrites")

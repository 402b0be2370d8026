"""How limits stand, for the terminal: what is used of each, what is left, and when more frees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opuslive.cli.output import Cell, TableColumn, echo, format_short_count, one_line, print_table
from opuslive.limits.grammar import Metric

_COLUMNS = (
    TableColumn("limit"),
    TableColumn("of", wraps=True, priority=1, least=8),
    TableColumn("used", right=True, priority=2),
    TableColumn("left", right=True),
    TableColumn("reserved", right=True, priority=4),
    TableColumn("more frees", priority=3),
)


def print_standing(limits: Sequence[Mapping[str, Any]], *, wide: bool = False) -> None:
    """Print a table of the limits, below a blank line; nothing without any.

    ``limits`` are members of the API.
    """
    if limits:
        echo("")
        print_table(_COLUMNS, list(map(_row, limits)), wide=wide)


def causes(limits: Sequence[Mapping[str, Any]]) -> str:
    """Which limits are used up, and whose: ``2M tokens/5h (its own)``."""
    return ", ".join(f"{each['limit']} ({_whose(each, own='its own')})" for each in limits)


def _row(limit: Mapping[str, Any]) -> Sequence[str | Cell]:
    metric = Metric[limit["metric"].upper()]
    return (
        limit["limit"],
        one_line(_whose(limit, own="the key")),
        _amount(metric, limit["used"]),
        _amount(metric, limit["remaining"]),
        _amount(metric, limit["reserved"]),
        _frees(metric, limit),
    )


def _frees(metric: Metric, limit: Mapping[str, Any]) -> str:
    if limit["frees_at"] is not None:
        return str(limit["frees_at"])
    return "never" if metric.has_window and limit["used"] else ""


def _amount(metric: Metric, amount: float) -> Cell:
    if metric.in_dollars:
        short = "<0.01" if 0 < amount < 0.01 else f"{amount:,.2f}"
        return Cell(f"{amount:,.6f}".rstrip("0").rstrip("."), short)
    return Cell(f"{amount:,}", format_short_count(int(amount)))


def _whose(limit: Mapping[str, Any], *, own: str) -> str:
    if limit["scope"] == "key":
        return own
    return "the gateway" if limit["group"] is None else f"group {limit['group']}"

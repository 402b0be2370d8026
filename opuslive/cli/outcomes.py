"""How requests ended and how long they took, and how a span compares with the one before: for the
terminal, made of members of the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from opuslive.cli.output import Bar, TableColumn, all_tokens, count_cell, echo, print_table
from opuslive.latencies import format_latency
from opuslive.times import CALENDAR
from opuslive.usage import OUTCOME_NAMES, Outcome, numbered

#: Outcome that is no success → the member of a sum that counts it.
_TROUBLES: Mapping[Outcome, str] = MappingProxyType(
    {
        "client_error": "client_errors",
        "upstream_error": "upstream_errors",
        "cut": "cut",
        "refused": "refusals",
    }
)
_BEFORE = MappingProxyType(
    dict(zip(CALENDAR, ("yesterday", "last week", "last month"), strict=True))
)


def print_outcomes(series: Sequence[Mapping[str, Any]], *, wide: bool = False) -> None:
    """Print a table of a series by status."""
    whole = sum(row["requests"] for row in series)
    most = max(row["requests"] for row in series)
    print_table(
        (
            TableColumn("status"),
            TableColumn("requests", right=True),
            TableColumn("share", right=True, priority=1),
            TableColumn("", style="cyan", bars=True),
        ),
        [
            [
                OUTCOME_NAMES[row["status"]],
                count_cell(row["requests"]),
                percent(row["requests"], whole),
                Bar(row["requests"], most),
            ]
            for row in series
        ],
        ["total", count_cell(whole), percent(whole, whole), ""],
        wide=wide,
    )


def print_summary(totals: Mapping[str, Any]) -> None:
    """Print how requests ended and how long those took that were served, below a blank line."""
    troubles = [
        numbered(outcome, totals[member]) for outcome, member in _TROUBLES.items() if totals[member]
    ]
    echo("")
    echo(", ".join([f"Answers: {numbered('served', totals['served'])}", *troubles]) + ".")
    median, most = totals["latency_median_ms"], totals["latency_p95_ms"]
    if median is not None:
        middle, longest = format_latency(median), format_latency(most)
        echo(f"Latency: about {middle} in the median, 95% within {longest}.")


def name_before(since: str, report: Mapping[str, Any]) -> str:
    """What the span is called that a report since this text is compared with."""
    comparison = report["comparison"]
    if comparison is None:
        return ""
    this, before = comparison["this"], comparison["before"]
    if since.strip() in _BEFORE and this["since"] != before["until"]:
        return f"{_BEFORE[since.strip()]} by this hour"
    length = _moment(before["until"]) - _moment(before["since"])
    if length < timedelta(days=1):
        hours = round(length / timedelta(hours=1))
        return "the hour before" if hours == 1 else f"the {hours} hours before"
    days = round(length / timedelta(days=1))
    return "the day before" if days == 1 else f"the {days:,} days before"


def print_comparison(comparison: Mapping[str, Any] | None, before: str) -> None:
    """Print how tokens and cost compare with the span before; nothing if neither had any."""
    if comparison is None:
        return
    now, then = (comparison[name]["totals"] for name in ("this", "before"))
    tokens, tokens_before = all_tokens(now), all_tokens(then)
    if not tokens and not tokens_before:
        return
    if not tokens_before:
        echo(f"To compare with: no tokens in the span before ({before}).")
        return
    sentence = f"{_more(tokens, tokens_before)} tokens than {before}"
    if tokens == tokens_before:
        sentence = f"As many tokens as {before}"
    if now["usd"] is not None and then["usd"]:
        same = now["usd"] == then["usd"]
        sentence += f"; cost: {'the same' if same else _more(now['usd'], then['usd'])}"
    echo(f"{sentence}.")


def percent(part: float, whole: float) -> str:
    """A share: ``12%``, with one place below ten; nothing of nothing.

    Rounded down, as on the pages: ``100%`` is all of it.
    """
    if not whole:
        return ""
    thousandths = int(1000 * part / whole)
    if not thousandths:
        return "<0.1%" if part else "0%"
    if thousandths >= 100:
        return f"{thousandths // 10:,}%"
    return f"{thousandths / 10:.1f}%"


def _more(now: float, before: float) -> str:
    return f"{percent(abs(now - before), before)} {'more' if now > before else 'less'}"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)

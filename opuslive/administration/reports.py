"""Reports of usage, as every interface shows them: a span of time by what is asked for, and the
span before to compare it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from opuslive.administration.figures import UsageTotals, read_totals, total
from opuslive.administration.remembered import Sums
from opuslive.keys import Key
from opuslive.latencies import Latencies
from opuslive.pricing.prices import Prices
from opuslive.spans import Span
from opuslive.storage import Storage, SumsBy
from opuslive.usage import Outcome, outcome_of

#: What a report may have a row for each of. ``status`` is the class of how requests ended
#: (``Outcome``): of those there are numbers of requests alone, for tokens are not summed by it.
ReportBy = Literal[SumsBy, "status"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole hours of a span, and the span before: see ``Span.compared``."""

    span: Span
    totals: UsageTotals
    span_before: Span
    before: UsageTotals


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Usage in a span. ``series`` are bucket → totals, as ``read_totals`` has them; it is empty for
    a report by status, which is in ``totals``. These have latencies. ``comparison`` is None where
    it was not asked for, or there is nothing to compare with."""

    span: Span
    by: ReportBy
    series: Mapping[int | str | None, UsageTotals]
    totals: UsageTotals
    comparison: Comparison | None = None


async def read_report(
    storage: Sums,
    prices: Prices,
    key_id: str | None,
    span: Span,
    by: ReportBy,
    *,
    compared: bool = False,
) -> UsageReport:
    """The report of one key, or of all. Raises StorageUnavailable."""
    since, until = span.since, span.read_until
    read_by: SumsBy = "model" if by == "status" else by
    series = await read_totals(storage, prices, key_id, since=since, until=until, by=read_by)
    if read_by == "model":
        latencies = [each.latencies for each in series.values() if each.latencies is not None]
    else:
        found = await storage.latencies(key_id, since=since, until=until)
        latencies = list(found.values())
    return UsageReport(
        span,
        by,
        {} if by == "status" else series,
        replace(total(series.values()), latencies=Latencies.total(latencies)),
        await read_comparison(storage, prices, key_id, span) if compared else None,
    )


async def read_comparison(
    storage: Sums, prices: Prices, key_id: str | None, span: Span
) -> Comparison | None:
    """What a span and the one before have in all; see ``Comparison``. Raises StorageUnavailable."""
    spans = span.compared()
    if spans is None:
        return None
    this, before = [
        total(
            (
                await read_totals(
                    storage, prices, key_id, since=each.since, until=each.until, by="day"
                )
            ).values()
        )
        for each in spans
    ]
    return Comparison(spans[0], this, spans[1], before)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A request that was not served: ``time`` is in ms since the epoch. No text of an error is
    kept."""

    time: int
    key_id: str
    key_name: str
    outcome: Outcome
    model: str | None
    status: int
    latency_ms: int | None


async def latest_trouble(
    storage: Storage, names: Mapping[str, str], *, limit: int
) -> Sequence[Trouble]:
    """The last requests of all keys that were not served, newest first. ``names`` are key id →
    name; keys that were deleted meanwhile are left out. Raises StorageUnavailable."""
    return [
        Trouble(
            time=record.time,
            key_id=record.key_id,
            key_name=names[record.key_id],
            outcome=outcome_of(record.status, record.latency_ms),
            model=record.model,
            status=record.status,
            latency_ms=record.latency_ms,
        )
        for record in await storage.latest_trouble(limit=limit)
        if record.status is not None and record.key_id in names
    ]


def counts_since(key: Key) -> int:
    """When the sums of a key began, in ms since the epoch: they are of all its time."""
    return key.created_at

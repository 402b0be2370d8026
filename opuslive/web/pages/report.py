"""What the pages show of usage: read here, and laid out before a template draws it.

A report has everything that is held about a key, for its holder and for the administrator. The
overview uses the same series, bars and gauges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from opuslive.administration.figures import Accumulator, UsageTotals, cost_of, total
from opuslive.gateway.admission.admission import Admission, SharedLimits
from opuslive.keys import Key
from opuslive.limits.grammar import Period
from opuslive.limits.windows import LimitStatus
from opuslive.pricing.prices import Prices
from opuslive.storage import KeyUsage, Storage
from opuslive.times import DAY_MS, HOUR_MS, Clock, end_of_day
from opuslive.usage import ModelSum, TokenCounts, UsageRecord, UsageSum
from opuslive.web.pages import words
from opuslive.web.pages.charts import Chart, ChartColumn, GaugeBar, column_chart, gauge_bar, shares
from opuslive.web.pages.states import KeyState, state_of
from opuslive.web.shapes import KeyFact, key_facts

DAYS = 30
HOURS = 48
#: How many of the latest requests are listed; the export has all.
RECENT = 25
NAME_NOT_KEPT = "(name not kept)"

Level = Literal["good", "near", "full"]
#: From this share of a limit on it is nearly used up.
_NEAR = 0.8


@dataclass(frozen=True, slots=True)
class Gauge:
    """One limit. ``left`` and ``whole`` are the large figures, ``frees`` says when (a text, or
    markup)."""

    text: str
    left: str
    whole: str
    within: str
    used: str
    reserved: str
    percent: int
    frees: str
    level: Level
    bar: GaugeBar


@dataclass(frozen=True, slots=True)
class Used:
    """The usage of a stretch of time, a model or a key; ``share`` is the length of its bar."""

    label: str
    totals: UsageTotals
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Series:
    """Usage in equal stretches of time, oldest first; ``rows`` are those with any, newest first.

    A column of ``requests`` is made of those that were sent upstream and those that were refused.
    """

    name: str
    span: str
    requests: Chart
    tokens: Chart
    cost: Chart | None
    rows: Sequence[Used]
    total: UsageTotals


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is held about a key, and what follows from it."""

    key: Key
    facts: Sequence[KeyFact]
    usage: KeyUsage
    now: int
    state: KeyState
    gauges: Sequence[Gauge]
    series: Sequence[Series]
    models: Sequence[Used]
    recent: Sequence[UsageRecord]


def first_day(now: int) -> int:
    """The beginning of the days of a report made at ``now``, in ms since the epoch."""
    return (now // DAY_MS - DAYS + 1) * DAY_MS


def first_hour(now: int) -> int:
    """The beginning of its hours, in ms since the epoch."""
    return (now // HOUR_MS - HOURS + 1) * HOUR_MS


class ReportReader:
    """Reads what there is to show of a key."""

    def __init__(
        self, storage: Storage, admission: Admission, prices: Prices, clock: Clock
    ) -> None:
        self._storage = storage
        self._admission = admission
        self._prices = prices
        self._clock = clock

    async def read(self, key: Key, *, contact: str | None) -> Report:
        """The report of now; see ``make_report``. Raises StorageUnavailable."""
        storage, now = self._storage, self._clock.steady_ms()
        return make_report(
            key,
            await storage.key_usage(key.id),
            self._admission.statuses(key.id),
            self._admission.shared_limits(),
            await storage.sums(key.id, since=first_day(now), until=end_of_day(now), by="day"),
            await storage.sums(key.id, since=first_hour(now), until=now + 1, by="hour"),
            await storage.latest_records(key.id, limit=RECENT),
            prices=self._prices,
            contact=contact,
            now=now,
            wall_ms=self._clock.wall_ms(),
        )


def make_report(
    key: Key,
    usage: KeyUsage,
    own: Sequence[LimitStatus],
    shared: SharedLimits,
    days: Sequence[ModelSum],
    hours: Sequence[ModelSum],
    recent: Sequence[UsageRecord],
    *,
    prices: Prices,
    contact: str | None,
    now: int,
    wall_ms: int,
) -> Report:
    """``own`` are the statuses of the key's own limits; ``days`` and ``hours`` are its sums from
    ``first_day`` and ``first_hour`` on. ``contact``, ``now`` and ``wall_ms``: see
    ``states.state_of``."""
    return Report(
        key=key,
        facts=key_facts(key),
        usage=usage,
        now=now,
        state=state_of(key, own, shared, contact=contact, now=now, wall_ms=wall_ms),
        gauges=[gauge(status, now) for status in own],
        series=(series_by_day(days, prices, now), series_by_hour(hours, prices, now)),
        models=by_model(days, prices),
        recent=recent,
    )


def series_by_day(days: Iterable[ModelSum], prices: Prices, now: int) -> Series:
    return _series("day", f"the last {DAYS} days", first_day(now), DAYS, days, prices)


def series_by_hour(hours: Iterable[ModelSum], prices: Prices, now: int) -> Series:
    return _series("hour", f"the last {HOURS} hours", first_hour(now), HOURS, hours, prices)


def by_model(days: Iterable[ModelSum], prices: Prices) -> Sequence[Used]:
    """The models by their tokens, the most first."""
    sums: defaultdict[str, Accumulator] = defaultdict(Accumulator)
    for day in days:
        sums[day.model or NAME_NOT_KEPT].add(day.sum, _cost(prices, day))
    return as_bars({model: added.totals() for model, added in sums.items()})


def as_bars(totals: Mapping[str, UsageTotals]) -> Sequence[Used]:
    """A list of bars, the longest first."""
    ordered = sorted(totals.items(), key=lambda item: -item[1].tokens)
    lengths = shares([each.tokens for _, each in ordered])
    return [Used(label, each, share) for (label, each), share in zip(ordered, lengths, strict=True)]


def gauge(limit_status: LimitStatus, now: int) -> Gauge:
    """One limit as a gauge."""
    limit = limit_status.limit
    taken = limit_status.used + limit_status.reserved
    level: Level = "good" if taken < limit.amount * _NEAR else "near"
    if taken >= limit.amount:
        level = "full"
    return Gauge(
        text=limit.text,
        left=words.amount(limit.metric, limit_status.remaining),
        whole=words.counted(limit),
        within=words.within(limit),
        used=words.amount(limit.metric, limit_status.used),
        reserved=words.amount(limit.metric, limit_status.reserved),
        percent=min(100, taken * 100 // limit.amount),
        frees=_frees(limit_status, now),
        level=level,
        bar=gauge_bar(limit_status.used, limit_status.reserved, limit.amount),
    )


def _frees(limit_status: LimitStatus, now: int) -> str:
    if not limit_status.limit.metric.has_window:
        return "Room frees as running requests end."
    if limit_status.limit.window is Period.TOTAL:
        return "Never frees: it counts for as long as the key exists."
    first, last = limit_status.frees_at, limit_status.resets_at
    if first is None or last is None:
        return "Nothing used, nothing to wait for."
    all_free = words.upcoming(last, now)
    if first == last:
        return Markup("All of it frees at {}.").format(all_free)
    begins = words.upcoming(first, now)
    return Markup("Begins to free at {}; all of it by {}.").format(begins, all_free)


def _series(
    name: Literal["day", "hour"],
    span: str,
    first: int,
    count: int,
    sums: Iterable[ModelSum],
    prices: Prices,
) -> Series:
    ms = DAY_MS if name == "day" else HOUR_MS
    buckets = {first + index * ms: Accumulator() for index in range(count)}
    for each in sums:
        # A request that ends while this is made may be in a bucket more.
        if isinstance(each.bucket, int) and each.bucket in buckets:
            buckets[each.bucket].add(each.sum, _cost(prices, each))
    requests, tokens, costs, rows = [], [], [], []
    for index, (start, sums_of_bucket) in enumerate(buckets.items()):
        used = Used(_label(name, start), sums_of_bucket.totals())
        mark = _mark(name, start, count - 1 - index)
        sent, refused = used.totals.sum.requests, used.totals.sum.refusals
        title = f"{used.label}: {sent:,} requests" + (f", {refused:,} refused" if refused else "")
        requests.append(ChartColumn(title, (sent, 0, refused), mark))
        tokens.append(
            ChartColumn(
                f"{used.label}: {used.totals.tokens:,} tokens",
                _parts(used.totals.sum.tokens),
                mark,
            )
        )
        cost = words.cost(used.totals.cost, complete=used.totals.complete)
        costs.append(ChartColumn(f"{used.label}: {cost}", (used.totals.cost or 0,), mark))
        if used.totals.sum != UsageSum():
            rows.append(used)
    whole = total(row.totals for row in rows)
    return Series(
        name=name,
        span=span,
        requests=column_chart(requests, words.count),
        tokens=column_chart(tokens, words.count),
        cost=None if whole.cost is None else column_chart(costs, words.dollars),
        rows=rows[::-1],
        total=whole,
    )


def _cost(prices: Prices, row: ModelSum) -> int | None:
    assert isinstance(row.bucket, int)
    return cost_of(prices, row, row.bucket)


def _label(name: str, start: int) -> str:
    if name == "day":
        return words.day(start)
    return f"{words.day(start)}, {words.clock_time(start)}"


def _mark(name: str, start: int, back: int) -> str | None:
    """The label below a column, if it gets one."""
    if name == "day":
        return words.short_day(start) if back % 7 == 0 else None
    if start // HOUR_MS % 12:
        return None
    return words.clock_time(start) if start % DAY_MS else words.short_day(start)


def _parts(tokens: TokenCounts) -> tuple[int, int, int]:
    """What a column of tokens is made of: input, cache reads, output."""
    return tokens.input + tokens.cache_write, tokens.cache_read, tokens.output

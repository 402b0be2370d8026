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
from opuslive.limits.grammar import Limit, Metric, Period
from opuslive.limits.windows import LimitStatus
from opuslive.pricing.prices import Prices
from opuslive.storage import KeyUsage, Storage
from opuslive.times import DAY_MS, HOUR_MS, Clock, end_of_day
from opuslive.usage import ModelSum, TokenCounts, UsageRecord, UsageSum, numbered
from opuslive.web.pages import words
from opuslive.web.pages.charts import Chart, ChartColumn, GaugeBar, column_chart, gauge_bar, shares
from opuslive.web.pages.states import KeyState, state_of
from opuslive.web.pages.steps import Steps, days_of, hours_of
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
    markup). ``weighs_cache_reads`` says that it counts tokens which may be read from a cache,
    ``raised`` from what and until when it is raised, if it is."""

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
    weighs_cache_reads: bool
    raised: str | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """The usage of a stretch of time, a model or a key; ``share`` is the length of its bar."""

    label: str
    totals: UsageTotals
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Series:
    """Usage in equal stretches of time, oldest first; ``rows`` are those with any, newest first.

    A column of ``requests`` is made of the outcomes of requests, in the order of ``Outcome``.
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
    return make_series(f"the last {DAYS} days", days_of(first_day(now), now + 1), days, prices)


def series_by_hour(hours: Iterable[ModelSum], prices: Prices, now: int) -> Series:
    return make_series(f"the last {HOURS} hours", hours_of(first_hour(now), now + 1), hours, prices)


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
        weighs_cache_reads=limit.metric in (Metric.TOKENS, Metric.INPUT_TOKENS),
        raised=_raised(limit),
    )


def _raised(limit: Limit) -> str | None:
    if limit.raised is None:
        return None
    return f"Raised from {limit.otherwise.text} until {words.moment(limit.raised.until)}."


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


def make_series(span: str, steps: Steps, sums: Iterable[ModelSum], prices: Prices) -> Series:
    """The series of sums by hour or day, which lie in the steps."""
    buckets = [Accumulator() for _ in steps.starts]
    for each in sums:
        assert isinstance(each.bucket, int)
        index = steps.index(each.bucket)
        if index >= 0:
            buckets[index].add(each.sum, _cost(prices, each))
    requests, tokens, costs, rows = [], [], [], []
    for index, added in enumerate(buckets):
        used = Used(steps.label(index), added.totals())
        mark, kinds = steps.mark(index), used.totals.sum.tokens
        requests.append(ChartColumn(*_answers(used), mark))
        title = f"{used.label}: {used.totals.tokens:,} tokens"
        tokens.append(ChartColumn(title, _parts(kinds), mark))
        cost = words.cost(used.totals.cost, complete=used.totals.complete)
        costs.append(ChartColumn(f"{used.label}: {cost}", (used.totals.cost or 0,), mark))
        if used.totals.sum != UsageSum():
            rows.append(used)
    whole = total(row.totals for row in rows)
    return Series(
        name=steps.name,
        span=span,
        requests=column_chart(requests, words.count),
        tokens=column_chart(tokens, words.count),
        cost=None if whole.cost is None else column_chart(costs, words.dollars),
        rows=rows[::-1],
        total=whole,
    )


def _answers(used: Used) -> tuple[str, tuple[int, ...]]:
    """The title of a column of requests, and its parts: the outcomes."""
    numbers = used.totals.sum.outcomes
    told = [numbered(each, number) for each, number in numbers.items() if number]
    return f"{used.label}: {', '.join(told) or 'no requests'}", tuple(numbers.values())


def _cost(prices: Prices, row: ModelSum) -> int | None:
    assert isinstance(row.bucket, int)
    return cost_of(prices, row, row.bucket)


def _parts(tokens: TokenCounts) -> tuple[int, int, int]:
    """What a column of tokens is made of: input, cache reads, output."""
    return tokens.input + tokens.cache_write, tokens.cache_read, tokens.output

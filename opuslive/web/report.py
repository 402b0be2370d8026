"""What the Check Usage page shows of a key: made of what is stored, before anything is drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from opuslive.keys import Key
from opuslive.limits import Metric, Period
from opuslive.metering import TokenCounts
from opuslive.storage import KeyUsage
from opuslive.usage import DAY_MS, HOUR_MS, HourSum, UsageRecord, UsageSum
from opuslive.web import words
from opuslive.web.charts import Chart, Column, GaugeBar, column_chart, gauge_bar, shares
from opuslive.windows import Standing

DAYS = 30
HOURS = 48
#: How many of the latest requests are listed; the export has all.
RECENT = 25

Level = Literal["good", "near", "full"]
#: From this share of a limit on it is nearly used up.
_NEAR = 0.8


@dataclass(frozen=True, slots=True)
class Gauge:
    """One limit. ``left`` and ``whole`` are the large figures, ``frees`` says when."""

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
class State:
    """How the key stands, in plain words."""

    name: Literal["enabled", "disabled", "expired", "exhausted"]
    title: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Used:
    """Usage of a stretch of time, or of a model. ``cost`` is in micro-dollars, if it is known."""

    label: str
    sum: UsageSum
    cost: int | None
    share: float = 0.0

    @property
    def tokens(self) -> int:
        return sum(_parts(self.sum.tokens))


@dataclass(frozen=True, slots=True)
class Series:
    """Usage in equal stretches of time, oldest first; ``rows`` are those with any, newest first."""

    name: str
    span: str
    tokens: Chart
    cost: Chart | None
    rows: Sequence[Used]
    total: Used


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is held about a key, and what follows from it."""

    key: Key
    usage: KeyUsage
    now: int
    state: State
    gauges: Sequence[Gauge]
    series: Sequence[Series]
    models: Sequence[Used]
    recent: Sequence[UsageRecord]


def since_hour(now: int) -> int:
    """The first hour that a report made at ``now`` (ms since the epoch) asks for."""
    return (now // DAY_MS - DAYS + 1) * 24


def make_report(
    key: Key,
    usage: KeyUsage,
    standings: Sequence[Standing],
    hours: Sequence[HourSum],
    recent: Sequence[UsageRecord],
    *,
    cost: Callable[[HourSum], int | None],
    contact: str,
    now: int,
) -> Report:
    """``hours`` are the key's sums from ``since_hour`` on; ``cost`` prices one of them."""
    days: defaultdict[int, _Adding] = defaultdict(_Adding)
    last_hours: defaultdict[int, _Adding] = defaultdict(_Adding)
    by_model: defaultdict[str, _Adding] = defaultdict(_Adding)
    today, this_hour = now // DAY_MS, now // HOUR_MS
    for hour in hours:
        numbers, price = _numbers(hour.sum), cost(hour)
        days[hour.hour // 24].add(numbers, price)
        by_model[hour.model or "(name not kept)"].add(numbers, price)
        if hour.hour > this_hour - HOURS:
            last_hours[hour.hour].add(numbers, price)
    models = [adding.used(model) for model, adding in by_model.items()]
    models.sort(key=lambda used: -used.tokens)
    lengths = shares([used.tokens for used in models])
    return Report(
        key=key,
        usage=usage,
        now=now,
        state=_state(key, standings, contact, now),
        gauges=[gauge(standing, now) for standing in standings],
        series=(
            _series("day", f"the last {DAYS} days", range(today - DAYS + 1, today + 1), days),
            _series(
                "hour",
                f"the last {HOURS} hours",
                range(this_hour - HOURS + 1, this_hour + 1),
                last_hours,
            ),
        ),
        models=[replace(used, share=share) for used, share in zip(models, lengths, strict=True)],
        recent=recent,
    )


def gauge(standing: Standing, now: int) -> Gauge:
    """One limit as a gauge."""
    limit = standing.limit
    taken = standing.used + standing.reserved
    level: Level = "good" if taken < limit.amount * _NEAR else "near"
    if taken >= limit.amount:
        level = "full"
    return Gauge(
        text=limit.text,
        left=words.amount(limit.metric, standing.remaining),
        whole=words.counted(limit),
        within=words.within(limit),
        used=words.amount(limit.metric, standing.used),
        reserved=words.amount(limit.metric, standing.reserved),
        percent=min(100, taken * 100 // limit.amount),
        frees=_frees(standing, now),
        level=level,
        bar=gauge_bar(standing.used, standing.reserved, limit.amount),
    )


def _frees(standing: Standing, now: int) -> str:
    if standing.limit.metric is Metric.CONCURRENT:
        return "Room frees as running requests end."
    if standing.limit.window is Period.TOTAL:
        return "Never frees: it counts for as long as the key exists."
    first, last = standing.frees_at, standing.resets_at
    if first is None or last is None:
        return "Nothing used, nothing to wait for."
    all_free = words.upcoming(last, now)
    if first == last:
        return f"All of it frees at {all_free}."
    return f"Begins to free at {words.upcoming(first, now)}; all of it by {all_free}."


def _state(key: Key, standings: Iterable[Standing], contact: str, now: int) -> State:
    if not key.enabled:
        return State(
            "disabled",
            "This key is disabled",
            f"New requests with it are refused. Ask {contact} to enable it again.",
        )
    if key.expired(now):
        assert key.expires_at is not None
        return State(
            "expired",
            "This key has expired",
            f"Since {words.moment(key.expires_at)} new requests with it are refused. "
            f"Ask {contact} for a new date.",
        )
    full = [s for s in standings if s.used >= s.limit.amount]
    if full:
        last = max(full, key=lambda s: (s.resets_at is None, s.resets_at or 0))
        if last.frees_at is None or last.resets_at is None:
            when = f"That never frees; ask {contact} for more."
        else:
            when = f"It begins to free at {words.upcoming(last.frees_at, now)}"
            if last.resets_at > last.frees_at:
                when += f", and all of it by {words.upcoming(last.resets_at, now)}"
            when += f". Ask {contact} if you need more before."
        used_up = f"The limit of {words.counted(last.limit)} {words.within(last.limit)} is used up."
        return State("exhausted", "This key is used up for now", f"{used_up} {when}")
    until = "" if key.expires_at is None else f" It does so until {words.moment(key.expires_at)}."
    return State("enabled", "This key works", f"Requests with it are accepted.{until}")


class _Adding:
    """A sum that is being added up: a month has thousands of hours and models."""

    __slots__ = ("_cost", "_numbers")

    def __init__(self) -> None:
        self._numbers = [0] * 7
        self._cost: int | None = None

    def add(self, numbers: Sequence[int], cost: int | None) -> None:
        self._numbers = [one + other for one, other in zip(self._numbers, numbers, strict=True)]
        if cost is not None:
            self._cost = (self._cost or 0) + cost

    def used(self, label: str) -> Used:
        """What it came to. A cost is known if that of any part of it is."""
        requests, refusals, *tokens = self._numbers
        return Used(label, UsageSum(requests, refusals, TokenCounts(*tokens)), self._cost)


def _numbers(used: UsageSum) -> tuple[int, ...]:
    kinds = used.tokens
    return (
        *(used.requests, used.refusals, kinds.input, kinds.output),
        *(kinds.cache_read, kinds.cache_write_5m, kinds.cache_write_1h),
    )


def _series(
    name: Literal["day", "hour"], span: str, buckets: range, sums: Mapping[int, _Adding]
) -> Series:
    ms = DAY_MS if name == "day" else HOUR_MS
    tokens, costs, rows, total = [], [], [], _Adding()
    for bucket in buckets:
        label = _label(name, bucket * ms)
        mark = _mark(name, bucket, buckets.stop - 1 - bucket)
        used = sums.get(bucket, _Adding()).used(label)
        tokens.append(Column(f"{label}: {used.tokens:,} tokens", _parts(used.sum.tokens), mark))
        costs.append(Column(f"{label}: {words.dollars(used.cost or 0)}", (used.cost or 0,), mark))
        total.add(_numbers(used.sum), used.cost)
        if used.sum != UsageSum():
            rows.append(used)
    whole = total.used(span)
    return Series(
        name=name,
        span=span,
        tokens=column_chart(tokens, words.count),
        cost=None if whole.cost is None else column_chart(costs, words.dollars),
        rows=rows[::-1],
        total=whole,
    )


def _label(name: str, start: int) -> str:
    if name == "day":
        return words.day(start)
    return f"{words.day(start)}, {words.clock_time(start)}"


def _mark(name: str, bucket: int, back: int) -> str | None:
    """The label below a column, if it gets one."""
    if name == "day":
        return words.short_day(bucket * DAY_MS) if back % 7 == 0 else None
    if bucket % 12:
        return None
    start = bucket * HOUR_MS
    return words.clock_time(start) if bucket % 24 else words.short_day(start)


def _parts(tokens: TokenCounts) -> tuple[int, int, int]:
    """What a column of tokens is made of: input, cache reads, output."""
    return tokens.input + tokens.cache_write, tokens.cache_read, tokens.output

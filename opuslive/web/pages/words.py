"""Formatters: how amounts, spans and moments are written on the pages, exact where it matters.

Times are shown in UTC. Amounts are in the units of ``limits``: requests, tokens, micro-dollars.
"""

from __future__ import annotations

from datetime import UTC, datetime
from types import MappingProxyType

from opuslive.limits.grammar import MICRO_USD, Limit, Metric, Period
from opuslive.times import DAY_MS, HOUR_MS

_MINUTE_MS = 60_000
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))
#: Up to here a number is shown digit by digit.
_WHOLE = 100_000
_PERIODS = MappingProxyType(
    {
        Period.DAY: "a day",
        Period.WEEK: "a week",
        Period.MONTH: "a month",
        Period.TOTAL: "in all",
    }
)
_SPANS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def count(number: int) -> str:
    """``1,234``, ``2M``, ``1.24M``: three digits of what is large, rounded down.

    Down, so that what is left never looks like more than it is.
    """
    if number < _WHOLE:
        return f"{number:,}"
    scale, unit = next(pair for pair in _UNITS if number >= pair[0])
    hundredths = number * 100 // scale
    if hundredths >= 100_00:
        return f"{hundredths // 100:,}{unit}"
    digits = 1 if hundredths >= 10_00 else 2
    text = f"{hundredths // 10 ** (2 - digits) / 10**digits:.{digits}f}"
    return text.rstrip("0").rstrip(".") + unit


def dollars(micro_usd: int) -> str:
    """``$12.34``; less than a cent with as many digits as it takes to be more than nothing."""
    amount = micro_usd / MICRO_USD
    if micro_usd == 0 or micro_usd >= MICRO_USD // 100:
        return f"${amount:,.2f}"
    return f"${amount:.4f}" if micro_usd >= 100 else f"${amount:.6f}"


def cost(micro_usd: int | None, *, complete: bool) -> str:
    """``$12.34``; ``at least $12.34`` where a part of it has no price; a dash where nothing has."""
    if micro_usd is None:
        return "\N{EN DASH}"
    return dollars(micro_usd) if complete else f"at least {dollars(micro_usd)}"


def amount(metric: Metric, number: int) -> str:
    """An amount of what a limit counts, without its unit."""
    return dollars(number) if metric.in_dollars else count(number)


def counted(limit: Limit) -> str:
    """The whole of a limit: ``2M tokens``, ``$20.00``, ``8 requests``."""
    metric = limit.metric
    text = amount(metric, limit.amount)
    if metric.in_dollars:
        return text
    return f"{text} {metric.singular if limit.amount == 1 else metric.plural}"


def within(limit: Limit) -> str:
    """Within what time: ``in any 5 hours``, ``a month``, ``in all``, ``at once``."""
    window = limit.window
    if window is None:
        return "at once"
    if isinstance(window, Period):
        return _PERIODS[window]
    size, unit = next(pair for pair in _SPANS if window % pair[0] == 0)
    number = window // size
    return f"in any {unit}" if number == 1 else f"in any {number} {unit}s"


def day(ms: int) -> str:
    """``23 Nov 2026``."""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment.day} {moment:%b %Y}"


def short_day(ms: int) -> str:
    """``23 Nov``."""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment.day} {moment:%b}"


def month(ms: int) -> str:
    """``November 2026``."""
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%B %Y}"


def short_month(ms: int) -> str:
    """``Nov 2026``."""
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%b %Y}"


def clock_time(ms: int) -> str:
    """``15:04``."""
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%H:%M}"


def moment(ms: int) -> str:
    """``23 Nov 2026, 15:04:05 UTC``."""
    return f"{day(ms)}, {datetime.fromtimestamp(ms // 1000, UTC):%H:%M:%S} UTC"


def expiry(ms: int) -> str:
    """When something ends: ``the end of 30 Jun 2027 (UTC)`` for a moment that ends a day, else as
    ``moment``."""
    return f"the end of {day(ms - 1)} (UTC)" if ms % DAY_MS == 0 else moment(ms)


def last_day(ms: int) -> str:
    """The last day, or part of one, before something ends: ``30 Jun 2027``."""
    return day(ms - 1)


def upcoming(ms: int, now: int) -> str:
    """When, and how long until then: ``17:25:04 UTC (in 11 min)``, ``1 Dec 2026, 00:00 UTC (…)``.

    Rounded up, to the second or what is farther off to the minute: at that moment it is so.
    """
    unit = 1000 if ms - now < HOUR_MS else _MINUTE_MS
    shown = -(-ms // unit) * unit
    time = f"{datetime.fromtimestamp(shown // 1000, UTC):{'%H:%M:%S' if unit == 1000 else '%H:%M'}}"
    date = "" if shown // DAY_MS == now // DAY_MS else f"{day(shown)}, "
    return f"{date}{time} UTC ({ahead(ms, now)})"


def exact_moment(ms: int) -> str:
    """``2026-11-23 15:04:05.123``: for columns of a table."""
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%d %H:%M:%S}.{ms % 1000:03d}"


def ahead(ms: int, now: int) -> str:
    """How long until then, rounded up: ``in 40 s``, ``in 4 h 12 min``, ``in 3 days``."""
    left = max(0, ms - now)
    if left < 2 * _MINUTE_MS:
        return f"in {-(-left // 1000)} s"
    if left >= 2 * DAY_MS:
        return f"in {-(-left // DAY_MS)} days"
    hours, minutes = divmod(-(-left // _MINUTE_MS), 60)
    parts = [f"{hours} h"] if hours else []
    return "in " + " ".join(parts + ([f"{minutes} min"] if minutes else []))


def ago(ms: int, now: int) -> str:
    """How long since then, rounded down: ``40 min ago``, ``4 h ago``, ``3 days ago``."""
    past = now - ms
    if past < _MINUTE_MS:
        return "just now"
    if past < HOUR_MS:
        return f"{past // _MINUTE_MS} min ago"
    if past < 2 * DAY_MS:
        return f"{past // HOUR_MS} h ago"
    return f"{past // DAY_MS:,} days ago"


def meaning(limit: Limit) -> str:
    """A limit in words: ``2M tokens in any 5 hours``, ``$20.00 a month``."""
    return f"{counted(limit)} {within(limit)}"

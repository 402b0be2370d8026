"""The range of time that a page of the administration shows: one that is offered, or any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from opuslive.errors import UsageError
from opuslive.limits.grammar import Period
from opuslive.limits.windows import period_bounds
from opuslive.quantities import parse_since, parse_when
from opuslive.times import DAY_MS, HOUR_MS, iso_seconds
from opuslive.web.pages import words
from opuslive.web.pages.steps import Steps, steps_of


@dataclass(frozen=True, slots=True)
class Preset:
    """A range that is offered: ``since`` is what the command and the API call it, too. ``before``
    is what the span before it is called."""

    since: str
    name: str
    title: str
    before: str


PRESETS: Sequence[Preset] = (
    Preset("today", "Today", "Today", "yesterday by this time"),
    Preset("week", "This week", "This week", "last week by this time"),
    Preset("month", "This month", "This month", "last month by this time"),
    Preset("30d", "30 days", "The last 30 days", "the 30 days before"),
)
DEFAULT = PRESETS[-1]


@dataclass(frozen=True, slots=True)
class PageRange:
    """A range, in ms since the epoch, and what a page says of it.

    ``preset`` is the one that it is, if it is one. ``before`` and ``before_until`` are those of the
    span that it is compared with, ``before_name`` what that is called. ``first_day`` and
    ``last_day`` are what the fields of the form hold. ``query`` names it in addresses. ``problem``
    says what is wrong with what was asked for: this range is shown in its place.
    """

    since: int
    until: int
    title: str
    preset: Preset | None
    before: int
    before_until: int
    before_name: str
    query: Mapping[str, str]
    first_day: str
    last_day: str
    problem: str | None = None
    presets: Sequence[Preset] = PRESETS

    @property
    def steps(self) -> Steps:
        return steps_of(self.since, self.until)


def range_of_query(query: Mapping[str, str], now: int) -> PageRange:
    """The range that the parameters ``since`` and ``until`` name. A page must not fail for what
    they hold: it shows the default range then, and says what is wrong."""
    since, until = (query.get(name, "").strip() for name in ("since", "until"))
    try:
        return _range(since or DEFAULT.since, until, now)
    except UsageError as error:
        default = _range(DEFAULT.since, "", now)
        return replace(default, first_day=since, last_day=until, problem=str(error))


def _range(since: str, until: str, now: int) -> PageRange:
    preset = next((each for each in PRESETS if each.since == since and not until), None)
    begin = _begin(since, now) // HOUR_MS * HOUR_MS
    end = min(parse_when(until, now), now) if until else now
    if begin >= end:
        raise UsageError("A range begins before it ends, and before now.")
    length = end - begin
    before, name = begin - length, ""
    if preset is not None:
        before, name = _before(preset, begin, length), preset.before
    return PageRange(
        since=begin,
        until=end,
        title=preset.title if preset else f"{words.day(begin)} to {words.day(end - 1)}",
        preset=preset,
        before=before,
        before_until=min(before + length, begin),
        before_name=name or _span_name(length),
        query={"since": since} | ({"until": until} if until else {}),
        first_day=iso_seconds(begin)[:10],
        last_day=iso_seconds(end - 1)[:10],
    )


def _begin(since: str, now: int) -> int:
    periods = {"today": Period.DAY, "week": Period.WEEK, "month": Period.MONTH}
    if since in periods:
        return period_bounds(periods[since], now)[0]
    return parse_since(since, now)


def _before(preset: Preset, begin: int, length: int) -> int:
    if preset.since == "month":
        return period_bounds(Period.MONTH, begin - 1)[0]
    return begin - {"today": DAY_MS, "week": 7 * DAY_MS}.get(preset.since, length)


def _span_name(length: int) -> str:
    days = max(1, round(length / DAY_MS))
    return "the day before" if days == 1 else f"the {days:,} days before"

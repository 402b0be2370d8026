"""The range of time that a page of the administration shows: one that is offered, or any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from opuslive.errors import UsageError
from opuslive.spans import Span, parse_span
from opuslive.times import DAY_MS, iso_seconds
from opuslive.web.pages import words
from opuslive.web.pages.report import DAYS, first_day
from opuslive.web.pages.steps import Steps, steps_of


@dataclass(frozen=True, slots=True)
class Preset:
    """A range that is offered. ``since`` names it in addresses, as it does for the command and the
    API; nothing does for the range of a page that was asked for none. ``before`` is what the span
    is called that it is compared with."""

    since: str
    name: str
    title: str
    before: str


PRESETS: Sequence[Preset] = (
    Preset("today", "Today", "Today", "yesterday by this hour"),
    Preset("week", "This week", "This week", "last week by this hour"),
    Preset("month", "This month", "This month", "last month by this hour"),
    Preset("", f"{DAYS} days", f"The last {DAYS} days", f"the {DAYS} days before"),
)
DEFAULT = PRESETS[-1]


@dataclass(frozen=True, slots=True)
class PageRange:
    """A range, and what a page says of it.

    ``preset`` is the one that it is, if it is one. ``before`` is what the span is called that it is
    compared with. ``since`` and ``until`` name it for the command, and ``query`` in addresses;
    ``first_day`` and ``last_day`` are what the fields of the form hold. ``problem`` says what is
    wrong with what was asked for: this range is shown in its place.
    """

    span: Span
    title: str
    preset: Preset | None
    before: str
    since: str
    until: str
    query: Mapping[str, str]
    first_day: str
    last_day: str
    problem: str | None = None
    presets: Sequence[Preset] = PRESETS

    @property
    def steps(self) -> Steps:
        return steps_of(self.span.since, self.span.until)


def range_of_query(query: Mapping[str, str], now: int) -> PageRange:
    """The range that the parameters ``since`` and ``until`` name, ``now`` in ms since the epoch.

    A page must not fail for what they hold: it shows the default range then, and what is wrong.
    """
    since, until = (query.get(name, "").strip() for name in ("since", "until"))
    try:
        return _range(since, until, now)
    except UsageError as error:
        return replace(_range("", "", now), problem=_sentence(error.message))


def _range(since: str, until: str, now: int) -> PageRange:
    # Whole days, as Check Usage has them, so that both pages show the same.
    begin = since or iso_seconds(first_day(now))[:10]
    span = parse_span(begin, until or None, now)
    preset = next((each for each in PRESETS if each.since == since and not until), None)
    first, last = words.day(span.since), words.day(span.until - 1)
    return PageRange(
        span=span,
        title=preset.title if preset else first if first == last else f"{first} to {last}",
        preset=preset,
        before=preset.before if preset else _name(span.until - span.since),
        since=begin,
        until=until,
        query={name: text for name, text in (("since", since), ("until", until)) if text},
        first_day=iso_seconds(span.since)[:10],
        last_day=iso_seconds(span.until - 1)[:10],
    )


def _name(length: int) -> str:
    """What the span before one of this length (ms) is called."""
    days = max(1, round(length / DAY_MS))
    return "the day before" if days == 1 else f"the {days:,} days before"


def _sentence(message: str) -> str:
    """The message as a sentence among others."""
    return f"{message[:1].upper()}{message[1:].rstrip('.')}."

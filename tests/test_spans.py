"""Spans of time are those that were meant, and compared with what they can be compared with."""

from __future__ import annotations

from datetime import datetime

import pytest

from opuslive.errors import UsageError
from opuslive.spans import parse_span
from opuslive.times import iso_seconds


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def written(moment: int) -> str:
    return iso_seconds(moment).removesuffix(":00Z").removesuffix("T00:00")


NOW = ms("2026-11-27T14:20:00Z")  # a Friday


@pytest.mark.parametrize(
    ("since", "until", "now", "expected", "before"),
    [
        ("today", None, NOW, "2026-11-27 2026-11-27T14:20", "2026-11-26 2026-11-26T14:00"),
        ("today", "today", NOW, "2026-11-27 2026-11-27T14:20", "2026-11-26 2026-11-26T14:00"),
        ("week", None, NOW, "2026-11-23 2026-11-27T14:20", "2026-11-16 2026-11-20T14:00"),
        ("month", None, NOW, "2026-11-01 2026-11-27T14:20", "2026-10-01 2026-10-27T14:00"),
        (
            "month",
            None,
            ms("2026-03-31T10:05:00Z"),
            "2026-03-01 2026-03-31T10:05",
            "2026-02-01 2026-03-01",
        ),
        (
            "30d",
            None,
            NOW,
            "2026-10-28T14:00 2026-11-27T14:20",
            "2026-09-28T14:00 2026-10-28T14:00",
        ),
        ("2026-01-01", "2026-01-05", NOW, "2026-01-01 2026-01-06", "2025-12-27 2026-01-01"),
        (
            "2026-11-20",
            "2030-01-01",
            NOW,
            "2026-11-20 2026-11-27T14:20",
            "2026-11-12T10:00 2026-11-20",
        ),
        ("2d", "1d", NOW, "2026-11-25T14:00 2026-11-26T15:00", "2026-11-24T13:00 2026-11-25T14:00"),
    ],
)
def test_a_span_and_the_one_before(
    since: str, until: str | None, now: int, expected: str, before: str
) -> None:
    span = parse_span(since, until, now)
    assert f"{written(span.since)} {written(span.until)}" == expected
    compared = span.compared()
    assert compared is not None
    this, earlier = compared
    assert this.since == span.since
    assert span.until - 3_600_000 < this.until <= span.until
    assert f"{written(earlier.since)} {written(earlier.until)}" == before
    assert earlier.until <= this.since


def test_within_the_first_hour_of_a_span_there_is_nothing_to_compare() -> None:
    assert parse_span("today", None, ms("2026-11-27T00:59:59Z")).compared() is None


def test_nothing_is_compared_with_what_was_before_the_epoch() -> None:
    assert parse_span("36500d", None, NOW).compared() is None


@pytest.mark.parametrize(
    ("since", "until"), [("1d", "2d"), ("today", "2026-11-26"), ("2999-01-01", None), ("x", None)]
)
def test_no_span_is_empty_or_lies_in_the_future(since: str, until: str | None) -> None:
    with pytest.raises(UsageError):
        parse_span(since, until, NOW)

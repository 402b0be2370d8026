"""The ranges that pages of the administration show."""

from __future__ import annotations

import pytest

from opuslive.times import DAY_MS, HOUR_MS
from opuslive.web.admin.ranges import range_of_query
from opuslive.web.pages.report import first_day
from tests.support.clock import NOW

#: NOW is Monday, 23 November 2026, 15:04:05 UTC.
MIDNIGHT = NOW // DAY_MS * DAY_MS


def test_without_a_choice_it_is_that_of_check_usage() -> None:
    chosen = range_of_query({}, NOW)
    assert chosen.preset is not None
    assert (chosen.title, chosen.before) == ("The last 30 days", "the 30 days before")
    assert (chosen.span.since, chosen.span.until) == (first_day(NOW), NOW)
    # What the command shows the same with.
    assert (chosen.since, chosen.until, chosen.query) == ("2026-10-25", "", {})
    assert (chosen.first_day, chosen.last_day) == ("2026-10-25", "2026-11-23")


@pytest.mark.parametrize(
    ("query", "title", "before", "first", "step"),
    [
        ({"since": "today"}, "Today", "yesterday by this hour", MIDNIGHT, "hour"),
        ({"since": "week"}, "This week", "last week by this hour", MIDNIGHT, "hour"),
        (
            {"since": "month"},
            "This month",
            "last month by this hour",
            MIDNIGHT - 22 * DAY_MS,
            "day",
        ),
        (
            {"since": "2026-11-01", "until": "2026-11-10"},
            "1 Nov 2026 to 10 Nov 2026",
            "the 10 days before",
            MIDNIGHT - 22 * DAY_MS,
            "day",
        ),
        (
            {"since": " 2026-11-22 ", "until": "2026-11-22"},
            "22 Nov 2026",
            "the day before",
            MIDNIGHT - DAY_MS,
            "hour",
        ),
        (
            {"since": "30d"},
            "24 Oct 2026 to 23 Nov 2026",
            "the 30 days before",
            (NOW - 30 * DAY_MS) // HOUR_MS * HOUR_MS,
            "day",
        ),
        ({"until": "2026-11-10"}, "25 Oct 2026 to 10 Nov 2026", "the 17 days before", None, "day"),
    ],
)
def test_a_range_is_read_as_the_command_reads_it(
    query: dict[str, str], title: str, before: str, first: int | None, step: str
) -> None:
    chosen = range_of_query(query, NOW)
    assert (chosen.title, chosen.before, chosen.problem) == (title, before, None)
    assert first is None or chosen.span.since == first
    assert chosen.steps.name == step


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"since": "yesterday"}, "neither"),
        ({"since": "2026-13-01"}, "no day"),
        ({"since": "2027-01-01"}, "future"),
        ({"since": "2026-11-10", "until": "2026-11-01"}, "later"),
        ({"since": "\0" * 99}, "neither"),
    ],
)
def test_what_is_no_range_shows_the_last_days_and_what_is_wrong(
    query: dict[str, str], problem: str
) -> None:
    chosen = range_of_query(query, NOW)
    assert chosen.problem is not None
    assert problem in chosen.problem
    assert chosen.span == range_of_query({}, NOW).span

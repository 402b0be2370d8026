"""How figures, spans and moments read."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.limits.grammar import parse_limit
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.web.pages import words
from tests.support.clock import EVENING


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (1234, "1,234"),
        (99_999, "99,999"),
        (100_000, "100k"),
        (999_999, "999k"),
        (1_000_000, "1M"),
        (1_239_999, "1.23M"),
        (12_390_000, "12.3M"),
        (20_000_000, "20M"),
        (5 * 10**9, "5B"),
        (3 * 10**15, "3,000T"),
    ],
)
def test_counts_are_grouped_and_shortened(number: int, text: str) -> None:
    assert words.count(number) == text


@pytest.mark.parametrize(
    ("micro_usd", "complete", "text"),
    [
        (120_000, True, "$0.12"),
        (120_000, False, "at least $0.12"),
        (None, True, "\N{EN DASH}"),
        (None, False, "\N{EN DASH}"),
    ],
)
def test_costs_are_told_in_dollars(micro_usd: int | None, complete: bool, text: str) -> None:
    assert words.cost(micro_usd, complete=complete) == text


@given(st.integers(0, 10**15))
def test_a_count_is_never_more_than_it_is(number: int) -> None:
    text = words.count(number)
    factor = {"k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}.get(text[-1], 1)
    assert float(text.rstrip("kMBT").replace(",", "")) * factor <= number * (1 + 1e-12)


@pytest.mark.parametrize(
    ("micro_usd", "text"),
    [(0, "$0.00"), (12_345_678, "$12.35"), (10_000, "$0.01"), (2_500, "$0.0025"), (7, "$0.000007")],
)
def test_dollars_are_exact(micro_usd: int, text: str) -> None:
    assert words.dollars(micro_usd) == text


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ("2M tokens/5h", "2M tokens in any 5 hours"),
        ("60 requests/1m", "60 requests in any minute"),
        ("1 requests/90s", "1 request in any 90 seconds"),
        ("100k output_tokens/7d", "100k output tokens in any 7 days"),
        ("20 usd/month", "$20.00 a month"),
        ("500M tokens/total", "500M tokens in all"),
        ("8 concurrent", "8 requests at once"),
    ],
)
def test_limits_are_told_in_words(limit: str, text: str) -> None:
    parsed = parse_limit(limit)
    assert f"{words.counted(parsed)} {words.within(parsed)}" == text


@pytest.mark.parametrize(
    ("ahead", "text"),
    [
        (-5, "17:14:03 UTC (in 0 s)"),
        (1_500, "17:14:05 UTC (in 2 s)"),
        (11 * 60_000, "17:25:03 UTC (in 11 min)"),
        (5 * HOUR_MS, "22:15 UTC (in 5 h)"),
        (8 * HOUR_MS + 60_000, "24 Nov 2026, 01:16 UTC (in 8 h 1 min)"),
        (7 * DAY_MS, "30 Nov 2026, 17:15 UTC (in 7 days)"),
    ],
)
def test_upcoming_moments_are_rounded_up(ahead: int, text: str) -> None:
    told = words.upcoming(EVENING + ahead, EVENING)
    assert told.striptags() == text
    # Browsers are told the moment that people read.
    (moment,) = re.findall('datetime="([^"]+)"', told)
    assert moment[11:].startswith(text.rpartition(" UTC")[0].rpartition(", ")[2])
    assert moment.endswith("Z")


def test_moments_are_told_in_utc() -> None:
    assert words.moment(EVENING) == "23 Nov 2026, 17:14:03 UTC"
    assert words.exact_moment(EVENING + 7) == "2026-11-23 17:14:03.007"
    assert (words.short_day(EVENING), words.clock_time(EVENING)) == ("23 Nov", "17:14")


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "just now"),
        (59_999, "just now"),
        (60_000, "1 min ago"),
        (HOUR_MS - 1, "59 min ago"),
        (HOUR_MS, "1 h ago"),
        (2 * DAY_MS - 1, "47 h ago"),
        (2 * DAY_MS, "2 days ago"),
    ],
)
def test_past_moments_are_told_as_ages(ms: int, text: str) -> None:
    assert words.ago(EVENING - ms, EVENING) == text

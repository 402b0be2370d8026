"""Spans, sizes, amounts and times: what is read, what is refused, and the way back."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opuslive.errors import UsageError
from opuslive.quantities import (
    GB,
    KB,
    MAX_AMOUNT,
    MAX_DURATION,
    MAX_SIZE,
    MB,
    did_you_mean,
    format_amount,
    format_duration,
    format_size,
    format_when,
    is_glob,
    is_model_name,
    matches_glob,
    parse_amount,
    parse_duration,
    parse_since,
    parse_size,
    parse_until,
    parse_when,
    shown,
)
from opuslive.times import HOUR_MS, iso_ms, iso_seconds
from tests.support.clock import NOW

T = TypeVar("T")

THREE = NOW - NOW % HOUR_MS  # 2026-11-23T15:00:00Z
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("250ms", 0.25),
        ("90s", 90),
        ("10m", 600),
        ("5h", 18_000),
        ("7d", 604_800),
        ("2w", 1_209_600),
        (" 5s\n", 5),
        ("36500d", MAX_DURATION),
    ],
)
def test_durations_are_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "s",
        "5 s",
        "-5s",
        "+5s",
        "1.5h",
        "5H",
        "5M",
        "5y",
        "inf",
        "nans",
        "٥s",
        "36501d",
        "9" * 5000 + "s",
        "99999999999999999d",
        "1h30m",
        "5s5s",
        "5s\x00",
    ],
)
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


def test_a_refused_duration_comes_with_a_right_one() -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration("5 hours")
    assert caught.value.message == (
        "'5 hours' is not a duration; write a whole number and one of the units ms, s, m, h, d, w "
        "(in lower case), such as '90s', '10m', '5h' or '7d'"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (1.5, "1500ms"),
        (60, "1m"),
        (90, "90s"),
        (5400, "90m"),
        (86400, "1d"),
        (604800, "7d"),
    ],
)
def test_durations_are_written_in_the_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0B", 0),
        ("512B", 512),
        ("64KB", 64 * KB),
        ("32MB", 33554432),
        ("1GB", GB),
        ("32mb", 32 * MB),
        (" 1Kb ", KB),
        ("1048576GB", MAX_SIZE),
    ],
)
def test_sizes_are_read_as_bytes_in_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "32", "MB", "32 MB", "-1MB", "1.5MB", "32M", "32MiB", "32TB", "1048577GB", "9" * 5000],
)
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"such as '64KB' or '32MB'|at most 1048576GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (0, "0"),
        (2000000, "2000000"),
        ("2000000", "2000000"),
        ("2M", "2000000"),
        ("100k", "100000"),
        ("1.5M", "1500000"),
        ("2B", "2000000000"),
        ("2m", "2000000"),
        ("0.5", "0.5"),
        ("1K", "1000"),
        ("0.0001k", "0.1"),
        (" 60 ", "60"),
    ],
)
def test_amounts_are_read_exactly(value: int | str, amount: str) -> None:
    assert parse_amount(value) == Decimal(amount)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "M",
        "-1",
        "+1",
        "1e6",
        "inf",
        "nan",
        "1_000",
        "1,000",
        "2 M",
        "2G",
        ".5",
        "5.",
        "٣",
        "9" * 5000,
        "1000001B",
        "0." + "1" * 5000,
        -1,
        MAX_AMOUNT + 1,
    ],
)
def test_what_is_not_an_amount_is_refused(value: int | str) -> None:
    with pytest.raises(UsageError):
        parse_amount(value)


def test_a_number_too_long_to_print_is_refused_too() -> None:
    with pytest.raises(UsageError, match="between 0 and 1000000B"):
        parse_amount(10**5000)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0"),
        ("0.5", "0.5"),
        ("60", "60"),
        ("60.00", "60"),
        ("1000", "1k"),
        ("1500", "1.5k"),
        ("8192", "8192"),
        ("1234567", "1234567"),
        ("100000", "100k"),
        ("1250000", "1.25M"),
        ("2E+6", "2M"),
        ("500000000", "500M"),
        ("2000000000", "2B"),
    ],
)
def test_amounts_are_written_as_shortly_as_possible(amount: str, text: str) -> None:
    assert format_amount(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30d", THREE + 30 * DAY_MS),
        ("0s", THREE),
        ("250ms", THREE + 250),
        ("2026-12-31", 1_798_761_600_000),  # the end of the day: 2027-01-01T00:00:00Z
        ("2024-02-29", 1_709_251_200_000),
        ("2020-01-01", 1_577_923_200_000),  # passed; what to make of it is the caller's business
        ("2026-12-31T12:00:00Z", 1_798_718_400_000),
        ("2026-12-31T12:00Z", 1_798_718_400_000),
        ("2026-12-31T12:00:00.25Z", 1_798_718_400_250),
        ("2026-12-31T13:00:00+01:00", 1_798_718_400_000),
        (" 2026-12-31T12:00:00Z ", 1_798_718_400_000),
    ],
)
def test_when_something_ends(text: str, moment: int) -> None:
    assert parse_when(text, THREE) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("7d", THREE - 7 * DAY_MS),
        ("100w", THREE - 700 * DAY_MS),
        ("36500d", 0),  # not before the epoch
        ("2026-11-01", 1_793_491_200_000),  # the start of the day
        ("1970-01-01", 0),
        ("2026-11-23T12:00:00Z", THREE - 3 * 3_600_000),
    ],
)
def test_since_when_something_counts(text: str, moment: int) -> None:
    assert parse_since(text, THREE) == moment


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("today", "2026-11-23", "2026-11-24"),
        (" week ", "2026-11-23", "2026-11-30"),  # a Monday
        ("month", "2026-11-01", "2026-12-01"),
        ("2026-02-28", "2026-02-28", "2026-03-01"),
        ("3h", "2026-11-23T12:00:00", "2026-11-23T12:00:00"),
        ("2026-11-23T12:00:00Z", "2026-11-23T12:00:00", "2026-11-23T12:00:00"),
    ],
)
def test_where_a_stretch_begins_and_ends(text: str, since: str, until: str) -> None:
    for parse, moment in ((parse_since, since), (parse_until, until)):
        time = moment if "T" in moment else f"{moment}T00:00:00"
        assert iso_seconds(parse(text, THREE)) == f"{time}Z"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("2027-06-30", "2027-06-30"),
        ("2027-07-01T00:00:00Z", "2027-06-30"),
        ("2027-07-01T00:00:01Z", "2027-07-01T00:00:01Z"),
        ("2027-07-01T02:00:00+02:00", "2027-06-30"),
        ("2026-12-31", "2026-12-31"),
        ("9998-12-30", "9998-12-30"),
    ],
)
def test_a_moment_that_ends_a_day_is_written_as_that_day(written: str, shown: str) -> None:
    moment = parse_when(written, THREE)
    assert format_when(moment) == shown
    assert parse_when(format_when(moment), THREE) == moment


@pytest.mark.parametrize("parse", [parse_when, parse_since, parse_until])
@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("soon", "a span such as '30d'"),
        ("", "a span such as"),
        ("5 h", "a span such as"),
        ("2026-12-31T12:00:00", "add Z for UTC: '2026-12-31T12:00:00Z'"),
        ("2026-12-31 12:00:00Z", "such as '2026-12-31T12:00:00Z'"),
        ("2026-02-30", "there is no day '2026-02-30'"),
        ("2026-13-01T00:00:00Z", "there is no time"),
        ("2026-12-31T23:59:60Z", "there is no time"),
        ("2026-12-31T00:00:00+99:00", "there is no time"),
        ("9999-12-31", "outside the years 1970 to 9998"),
        ("9999-12-31T23:59:59Z", "outside the years"),
        ("9999-12-31T23:59:59-23:59", "outside the years"),
        ("0001-01-01T00:00:00+23:59", "outside the years"),
        ("1969-12-30", "outside the years"),
        ("0000-01-01", "there is no day"),
        ("99999d", "too long; a duration is at most 36500d"),
        ("２０２６-12-31", "a span such as"),
    ],
)
def test_moments_that_are_refused(parse: Callable[[str, int], int], text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, THREE)
    assert hint in caught.value.message


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("", "", True),
        ("", "a", False),
        ("*", "", True),
        ("*", "any\nthing", True),
        ("**", "a", True),
        ("claude-*", "claude-", True),
        ("claude-*", "claude-opus", True),
        ("claude-*", "xclaude-opus", False),
        ("claude-*", "Claude-opus", False),
        ("claude", "claude-opus", False),
        ("*opus", "claude-opus", True),
        ("*opus", "claude-opus-4", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*ab*ab*", "ab-ab", True),
        ("*ab*ab*", "abab", True),
        ("*ab*ab*", "aab", False),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-c", False),
        ("*b*b", "ab", False),
        ("claude-opus-4-8[1m]", "claude-opus-4-8[1m]", True),
        ("claude-opus-4-8[1m]", "claude-opus-4-81", False),
        ("*[1m]", "claude-opus-4-8[1m]", True),
        ("*[!1]", "claude-2", False),
        ("gpt-?", "gpt-?", True),
        ("gpt-?", "gpt-4", False),
        ("a.c", "abc", False),
        ("\\*", "\\x", True),
    ],
)
def test_a_star_alone_is_special_in_globs(glob: str, name: str, matches: bool) -> None:
    assert matches_glob(glob, name) is matches


@pytest.mark.parametrize(
    ("text", "glob"), [("a*", True), ("*", True), ("a?[b]", False), ("", False)]
)
def test_which_texts_are_globs(text: str, glob: bool) -> None:
    assert is_glob(text) is glob


def test_a_hostile_glob_is_decided_at_once() -> None:
    """It would take a matcher that tries all places longer than the universe is old."""
    assert not matches_glob("*a" * 50 + "*b", "a" * 1000)
    assert matches_glob("*a" * 1000 + "*", "a" * 1000)


@given(st.text("ab*?[]", max_size=8), st.text("ab?[]\n", max_size=12))
def test_globs_match_what_the_same_regular_expression_matches(glob: str, name: str) -> None:
    pattern = ".*".join(map(re.escape, glob.split("*")))
    assert matches_glob(glob, name) is (re.fullmatch(pattern, name, re.DOTALL) is not None)


@given(st.text())
def test_a_name_is_matched_by_itself(name: str) -> None:
    assert matches_glob(name, name)


def test_a_bad_value_is_shown_shortened_and_harmless() -> None:
    assert shown("x" * 10_000) == repr("x" * 39 + "…")
    assert shown("\x1b[2J\n") == r"'\x1b[2J\n'"
    assert shown("\ud800") == r"'\ud800'"
    assert shown(10**5000) == "a value of type int"


def test_an_unknown_word_gets_the_nearest_known_one_or_all() -> None:
    assert did_you_mean("prot", ["host", "port"]) == "did you mean 'port'?"
    assert did_you_mean("zzz", ["host", "port"]) == "known are host, port"


@given(st.integers(0, MAX_DURATION * 1000))
def test_durations_survive_the_round_trip(ms: int) -> None:
    assert parse_duration(format_duration(ms / 1000)) == ms / 1000


@given(st.integers(0, MAX_SIZE))
def test_sizes_survive_the_round_trip(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.decimals(0, MAX_AMOUNT, allow_nan=False, places=6))
def test_amounts_survive_the_round_trip(amount: Decimal) -> None:
    assert parse_amount(format_amount(amount)) == amount


@given(st.integers(0, MAX_AMOUNT))
def test_equal_amounts_are_written_alike(amount: int) -> None:
    canonical = format_amount(parse_amount(amount))
    assert canonical == format_amount(parse_amount(str(amount)))
    assert len(canonical) <= len(str(amount))


@given(st.integers(0, 253_370_764_799_999))
def test_times_survive_the_round_trip(ms: int) -> None:
    assert parse_when(iso_ms(ms), THREE) == parse_since(iso_ms(ms), THREE) == ms


#: Texts that are nearly right find more than texts of any characters.
NEARLY = st.from_regex(r"\s?[-+]?[0-9]{0,20}[.]?[0-9]{0,12}\s?[a-zA-Z]{0,3}\s?", fullmatch=True)
NEARLY_A_TIME = st.from_regex(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,7})?)?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})?)?",
    fullmatch=True,
)


@given(st.text() | NEARLY | NEARLY_A_TIME)
@example("5\u212aB")  # a Kelvin sign, which is a K to careless patterns
@example("5\u212a")
def test_any_text_is_a_value_or_a_usage_error(text: str) -> None:
    duration = value_or_message(parse_duration, text)
    assert isinstance(duration, str) or 0 <= duration <= MAX_DURATION
    size = value_or_message(parse_size, text)
    assert isinstance(size, str) or 0 <= size <= MAX_SIZE
    amount = value_or_message(parse_amount, text)
    assert isinstance(amount, str) or 0 <= amount <= MAX_AMOUNT
    for parse in (parse_when, parse_since, parse_until):
        moment = value_or_message(partial(parse, now_ms=THREE), text)
        assert isinstance(moment, str) or iso_ms(moment)


def value_or_message(parse: Callable[[str], T], text: str) -> T | str:
    """What the text is read as, or the message of the UsageError, which must be printable:
    it goes to a terminal, and nothing of the text may reach that raw.
    """
    message = ""
    try:
        return parse(text)
    except UsageError as error:
        message = error.message
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("claude-opus-4-8[1m]", True),
        ("vendor/model 1", True),
        ("a" * 256, True),
        ("a" * 257, False),
        ("", False),
        (" a", False),
        ("a ", False),
        ("a  b", False),
        ("a\n", False),
        ("a\tb", False),
        ("a\x1b[2J", False),
        ("a\x7f", False),
        ("caf\xe9", False),
        ("\u202ea", False),
        ("\uff41", False),
    ],
)
def test_a_strangers_name_of_a_model_is_plain(text: str, may: bool) -> None:
    assert is_model_name(text) is may

"""The grammar of limits: many spellings, one canonical text, errors that teach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.errors import UsageError
from opuslive.limits.grammar import (
    MAX_USD,
    MAX_WINDOW,
    MICRO_USD,
    Limit,
    Metric,
    Period,
    parse_limit,
    parse_limits,
)
from opuslive.quantities import MAX_AMOUNT


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("60 requests/1m", Limit(Metric.REQUESTS, 60, 60)),
        ("2M tokens/5h", Limit(Metric.TOKENS, 2_000_000, 18_000)),
        ("20M tokens/7d", Limit(Metric.TOKENS, 20_000_000, 604_800)),
        ("100k output_tokens/1m", Limit(Metric.OUTPUT_TOKENS, 100_000, 60)),
        ("8192 input_tokens/30s", Limit(Metric.INPUT_TOKENS, 8192, 30)),
        ("20 usd/month", Limit(Metric.USD, 20 * MICRO_USD, Period.MONTH)),
        ("0.5 usd/day", Limit(Metric.USD, 500_000, Period.DAY)),
        ("0.000001 usd/week", Limit(Metric.USD, 1, Period.WEEK)),
        ("500M tokens/total", Limit(Metric.TOKENS, 500_000_000, Period.TOTAL)),
        ("8 concurrent", Limit(Metric.CONCURRENT, 8, None)),
        ("1 requests/366d", Limit(Metric.REQUESTS, 1, MAX_WINDOW)),
    ],
)
def test_a_canonical_text_is_read_and_written_as_it_stands(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit
    assert str(limit) == limit.text == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2000000 tokens/5h", "2M tokens/5h"),
        ("2000k tokens/300m", "2M tokens/5h"),
        ("  2m  Tokens / 5h ", "2M tokens/5h"),
        ("60 requests/60s", "60 requests/1m"),
        ("60.0 requests/1m", "60 requests/1m"),
        ("1500 requests/24h", "1.5k requests/1d"),
        ("1 requests/1w", "1 requests/7d"),
        ("0.50 USD/Day", "0.5 usd/day"),
        ("1.5k usd/month", "1500 usd/month"),
        ("8  CONCURRENT", "8 concurrent"),
        ("1000 concurrent", "1000 concurrent"),
    ],
)
def test_other_spellings_have_the_same_canonical_text(text: str, canonical: str) -> None:
    assert parse_limit(text).text == canonical


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "is not a limit; write it like '60 requests/1m'"),
        ("60", "is not a limit"),
        ("60/1m", "is not a limit"),
        ("requests/1m", "is not a limit"),
        ("60requests/1m", "write it like '60 requests/1m'"),
        ("8 concurrent requests", "or '8 concurrent'"),
        ("60 token/1m", "no such metric 'token'; did you mean 'tokens'?"),
        ("60 cats/1m", "known are requests, tokens, input_tokens, output_tokens, usd, concurrent"),
        ("60 requests", "add a window, as in '60 requests/1m' or '60 requests/day'"),
        ("60 requests/", "add a window"),
        ("8 concurrent/1m", "write it like '8 concurrent'"),
        ("8 concurrent/", "write it like '8 concurrent'"),
        ("60 requests/hour", "no such window 'hour'; did you mean '1h'?"),
        ("60 requests/minutes", "did you mean '1m'?"),
        ("60 requests/moth", "did you mean 'month'?"),
        ("60 requests/years", "did you mean '365d'?"),
        ("60 requests/fortnight", "write '30s', '1m', '5h', '7d' or the like, or 'day'"),
        ("60 requests/1m/1m", "no such window '1m/1m'"),
        ("60 requests/5", "no such window '5'"),
        ("60 requests/5H", "no such window '5H'; did you mean '5h'?"),
        ("60 requests/1M", "did you mean '1m' or 'month'?"),
        ("60 requests/0s", "a window of '0s' is not possible"),
        ("60 requests/500ms", "whole seconds from '1s' to '366d'"),
        ("60 requests/367d", "is not possible"),
        ("60 requests/99999999d", "no such window '99999999d'; write '30s'"),
        ("60 requests/999999h", "no such window '999999h'; write '30s'"),
        ("0 requests/1m", "would refuse everything; write 1 or more"),
        ("0 concurrent", "would refuse everything"),
        ("-5 requests/1m", "'-5' is not an amount"),
        ("lots requests/1m", "such as '60', '100k' or '1.5M'"),
        ("1.5 requests/1m", "only usd may have a fraction, as in '0.5 usd/day'"),
        ("0.5 concurrent", "not a whole number"),
        ("0 usd/month", "dollars from 0.000001 to 1000000000"),
        ("0.0000001 usd/month", "at most six decimals"),
        ("2B usd/month", "dollars from"),
        ("$20 usd/month", "'$20' is not an amount"),
        ("nan tokens/1m", "'nan' is not an amount"),
        ("5\u212a tokens/1m", "is not an amount"),
        ("\x1b[2J tokens", r"'\x1b[2J' is not an amount"),
    ],
)
def test_a_refused_limit_comes_with_a_right_one(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_limit(text)
    assert hint in caught.value.message


def test_several_limits_keep_their_order() -> None:
    limits = parse_limits(["60 requests/1m", "1k requests/1d", "1k requests/day", "8 concurrent"])
    assert [limit.text for limit in limits] == [
        "60 requests/1m",
        "1k requests/1d",
        "1k requests/day",
        "8 concurrent",
    ]
    assert parse_limits([]) == ()


def test_two_limits_of_the_same_thing_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        parse_limits(["60 requests/60s", "8 concurrent", "90 requests/1m"])
    assert caught.value.message == (
        "'60 requests/1m' and '90 requests/1m' limit the same thing; keep only one of them"
    )
    with pytest.raises(UsageError):
        parse_limits(["8 concurrent", "9 concurrent"])


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("2M tokens/5h", ("tokens", "5h", 18_000, 2_000_000)),
        ("20 usd/month", ("usd", "month", None, 20.0)),
        ("500M tokens/total", ("tokens", "total", None, 500_000_000)),
        ("8 concurrent", ("concurrent", None, None, 8)),
    ],
)
def test_the_members_that_interfaces_show(text: str, members: tuple[object, ...]) -> None:
    shown = parse_limit(text).as_dict()
    assert shown.pop("limit") == text
    assert (shown.pop("raised_from"), shown.pop("raised_until")) == (None, None)
    assert tuple(shown.values()) == members
    assert tuple(shown) == ("metric", "window", "window_seconds", "max")


WINDOWS = st.integers(1, MAX_WINDOW) | st.sampled_from(Period)
LIMITS = (
    st.builds(
        Limit,
        st.sampled_from([metric for metric in Metric if metric is not Metric.CONCURRENT]),
        st.integers(1, min(MAX_AMOUNT, MAX_USD * MICRO_USD)),
        WINDOWS,
    )
    | st.builds(Limit, st.just(Metric.CONCURRENT), st.integers(1, MAX_AMOUNT), st.none())
)  # fmt: skip


@given(LIMITS)
def test_a_canonical_text_reads_back_as_the_same_limit(limit: Limit) -> None:
    assert parse_limit(limit.text) == limit


@given(LIMITS, LIMITS)
def test_limits_are_equal_when_their_texts_are(one: Limit, other: Limit) -> None:
    assert (one == other) == (one.text == other.text)


NEARLY = st.from_regex(
    r"[-+]?[0-9.]{0,19}[kMB]? ?(requests|usd|tokens?|concurrent)? ?/? ?([0-9]{0,9}[a-zA-Z]{0,5})",
    fullmatch=True,
)


@given(st.text() | NEARLY | st.text().map("{} tokens".format))
def test_any_text_is_a_limit_or_a_usage_error(text: str) -> None:
    message = None
    try:
        limit = parse_limit(text)
    except UsageError as error:
        message = error.message
    if message is not None:
        # It goes to a terminal: nothing of the text may reach it raw.
        assert message.isprintable()
    else:
        assert parse_limit(limit.text) == limit
        assert parse_limit(limit.text).text == limit.text

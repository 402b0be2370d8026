"""How long an upstream asks to wait. The kind: every form in which that is said, and every form
of nonsense in its place.

* whole seconds, decimals, with blanks, zeros or a plus; ms in a header of their own;
* the three forms of a date, in the past and in the future, with and without the answer's own date;
* what is no number and no date, is negative, or is longer than anyone waits.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.dialects.waits import MAX_WAIT, retry_after
from tests.support.clock import WEDNESDAY


def said(*values: bytes, now: int = WEDNESDAY) -> int | None:
    return retry_after([(b"Retry-After", value) for value in values], now)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"17", 17),
        (b"0", 0),
        (b" 7200\t", 7200),
        (b"+5", 5),
        (b"007", 7),
        (b"1.5", 2),
        (b"0.2", 1),
        (b".5", 1),
        (b"3.", 3),
        (b"3.000", 3),
        (b"3.0000000001", 4),
        (b"59.999999999999999999", 60),
        (b"%d" % MAX_WAIT, MAX_WAIT),
        (b"%d.5" % MAX_WAIT, None),
        (b"9" * 5000, None),
    ],
)
def test_a_number_is_rounded_up_to_whole_seconds(value: bytes, seconds: int | None) -> None:
    assert said(value) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"Wed, 21 Oct 2026 07:28:30 GMT", 30),
        (b"Wednesday, 21-Oct-26 07:28:30 GMT", 30),
        (b"Wed Oct 21 07:28:30 2026", 30),
        (b"Wed, 21 Oct 2026 09:28:30 +0200", 30),
        (b"Wed, 21 Oct 2026 07:28:00 GMT", 0),
        (b"Wed, 21 Oct 2026 07:27:00 GMT", 0),
        (b"Thu, 22 Oct 2026 07:28:00 GMT", 86_400),
        (b"Thu, 21 Oct 2036 07:28:00 GMT", None),
        (b"Wed, 31 Feb 2026 07:28:00 GMT", None),
        (b"Wed, 21 Oct 99999 07:28:00 GMT", None),
        (b"Wed, 21 Oct 2026 25:61:00 GMT", None),
        (b"Wed,", None),
        (b"Wednesday", None),
    ],
)
def test_a_date_becomes_the_seconds_until_then(value: bytes, seconds: int | None) -> None:
    assert said(value) == seconds


@pytest.mark.parametrize(
    ("now", "seconds"), [(WEDNESDAY + 1, 30), (WEDNESDAY + 999, 30), (WEDNESDAY - 1, 31)]
)
def test_a_part_of_a_second_is_waited_for(now: int, seconds: int) -> None:
    assert said(b"Wed, 21 Oct 2026 07:28:30 GMT", now=now) == seconds


def test_a_date_counts_from_the_answers_own_date() -> None:
    headers = [
        (b"date", b"Wed, 21 Oct 2026 10:00:00 GMT"),
        (b"retry-after", b"Wed, 21 Oct 2026 10:00:12 GMT"),
    ]
    assert retry_after(headers, WEDNESDAY) == 12
    assert retry_after([(b"date", b"today"), headers[1]], WEDNESDAY) == 2 * 3600 + 32 * 60 + 12


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"Retry-After-Ms", b"9")], 1),
        ([(b"retry-after-ms", b"1000")], 1),
        ([(b"retry-after-ms", b"1000.5")], 2),
        ([(b"retry-after-ms", b"0")], 0),
        ([(b"retry-after-ms", b"250"), (b"retry-after", b"30")], 1),
        ([(b"retry-after", b"30"), (b"retry-after-ms", b"-250")], 30),
        ([(b"retry-after", b"30"), (b"retry-after-ms", b"soon")], 30),
        ([(b"retry-after-ms", b"soon")], None),
        ([(b"x-retry-after", b"30")], None),
        ([], None),
    ],
)
def test_milliseconds_win_where_they_can_be_read(
    headers: list[tuple[bytes, bytes]], seconds: int | None
) -> None:
    assert retry_after(headers, WEDNESDAY) == seconds


@pytest.mark.parametrize(
    "value",
    [b"", b".", b"-", b"-3", b"-0.5", b"1e3", b"5s", b"1,5", b"0x10", b"NaN", b"inf", b"later",
     "٣".encode(), b"\xff", b"1 2", b"tomorrow, 21 Oct 2026 07:28:30 GMT", b"2026-10-21T07:28:30Z"],
)  # fmt: skip
def test_nonsense_is_no_wait(value: bytes) -> None:
    assert said(value) is None


@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(str.encode)
    | st.text("MonWedThuOctDec,-+:. 0123456789GMT", max_size=50).map(
        lambda s: b"Wed, " + s.encode()
    )
)
def test_whatever_is_said_is_a_bounded_number_or_nothing(value: bytes) -> None:
    seconds = said(value)
    assert seconds is None or 0 <= seconds <= MAX_WAIT

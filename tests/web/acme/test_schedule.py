"""When a certificate is renewed and when a failed attempt is repeated: functions of times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.web.acme.schedule import (
    ADVICE_SPAN,
    DAY,
    FIRST_PAUSE,
    HOUR,
    LONGEST_ADVICE_SPAN,
    LONGEST_PAUSE,
    LONGEST_WISH,
    MINUTE,
    SHORTEST_ADVICE_SPAN,
    Pause,
    Window,
    advice_span,
    pause_after,
    renewal_at,
    window_of,
)
from opuslive.web.http.tls import Validity

NOVEMBER = 1_795_000_000.0
LIFE = Validity(NOVEMBER, NOVEMBER + 90 * DAY)
CHANCE = st.floats(0, 1)


def test_without_advice_it_is_renewed_at_two_thirds_of_its_life() -> None:
    assert renewal_at(LIFE, None, 0.5) == NOVEMBER + 60 * DAY
    six_days = Validity(NOVEMBER, NOVEMBER + 6 * DAY)
    assert renewal_at(six_days, None, 0.5) == NOVEMBER + 4 * DAY


def test_with_advice_it_is_renewed_within_the_window_wherever_chance_says() -> None:
    window = Window(NOVEMBER + 50 * DAY, NOVEMBER + 52 * DAY)
    moments = [renewal_at(LIFE, window, chance) for chance in (0.0, 0.5, 1.0)]
    assert moments == [NOVEMBER + days * DAY for days in (50, 51, 52)]


def test_advice_to_renew_at_once_is_followed_and_advice_to_let_it_expire_is_not() -> None:
    assert renewal_at(LIFE, Window(NOVEMBER - DAY, NOVEMBER), 0.0) < NOVEMBER
    late = Window(LIFE.ends + DAY, LIFE.ends + 1000 * DAY)
    assert renewal_at(LIFE, late, 0.0) == pytest.approx(NOVEMBER + 81 * DAY)


def test_a_window_is_read_in_any_zone() -> None:
    document = {
        "suggestedWindow": {"start": "2026-11-27T00:00:00Z", "end": "2026-11-27T03:00:00+01:00"},
        "explanationURL": "https://ca.example/why",
    }
    window = window_of(document)
    assert window is not None
    assert window.ends - window.begins == 2 * HOUR


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"suggestedWindow": []},
        {"suggestedWindow": {}},
        {"suggestedWindow": {"start": "2026-11-27T00:00:00Z"}},
        {"suggestedWindow": {"start": 1, "end": 2}},
        {"suggestedWindow": {"start": "soon", "end": "later"}},
        {"suggestedWindow": {"start": "2026-11-27", "end": "2026-11-28"}},
        {"suggestedWindow": {"start": "2026-11-27T00:00:00", "end": "2026-11-28T00:00:00"}},
        {"suggestedWindow": {"start": "2026-11-28T00:00:00Z", "end": "2026-11-27T00:00:00Z"}},
        {"suggestedWindow": {"start": "2026-11-28T00:00:00Z", "end": "2026-11-28T00:00:00Z"}},
        {"suggestedWindow": {"start": "0001-01-01T00:00:00+14:00", "end": "9999-12-31T23:59:60Z"}},
    ],
)
def test_what_is_no_window_counts_as_none(document: object) -> None:
    assert window_of(document) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.datetimes().map(str),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.text(),
)
def test_no_document_is_more_than_no_window(inner: object, text: str) -> None:
    for document in (inner, {"suggestedWindow": inner}, {"suggestedWindow": {"start": text}}):
        assert window_of(document) is None


@pytest.mark.parametrize(
    ("said", "span"),
    [
        (None, ADVICE_SPAN),
        (0.0, SHORTEST_ADVICE_SPAN),
        (HOUR, HOUR),
        (1e12, LONGEST_ADVICE_SPAN),
    ],
)
def test_the_authority_decides_within_bounds_how_often_it_is_asked(
    said: float | None, span: float
) -> None:
    assert advice_span(said) == span


def test_pauses_double_up_to_six_hours() -> None:
    minutes = [pause_after(failures, 0.5, None) / MINUTE for failures in range(1, 12)]
    assert minutes == [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360]
    assert pause_after(10**9, 0.5, None) == LONGEST_PAUSE


@given(st.integers(1, 10**6), CHANCE, st.none() | st.floats(0, 1e12))
def test_a_pause_is_neither_nothing_nor_for_ever_whatever_the_authority_wishes(
    failures: int, chance: float, wish: float | None
) -> None:
    pause = pause_after(failures, chance, wish)
    assert FIRST_PAUSE * 0.75 <= pause <= max(LONGEST_PAUSE * 1.25, LONGEST_WISH)
    assert pause >= min(wish or 0, LONGEST_WISH)


def test_pauses_that_begin_together_end_apart() -> None:
    assert pause_after(1, 0.0, None) < pause_after(1, 0.3, None) < pause_after(1, 1.0, None)


def test_a_pause_ends_at_once_when_the_clock_is_set_back_to_before_it() -> None:
    pause = Pause(NOVEMBER, HOUR)
    assert pause.ends(NOVEMBER + MINUTE) == NOVEMBER + HOUR
    assert pause.ends(NOVEMBER - DAY) == NOVEMBER - DAY

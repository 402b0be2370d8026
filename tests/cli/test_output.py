"""How counts and bars are printed."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.cli.output import bar, format_short_count
from opuslive.web.pages import words


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10k"),
        (12_345, "12.3k"),
        (999_499, "999k"),
        (999_999, "999k"),
        (8_946_361, "8.94M"),
        (100_300, "100k"),
        (1_002_000, "1M"),
        (1_012_000, "1.01M"),
        (1_234_567, "1.23M"),
        (5 * 10**9, "5B"),
        (10**12, "1T"),
        (5 * 10**16, "50,000T"),
    ],
)
def test_counts_from_ten_thousand_on_have_three_digits(number: int, shown: str) -> None:
    assert format_short_count(number) == shown


@given(st.integers(100_000, 10**16))
def test_a_short_count_is_the_same_on_a_terminal_and_on_a_page(number: int) -> None:
    assert format_short_count(number) == words.count(number)


@pytest.mark.parametrize(
    ("amount", "of", "shown"),
    [(0, 10, ""), (5, 0, ""), (10, 10, "████"), (5, 10, "██"), (1, 10**9, "▏"), (7, 16, "█▊")],
)
def test_bars_are_exact_to_an_eighth_of_a_character(
    amount: int, of: int, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert bar(amount, of, width=4) == shown

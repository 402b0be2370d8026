"""What it means how a client takes a certificate."""

from __future__ import annotations

import pytest

from opuslive.diagnostics.certificate import DAY_SECONDS, Presented, judge

NOW = 1_000_000_000.0


def found(code: int, days: float | None) -> dict[str, tuple[str, str]]:
    ends = None if days is None else NOW + days * DAY_SECONDS
    presented = Presented(code, "as OpenSSL says", ends)
    return {each.name: (each.level.value, each.text) for each in judge(presented, "a.example", NOW)}


@pytest.mark.parametrize(
    ("code", "level"), [(0, "ok"), (10, "error"), (62, "error"), (64, "error"), (20, "warning")]
)
def test_what_clients_say_is_the_level(code: int, level: str) -> None:
    assert found(code, 90)["certificate"][0] == level


@pytest.mark.parametrize(("days", "level"), [(90, "ok"), (14.5, "ok"), (13.9, "warning")])
def test_few_days_are_told(days: float, level: str) -> None:
    assert found(0, days)["certificate's end"][0] == level


def test_of_an_end_that_is_not_known_nothing_is_said() -> None:
    assert "certificate's end" not in found(10, None)

"""The classes of answers as parts of a bar."""

from __future__ import annotations

from opuslive.usage import TokenCounts, UsageSum
from opuslive.web.pages.outcomes import outcome_parts


def test_the_parts_are_all_requests_and_fill_the_bar() -> None:
    parts = outcome_parts(UsageSum(97, 3, TokenCounts(), 5, 6, 7))
    assert [(part.name, part.number, part.share) for part in parts] == [
        ("served", 79, "79.0 %"),
        ("client errors", 5, "5.0 %"),
        ("upstream trouble", 6, "6.0 %"),
        ("cut by the client", 7, "7.0 %"),
        ("recorded refusals", 3, "3.0 %"),
    ]
    end = 0.0
    for part in parts:
        assert part.x == end
        end = part.x + part.width
    assert end == 100.0


def test_nothing_fills_nothing() -> None:
    assert {(part.width, part.share) for part in outcome_parts(UsageSum())} == {(0.0, "–")}

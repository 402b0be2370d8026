"""Shares as terminals show them: they are those of the pages."""

from __future__ import annotations

import re

import pytest

from opuslive.cli.outcomes import percent
from opuslive.web.pages.proportions import share


@pytest.mark.parametrize(
    ("part", "whole", "written"),
    [
        (7, 90, "7.7%"),
        (6, 90, "6.6%"),
        (9_999, 10_000, "99%"),
        (1, 1_000_000, "<0.1%"),
        (0, 7, "0%"),
        (7, 7, "100%"),
    ],
)
def test_a_share_is_rounded_as_on_the_pages(part: int, whole: int, written: str) -> None:
    assert percent(part, whole) == written
    on_page = re.sub(" ", "", share(part, whole))
    assert on_page.startswith(written.rstrip("%"))


def test_nothing_has_no_shares() -> None:
    assert percent(0, 0) == ""

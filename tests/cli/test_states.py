"""States of keys in tables: a table of some keys says no less than that of all."""

from __future__ import annotations

from opuslive.cli.states import state_cell

KEY = {"state": "exhausted", "exhausted_by": [{"scope": "group"}, {"scope": "group"}]}


def test_an_exhausted_key_says_whose_limit_is_used_up() -> None:
    cell = state_cell(KEY)
    assert cell.full == "exhausted: group"


def test_an_invited_key_says_until_when() -> None:
    key = {
        "state": "invited",
        "exhausted_by": [],
        "invitation_expires_at": "2030-01-08T00:00:00Z",
    }
    assert state_cell(key).full == "invited until 2030-01-08"

"""States of keys in tables: every table says the same of a key."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from opuslive.cli.output import Cell

#: Whose limits are used up: scope → the word in a table.
_WHOSE: Mapping[str, str] = MappingProxyType({"key": "own", "group": "group", "gateway": "gateway"})


def state_of(key: Mapping[str, Any]) -> str:
    """The state; of an invited key also until when the invitation is good."""
    state: str = key["state"]
    return f"{state} until {key['invitation_expires_at'][:10]}" if state == "invited" else state


def state_cell(key: Mapping[str, Any]) -> Cell:
    """The state; of an exhausted key also whose limits are used up."""
    state = state_of(key)
    whose = ", ".join(dict.fromkeys(_WHOSE[each["scope"]] for each in key["exhausted_by"]))
    return Cell(f"{state}: {whose}", f"{state}:\n{whose}") if whose else Cell(state)

"""Waiting for a database that another process has."""

from __future__ import annotations

import pytest

from opuslive.cli.waiting import Patience
from opuslive.storage import DatabaseInUse

IN_USE = DatabaseInUse("in use")


async def test_patience_waits_while_time_is_left() -> None:
    await Patience(3600).wait(IN_USE)


async def test_patience_raises_the_error_when_no_time_is_left() -> None:
    with pytest.raises(DatabaseInUse) as raised:
        await Patience(0).wait(IN_USE)
    assert raised.value is IN_USE

"""A gateway whose clients and upstreams a test plays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.rig import Caller, Rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig.open(tmp_path / "opuslive.db")
    yield rig
    await rig.finish()


@pytest.fixture
def caller(rig: Rig) -> Caller:
    return rig.caller()

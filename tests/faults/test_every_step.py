"""Die at each step that a small scenario takes on the disk, one after the other.

A step is a write, a truncation, a sync or a removal of the database, its write-ahead log, its
shared memory or their folder. After each death the files hold all that was confirmed, and the
next start carries through what was begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from opuslive.storage import open_storage
from tests.support.invariants import examine
from tests.support.ledger import Ending, Ledger, Life
from tests.support.load import Load
from tests.support.provider import ScriptedUpstream
from tests.support.server import Servers
from tests.support.shim import Action, Faults, Operation

pytestmark = pytest.mark.asyncio(loop_scope="module")

_DIED = (OSError, EOFError, asyncio.IncompleteReadError, AssertionError)


class Stage:
    """Plays the scenario on a fresh database each time."""

    def __init__(self, servers: Servers, upstream: ScriptedUpstream, library: Path) -> None:
        self._servers = servers
        self._upstream = upstream
        self._library = library
        self.compared = 0

    async def steps(self) -> int:
        """How many steps the scenario takes when nothing happens to it."""
        assert not await self.dies_at(Action.KILL, 2**32)
        return self._calls

    async def dies_at(self, action: Action, step: int, operations: Operation | None = None) -> bool:
        """Play it, let it die at this step, and check what is left; whether it got that far."""
        server = self._servers.make(self._upstream.base_url)
        faults = Faults(self._library, server)
        ledger = Ledger()
        load = Load(server, self._upstream, ledger, random.Random(step))
        faults.inject(action, first=step, operations=operations or Operation.CHANGE)
        try:
            await server.start()
            kept, deleted = await load.create_key(), await load.create_key()
            assert (await load.ask(deleted, Ending.WHOLE)).complete == 200
            assert (await load.ask(kept, Ending.WHOLE)).complete == 200
            await load.delete_key(deleted)
            await server.stop()
        except _DIED:
            if not faults.injected:
                raise
        died = faults.injected > 0
        await server.kill()
        self._calls = faults.calls
        what = f"step {step}, {faults.steps()[-1:]}"
        problems, _ = examine(server.database, ledger)
        assert problems == [], what
        if died:
            assert "Traceback" not in server.log, what
        # The next start, without the rest of the server.
        await (await open_storage(f"sqlite://{server.database}")).close()
        ledger.started()
        problems, found = examine(server.database, ledger)
        assert problems == [], what
        self.compared += len(found.rows)
        assert died or [key.life for key in ledger.keys] == [Life.CONFIRMED, Life.DELETED]
        with contextlib.suppress(FileNotFoundError):
            server.database.unlink()
        return died


@pytest.fixture
def stage(servers: Servers, upstream: ScriptedUpstream, library: Path) -> Stage:
    return Stage(servers, upstream, library)


async def test_a_death_at_some_steps_on_the_disk_loses_nothing(stage: Stage) -> None:
    steps = await stage.steps()
    assert steps > 50
    for quarter in range(4):
        assert await stage.dies_at(Action.KILL, steps * (2 * quarter + 1) // 8)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_death_at_every_step_on_the_disk_loses_nothing(stage: Stage) -> None:
    step = 1
    while await stage.dies_at(Action.KILL, step):
        step += 1
    print(f"died at {step - 1} steps, compared {stage.compared} records")
    assert step > 50


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_death_in_the_middle_of_every_write_loses_nothing(stage: Stage) -> None:
    step = 1
    while await stage.dies_at(Action.TORN, step, Operation.WRITE):
        step += 1
    print(f"died in {step - 1} writes, compared {stage.compared} records")
    assert step > 50

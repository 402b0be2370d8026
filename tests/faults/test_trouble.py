"""The disk is full or fails, at every step of what a running gateway writes, and of its start."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.failing_disk import FailingDisk
from tests.support.invariants import examine
from tests.support.ledger import HeldKey, Life
from tests.support.provider import ScriptedUpstream
from tests.support.server import Servers
from tests.support.shim import Action, Operation
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAULTS = [(Action.FAIL, errno.ENOSPC), (Action.FAIL, errno.EIO), (Action.SHORT, errno.ENOSPC)]


@pytest.fixture
def rig(servers: Servers, upstream: ScriptedUpstream, library: Path) -> FailingDisk:
    return FailingDisk(servers, upstream, library)


class TestSettlement:
    async def fails_at(self, rig: FailingDisk, steps: Iterable[int]) -> int:
        injected = 0
        for step in steps:
            for action, error in FAULTS:
                kinds = Operation.WRITE if action is Action.SHORT else Operation.CHANGE
                rig.faults.inject(action, operations=kinds, first=step, error=error)
                asked = await rig.ask()
                if rig.faults.injected:
                    injected += 1
                    assert asked.complete in (None, 503), (step, action)
                    await rig.refuses()
                else:
                    assert asked.complete == 200
                await rig.recovers()
        return injected

    async def test_a_fault_at_the_first_and_last_step_of_a_settlement_costs_no_record(
        self, rig: FailingDisk
    ) -> None:
        await rig.start()
        steps = await rig.calls_of_a_request()
        assert await self.fails_at(rig, [1, steps]) >= 4
        await rig.check()

    @pytest.mark.long
    @pytest.mark.timeout(600)
    async def test_a_fault_at_every_step_of_a_settlement_costs_no_record(
        self, rig: FailingDisk
    ) -> None:
        await rig.start()
        steps = await rig.calls_of_a_request()
        injected = await self.fails_at(rig, range(1, steps + 3))
        print(f"{injected} faults, {await rig.check()} records compared")

    @pytest.mark.long
    @pytest.mark.timeout(600)
    async def test_a_single_call_fails_now_and_then(self, rig: FailingDisk) -> None:
        """One that is over at once: the next try is good."""
        await rig.start()
        for step in range(1, 40):
            action, error = FAULTS[step % 2]
            rig.faults.inject(action, first=step, last=step, error=error)
            while not rig.faults.injected and rig.faults.calls < step:
                asked = await rig.ask()
            assert asked.complete in ((None, 503) if rig.faults.injected else (200,))
            await rig.recovers()
        print(f"{await rig.check()} records compared")


class TestAdministration:
    async def fails_at(self, rig: FailingDisk, step: int) -> None:
        """Create, change and delete a key on a disk that fails from this step of each on."""
        rig.faults.inject(Action.FAIL, first=step, error=errno.ENOSPC)
        name = f"vain-{step}"
        answer = await rig.administer("POST", "keys", name=name)
        if rig.faults.injected:
            assert answer.status == 503, answer
            assert answer.header("content-type") == "application/problem+json"
            assert (await rig.administer("GET", f"keys/{name}")).status == 404
            rig.faults.lift()
            await rig.recovers()
            answer = await rig.administer("POST", "keys", name=name)
        assert answer.status == 201, answer

        rig.faults.inject(Action.FAIL, first=step, error=errno.ENOSPC)
        answer = await rig.administer("PATCH", f"keys/{name}", group="friends")
        if rig.faults.injected:
            assert answer.status == 503, answer
            assert (await rig.administer("GET", f"keys/{name}")).json()["group"] is None
            await rig.recovers()
            answer = await rig.administer("PATCH", f"keys/{name}", group="friends")
        assert answer.status == 200, answer
        rig.ledger.keys.append(HeldKey(name.rstrip("."), life=Life.ASKED))

        rig.faults.inject(Action.FAIL, first=step, error=errno.ENOSPC)
        deletion = asyncio.create_task(rig.administer("DELETE", f"keys/{name}"))
        await eventually(lambda: deletion.done() or rig.faults.injected > 0)
        if rig.faults.injected:
            await rig.recovers()
            if (await deletion).status == 503:  # nothing was erased: it is as it was
                assert (await rig.administer("GET", f"keys/{name}")).json()["group"] == "friends"
                deletion = asyncio.create_task(rig.administer("DELETE", f"keys/{name}"))
        rig.faults.lift()
        assert (await deletion).status == 200
        assert (await rig.administer("GET", f"keys/{name}")).status == 404

    async def test_a_fault_at_two_steps_of_a_change_of_keys_leaves_all_or_nothing(
        self, rig: FailingDisk
    ) -> None:
        await rig.start()
        await self.fails_at(rig, 1)
        await self.fails_at(rig, 12)
        await rig.check()

    @pytest.mark.long
    @pytest.mark.timeout(600)
    async def test_a_fault_at_every_step_of_a_change_of_keys_leaves_all_or_nothing(
        self, rig: FailingDisk
    ) -> None:
        await rig.start()
        for step in range(1, 50):
            await self.fails_at(rig, step)
        await rig.check()


class TestStart:
    async def refused(self, rig: FailingDisk, step: int, error: int, kept: Path) -> bool:
        """Start on a disk that fails from this step on; whether it got that far."""
        folder = rig.server.database.parent
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        rig.faults.inject(Action.FAIL, operations=Operation.ANY, first=step, error=error)
        starting = asyncio.create_task(rig.server.start())
        await asyncio.wait([starting])
        injected = rig.faults.injected > 0
        what = f"step {step}, errno {error}: {rig.server.log}"
        if starting.exception() is None:
            await rig.server.kill()  # it starts, if it can do without what failed
        else:
            assert injected, what
            assert await rig.server.wait() == 1, what
            assert rig.server.log.count("Error: ") == 1, what
        assert "Traceback" not in rig.server.log, what
        rig.faults.lift()
        problems, found = examine(rig.server.database, rig.ledger)
        assert problems == [], what
        assert len(found.rows) == rig.ledger.complete + 1, what
        return injected

    async def prepared(self, rig: FailingDisk, tmp_path: Path) -> Path:
        """A copy of the database's folder as a crash left it: with a request that still ran."""
        await rig.start()
        staying = asyncio.create_task(rig.load.stay(rig.key))
        while not rig.ledger.died():
            assert (await rig.ask()).complete == 200
        await rig.server.kill()
        await staying
        kept = tmp_path / "kept"
        shutil.copytree(rig.server.database.parent, kept, ignore=shutil.ignore_patterns("*.sock"))
        return kept

    async def test_a_fault_at_some_steps_of_a_start_changes_no_record(
        self, rig: FailingDisk, tmp_path: Path
    ) -> None:
        kept = await self.prepared(rig, tmp_path)
        assert not await self.refused(rig, 2**32, errno.EIO, kept)
        steps = rig.faults.calls
        for step in (steps // 3, steps - 1):  # the last ones close the open record
            assert await self.refused(rig, step, errno.EIO, kept)

    @pytest.mark.long
    @pytest.mark.timeout(600)
    async def test_a_fault_at_every_step_of_a_start_changes_no_record(
        self, rig: FailingDisk, tmp_path: Path
    ) -> None:
        kept = await self.prepared(rig, tmp_path)
        for error in (errno.EIO, errno.ENOSPC, errno.EACCES):
            step = 1
            while await self.refused(rig, step, error, kept):
                step += 1
            print(f"errno {error}: refused at {step - 1} steps")
            assert step > 5

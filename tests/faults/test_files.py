"""A slow disk, a database that another program locks, and files that go away."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.failing_disk import FailingDisk
from tests.support.invariants import examine, left
from tests.support.provider import ScriptedUpstream
from tests.support.server import Servers
from tests.support.shim import Action, File, Operation
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest_asyncio.fixture(loop_scope="module")
async def rig(servers: Servers, upstream: ScriptedUpstream, library: Path) -> FailingDisk:
    rig = FailingDisk(servers, upstream, library)
    await rig.start()
    assert (await rig.ask()).complete == 200
    return rig


class TestSlowDisk:
    async def test_what_needs_no_disk_goes_on(self, rig: FailingDisk) -> None:
        """During a sync that takes its time; answers wait for it, and none is refused."""
        rig.faults.inject(Action.DELAY, operations=Operation.SYNC, delay=60_000)
        asking = [asyncio.create_task(rig.ask()) for _ in range(8)]
        await eventually(lambda: rig.faults.injected > 0)
        for _ in range(5):
            assert await rig.status("/healthz") == 200
            assert await rig.status("/v1/models") == 200
        assert not any(task.done() for task in asking)
        rig.faults.lift()
        assert [(await task).complete for task in asking] == [200] * 8
        assert await rig.check() == 9

    @pytest.mark.long
    async def test_requests_are_refused_while_it_cannot_keep_up(self, rig: FailingDisk) -> None:
        rig.faults.inject(Action.DELAY, operations=Operation.SYNC, delay=3_000)
        refused = asyncio.Event()

        async def use() -> None:
            while not refused.is_set():
                asked = await rig.ask()
                if asked.complete == 503:
                    refused.set()
                else:
                    assert asked.complete == 200

        using = [asyncio.create_task(use()) for _ in range(8)]
        async with asyncio.timeout(3 * PATIENCE):
            await refused.wait()
            await rig.refuses()
            await asyncio.gather(*using)
        await rig.server.logged("The disk is too slow")
        await rig.recovers()
        await rig.server.logged("The disk keeps up with the records again")
        await rig.check()


@contextlib.asynccontextmanager
async def locked(database: Path) -> AsyncIterator[None]:
    """Another program holds the database's lock."""
    other = subprocess.Popen(
        [sys.executable, "-c", _LOCK, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        assert await asyncio.to_thread(other.stdout.readline) == b"locked\n"
        yield
    finally:
        other.communicate()


class TestOtherHands:
    async def test_a_lock_of_another_program_loses_no_record(self, rig: FailingDisk) -> None:
        async with locked(rig.server.database):
            assert (await rig.ask()).complete in (None, 503)
            await rig.refuses()
        await rig.recovers()
        assert await rig.check() == 3

    async def test_another_file_is_put_in_its_place(self, rig: FailingDisk) -> None:
        database = rig.server.database
        aside, other = database.with_name("aside"), database.with_name("other")
        database.rename(aside)
        other.write_bytes(b"not of this gateway")
        other.rename(database)
        assert (await rig.ask()).complete in (None, 503)
        await rig.refuses()
        await rig.server.logged("opuslive.db was moved, replaced or removed; put it back")
        assert database.read_bytes() == b"not of this gateway"
        aside.rename(database)
        await rig.recovers()
        assert await rig.check() == 3

    async def test_it_is_removed_and_the_server_killed(self, rig: FailingDisk) -> None:
        """What was confirmed is in the database itself once the log is found to be gone."""
        Path(f"{rig.server.database}-wal").unlink()
        assert (await rig.ask()).complete in (None, 503)
        await rig.refuses()
        await rig.server.kill()
        problems, found = examine(rig.server.database, rig.ledger)
        assert problems == []
        assert len(found.rows) == 1
        await rig.server.start()
        assert (await rig.ask()).complete == 200
        assert await rig.check() == 2


class TestStart:
    """A database that can't be used is refused with a sentence, and left as it is."""

    async def refusal(self, rig: FailingDisk) -> str:
        before = left(rig.server.database)
        outcome = await rig.server.run("serve", "--port", "0")
        assert left(rig.server.database) == before
        return outcome.complaint

    async def test_a_damaged_database_is_refused(self, rig: FailingDisk) -> None:
        await rig.server.stop()
        database = rig.server.database
        content = database.read_bytes()
        database.write_bytes(content[: len(content) // 2])
        assert "damaged; restore a backup" in await self.refusal(rig)
        database.write_bytes(b"\xd7" * len(content))
        assert "is not a database" in await self.refusal(rig)

    async def test_a_database_that_may_not_be_written_is_refused(self, rig: FailingDisk) -> None:
        """By the error that the system gives; root may write in any file."""
        await rig.server.stop()
        for error in (errno.EACCES, errno.EROFS):
            rig.faults.inject(
                Action.FAIL, files=File.DATABASE, operations=Operation.OPEN, error=error
            )
            assert "opuslive.db" in await self.refusal(rig)

    async def test_a_database_that_another_program_locks_is_refused(self, rig: FailingDisk) -> None:
        await rig.server.stop()
        async with locked(rig.server.database):
            outcome = await rig.server.run("serve", "--port", "0")
        assert "locked by another program" in outcome.complaint

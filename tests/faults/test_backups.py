"""Backups, restorations and compactions where the disk fails, or the process dies, at any step."""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
import signal
from pathlib import Path

import pytest

from opuslive.storage import open_storage
from tests.support.failing_disk import FailingDisk
from tests.support.invariants import copied, sound
from tests.support.provider import ScriptedUpstream
from tests.support.server import Server, Servers
from tests.support.shim import Action, Faults, File, Operation
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILES = File.ANY | File.ASIDE
OPERATIONS = Operation.CHANGE | Operation.RENAME
OLD, NEW = ["kept", "later"], ["deleted", "kept"]


class TestFailingDisk:
    async def test_a_backup_that_fails_at_any_step_leaves_nothing_and_hinders_nobody(
        self, servers: Servers, upstream: ScriptedUpstream, library: Path
    ) -> None:
        rig = FailingDisk(servers, upstream, library)
        await rig.start()
        assert (await rig.ask()).complete == 200
        target = Path(f"{rig.server.database}.backup")  # a name that faults know
        before = sorted(path.name for path in rig.server.database.parent.iterdir())
        step = 0
        failed = True
        while failed:
            step += 1
            rig.faults.inject(
                Action.FAIL,
                files=File.ASIDE,
                operations=OPERATIONS & ~Operation.UNLINK,
                first=step,
                last=step,
                error=errno.ENOSPC,
            )
            answer = await rig.administer("POST", "database/backup", file=str(target))
            outcome = json.loads(answer.body.splitlines()[-1])
            failed = rig.faults.injected > 0
            if "problem" in outcome:
                assert "can't be written" in outcome["problem"]["detail"], step
                names = sorted(path.name for path in rig.server.database.parent.iterdir())
                assert names == before, step
            else:
                with copied(target) as connection:
                    assert sound(connection) == [], step
                target.unlink()
            assert await rig.status("/readyz") == 200
            assert (await rig.ask()).complete == 200
        assert step > 3
        await rig.check()


class Stage:
    """A database, a backup of it with other keys, and a command that dies on them."""

    def __init__(self, servers: Servers, library: Path) -> None:
        self._servers = servers
        self._library = library
        self._original: Server | None = None

    async def prepare(self) -> None:
        server = self._original = self._servers.make("http://127.0.0.1:9")
        store = await open_storage(f"sqlite://{server.database}")
        await store.close()
        for name in ("kept", "deleted"):
            await server.create_key(name)
        await server.json("database", "backup", str(server.folder / "backup.db"))
        await server.json("keys", "delete", "deleted", "--yes")
        await server.create_key("later")

    async def dies_at(self, step: int, *command: str) -> tuple[bool, list[str], Server]:
        """Run the command until this step: whether it got that far, and which keys there are."""
        assert self._original is not None
        server = self._servers.make("http://127.0.0.1:9")
        shutil.copy(self._original.database, server.database)
        shutil.copy(self._original.folder / "backup.db", server.folder / "backup.db")
        faults = Faults(self._library, server)
        faults.inject(Action.KILL, files=FILES, operations=OPERATIONS, first=step)
        done = await server.run("database", *command)
        died = faults.injected > 0
        assert died or done.status == 0, done
        faults.lift()
        with copied(server.database) as connection:
            assert sound(connection) == [], step
        return died, await names_in(server), server


async def names_in(server: Server) -> list[str]:
    """Which keys the next start finds."""
    store = await open_storage(f"sqlite://{server.database}")
    names = sorted(key.name for key in await store.keys())
    await store.close()
    return names


@pytest.fixture
async def stage(servers: Servers, library: Path) -> Stage:
    stage = Stage(servers, library)
    await stage.prepare()
    return stage


async def restorations(stage: Stage, steps: list[int] | None) -> int:
    """Die at these steps of a restoration, or at each; return at how many."""
    step = 0
    seen: list[list[str]] = []
    while True:
        step = step + 1 if steps is None else steps[len(seen)]
        died, names, server = await stage.dies_at(step, "restore", "../backup.db", "--yes")
        assert names in (OLD, NEW), step
        seen.append(names)
        if not died:
            assert names == NEW
            return len(seen)
        # Nothing of the first attempt is in the way of the next one.
        again = await server.run("database", "restore", "../backup.db", "--yes")
        assert again.status == 0, (step, again)
        assert not list(server.database.parent.glob("*.restoring*"))
        assert await names_in(server) == NEW
        if steps is not None and len(seen) == len(steps):
            return len(seen)


async def test_a_death_at_some_steps_of_a_restoration_leaves_the_old_or_the_new(
    stage: Stage,
) -> None:
    died, names, _ = await stage.dies_at(2**32, "restore", "../backup.db", "--yes")
    assert (died, names) == (False, NEW)
    await restorations(stage, [2, 8, 14])


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_death_at_every_step_of_a_restoration_leaves_the_old_or_the_new(
    stage: Stage,
) -> None:
    steps = await restorations(stage, None)
    print(f"died at {steps} steps")
    assert steps > 10


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_death_at_every_step_of_a_compaction_loses_nothing(stage: Stage) -> None:
    step, died = 1, True
    while died:
        died, names, server = await stage.dies_at(step, "compact")
        assert names == OLD, step
        assert (await server.run("database", "compact")).status == 0
        assert not list(server.database.parent.glob("*.compacting*"))
        step += 1
    print(f"died at {step - 1} steps")
    assert step > 10


async def test_a_server_that_is_killed_during_a_backup_leaves_what_the_next_one_removes(
    servers: Servers, upstream: ScriptedUpstream, library: Path
) -> None:
    rig = FailingDisk(servers, upstream, library)
    await rig.start()
    assert (await rig.ask()).complete == 200
    target = Path(f"{rig.server.database}.backup")
    rig.faults.inject(Action.KILL, files=File.ASIDE, operations=Operation.SYNC)
    complaint = (await rig.server.run("database", "backup", str(target))).complaint
    assert "The server went away" in complaint
    await rig.server.kill()
    assert not target.exists()
    assert [path.suffix for path in target.parent.glob(f"{target.name}*")]
    rig.faults.lift()
    await rig.server.start()
    await rig.server.json("database", "backup", str(target))
    assert [path for path in target.parent.iterdir() if path.name.startswith(target.name)] == [
        target
    ]
    assert (await rig.ask()).complete == 200
    await rig.check()


async def test_a_server_that_is_told_to_end_gives_a_backup_up_and_says_so(
    servers: Servers, upstream: ScriptedUpstream, library: Path
) -> None:
    rig = FailingDisk(servers, upstream, library)
    await rig.start()
    assert (await rig.ask()).complete == 200
    target = Path(f"{rig.server.database}.backup")
    rig.faults.inject(Action.DELAY, files=File.ASIDE, operations=Operation.SYNC, delay=60_000)
    command = asyncio.ensure_future(rig.server.run("database", "backup", str(target)))
    await eventually(lambda: rig.faults.injected > 0)
    rig.server.signal(signal.SIGTERM)
    told = "The server was told to end, so this was given up; run it again."
    assert (await command).complaint == told
    rig.faults.lift()
    assert await rig.server.wait() == 0
    assert "Traceback" not in rig.server.log
    assert not list(target.parent.glob(f"{target.name}*"))
    await rig.server.start()
    await rig.check()

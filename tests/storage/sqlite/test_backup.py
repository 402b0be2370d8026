"""Backups of a store that is open: whole, private, under their name only when they are complete."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opuslive.errors import OpusLiveError
from opuslive.storage import Backup, Progress, StorageUnavailable, open_storage
from opuslive.storage.sqlite import backup, files, jobs
from opuslive.storage.sqlite.backup import UNFINISHED
from opuslive.storage.sqlite.store import SQLiteStorage
from tests.support.clock import NOW
from tests.support.keys import a_key, a_record
from tests.support.stores import add_marked_key, add_marked_records, full_disk, query, traces
from tests.support.waiting import eventually


@pytest.fixture
async def store(database: Path) -> AsyncIterator[SQLiteStorage]:
    store = await SQLiteStorage.open(database, retry_delay=0)
    yield store
    await store.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir(0o700)
    return folder / "opuslive.db"


def unheard(part: float) -> None:
    """Progress that nobody looks at."""


async def back_up(
    store: SQLiteStorage, target: Path, *, replace: bool = False, progress: Progress = unheard
) -> Backup:
    return await store.maintenance.back_up(target, replace=replace, progress=progress)


class Halted:
    """Holds the first backup in the middle of its copy until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self._go_on = threading.Event()
        copy = backup.copy

        def halting(*arguments: object) -> None:
            copy(*arguments)  # type: ignore[arg-type]
            self.begun += 1
            sign = arguments[1]
            assert isinstance(sign, jobs.StopSign)
            while not self._go_on.wait(0.001):
                sign.check()

        monkeypatch.setattr(backup, "copy", halting)

    def let_go(self) -> None:
        self._go_on.set()


@pytest.fixture
def halted(monkeypatch: pytest.MonkeyPatch) -> Halted:
    return Halted(monkeypatch)


class TestWhole:
    async def test_everything_confirmed_before_is_in_it(
        self, store: SQLiteStorage, target: Path
    ) -> None:
        """Of a database whose file lacks all of it: it is in the log."""
        await store.add_key(a_key(1, group="friends"))
        await asyncio.gather(*(store.add_record(a_record(time=NOW + i)) for i in range(500)))
        made = await back_up(store, target)
        assert made.size == target.stat().st_size
        assert made.contents.keys == {a_key(1).id: a_key(1).name}
        assert made.contents.newest == NOW + 499
        copy = await open_storage(f"sqlite://{target}")
        assert await copy.keys() == await store.keys()
        assert await copy.group_changes() == await store.group_changes()
        assert await copy.records(a_key(1).id) == await store.records(a_key(1).id)
        assert copy.checksum_key == store.checksum_key
        assert await copy.maintenance.check(quick=False, progress=unheard) == []
        await copy.close()

    async def test_it_is_one_file_for_its_owner_only(
        self, store: SQLiteStorage, target: Path
    ) -> None:
        before = os.umask(0)
        try:
            await back_up(store, target)
        finally:
            os.umask(before)
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert [path.name for path in target.parent.iterdir()] == [target.name]

    async def test_records_are_written_while_it_is_made(
        self, store: SQLiteStorage, target: Path, halted: Halted
    ) -> None:
        await store.add_key(a_key())
        making = asyncio.create_task(back_up(store, target))
        await eventually(lambda: halted.begun)
        await store.add_record(a_record())
        await store.update_key(a_key(name="renamed"), at=NOW)
        assert not target.exists()
        halted.let_go()
        assert (await making).contents.newest is None

    async def test_progress_rises(self, store: SQLiteStorage, target: Path) -> None:
        await store.add_key(a_key())
        await asyncio.gather(*(store.add_record(a_record(time=NOW + i)) for i in range(30_000)))
        told: list[float] = []
        await back_up(store, target, progress=told.append)
        assert told == sorted(told)
        assert told
        assert 0 <= told[0] <= told[-1] <= 1

    async def test_what_an_older_version_made_can_be_compacted_once_restored(
        self, store: SQLiteStorage, target: Path
    ) -> None:
        await back_up(store, target)
        assert query(target, "PRAGMA auto_vacuum") == [(2,)]


class TestDeletedKey:
    async def test_a_key_deleted_meanwhile_is_not_in_it(
        self, store: SQLiteStorage, target: Path, halted: Halted
    ) -> None:
        for number in (1, 2):
            await add_marked_key(store, number)
            await add_marked_records(store, number, 50)
        making = asyncio.create_task(back_up(store, target))
        await eventually(lambda: halted.begun == 1)
        await store.delete_key(a_key(1).id)
        await eventually(lambda: halted.begun == 2)
        halted.let_go()
        assert set((await making).contents.keys) == {a_key(2).id}
        content = target.read_bytes()
        assert [trace for trace in traces(1) if trace in content] == []
        assert all(trace in content for trace in traces(2))
        assert list(target.parent.iterdir()) == [target]

    async def test_nothing_of_it_is_left_in_an_unfinished_one(
        self, store: SQLiteStorage, target: Path, halted: Halted
    ) -> None:
        await add_marked_key(store, 1)
        making = asyncio.create_task(back_up(store, target))
        await eventually(lambda: halted.begun == 1)
        await store.delete_key(a_key(1).id)
        content = b"".join(path.read_bytes() for path in target.parent.iterdir())
        assert [trace for trace in traces(1) if trace in content] == []
        halted.let_go()
        await making

    async def test_the_deletion_does_not_wait_for_the_backup(
        self, store: SQLiteStorage, target: Path, halted: Halted
    ) -> None:
        await add_marked_key(store, 1)
        making = asyncio.create_task(back_up(store, target))
        await eventually(lambda: halted.begun)
        await store.delete_key(a_key(1).id)
        assert not making.done()
        halted.let_go()
        await making

    async def test_it_gives_up_where_keys_are_deleted_again_and_again(
        self, store: SQLiteStorage, target: Path, halted: Halted
    ) -> None:
        making = asyncio.create_task(back_up(store, target))
        for number in range(1, jobs.MAX_ATTEMPTS + 1):
            await store.add_key(a_key(number))
            await eventually(lambda count=number: halted.begun == count)  # type: ignore[misc]
            await store.delete_key(a_key(number).id)
        with pytest.raises(OpusLiveError, match="try again when no keys are being deleted"):
            await making
        assert list(target.parent.iterdir()) == []


class TestPlace:
    """Where no backup can be made, nothing is changed, and the sentence says what to do."""

    async def refused(
        self, store: SQLiteStorage, target: Path, match: str, *, replace: bool = True
    ) -> None:
        with pytest.raises(OpusLiveError, match=match):
            await back_up(store, target, replace=replace)

    async def test_an_existing_file_stays(self, store: SQLiteStorage, target: Path) -> None:
        target.write_bytes(b"precious")
        await self.refused(store, target, "exists; name another file, or .*--force", replace=False)
        assert target.read_bytes() == b"precious"
        await back_up(store, target, replace=True)
        assert target.read_bytes().startswith(b"SQLite format 3")

    async def test_a_file_that_appears_meanwhile_stays(
        self, store: SQLiteStorage, target: Path, halted: Halted
    ) -> None:
        making = asyncio.create_task(back_up(store, target))
        await eventually(lambda: halted.begun)
        target.write_bytes(b"precious")
        halted.let_go()
        with pytest.raises(OpusLiveError, match="exists"):
            await making
        assert target.read_bytes() == b"precious"
        assert len(list(target.parent.iterdir())) == 1

    @pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock", ".sock"])
    async def test_a_file_of_the_database_itself(
        self, store: SQLiteStorage, database: Path, suffix: str
    ) -> None:
        await self.refused(store, Path(f"{database}{suffix}"), "file of the database itself")
        await store.add_key(a_key())

    async def test_the_database_by_other_names(
        self, store: SQLiteStorage, database: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "link").symlink_to(database.parent)
        await self.refused(store, tmp_path / "link" / database.name, "the database itself")
        hard = tmp_path / "hard"
        hard.hardlink_to(database)
        await self.refused(store, hard, "the database itself")
        await self.refused(store, database.parent / ".." / "folder" / database.name, "itself")

    async def test_what_is_no_file(self, store: SQLiteStorage, target: Path) -> None:
        await self.refused(store, target.parent, "is a folder")
        await self.refused(store, target.parent / "none" / "x", "There is no folder")
        await self.refused(store, Path("relative"), "absolute path")
        os.mkfifo(target)
        await self.refused(store, target, "not a file that can be replaced")

    @pytest.mark.parametrize("replace", [True, False])
    async def test_a_link_is_not_followed(
        self, store: SQLiteStorage, target: Path, replace: bool
    ) -> None:
        victim = target.with_name("victim")
        target.symlink_to(victim)
        await self.refused(store, target, "exists|can be replaced", replace=replace)
        assert not victim.exists()
        assert target.is_symlink()

    async def test_a_folder_that_others_may_write(self, store: SQLiteStorage, target: Path) -> None:
        target.parent.chmod(0o777)
        await self.refused(store, target, "may be written by other users")
        target.parent.chmod(0o1777)  # nobody can take away what is another's
        await back_up(store, target)

    async def test_a_name_that_is_too_long(self, store: SQLiteStorage, target: Path) -> None:
        await self.refused(store, target.with_name("x" * 250), "can't be written")


class TestTrouble:
    async def test_a_full_disk_leaves_nothing(self, store: SQLiteStorage, target: Path) -> None:
        await store.add_key(a_key())
        with full_disk(), pytest.raises(OpusLiveError, match="can't be written"):
            await back_up(store, target)
        assert list(target.parent.iterdir()) == []
        await back_up(store, target)

    async def test_too_little_room_is_seen_before(
        self, store: SQLiteStorage, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backup, "_SPARE", 2.0**60)
        with pytest.raises(OpusLiveError, match="the disk is full"):
            await back_up(store, target)
        assert list(target.parent.iterdir()) == []

    async def test_who_is_cancelled_leaves_nothing(
        self, store: SQLiteStorage, target: Path, halted: Halted
    ) -> None:
        making = asyncio.create_task(back_up(store, target))
        await eventually(lambda: halted.begun)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert list(target.parent.iterdir()) == []
        halted.let_go()
        await back_up(store, target)

    async def test_the_end_of_the_store_ends_it(
        self, store: SQLiteStorage, target: Path, halted: Halted
    ) -> None:
        making = asyncio.create_task(back_up(store, target))
        await eventually(lambda: halted.begun)
        await store.close()
        with pytest.raises(StorageUnavailable):
            await making
        assert list(target.parent.iterdir()) == []

    async def test_one_waits_for_the_other(
        self, store: SQLiteStorage, target: Path, halted: Halted
    ) -> None:
        making = asyncio.create_task(back_up(store, target))
        await eventually(lambda: halted.begun)
        other = asyncio.create_task(back_up(store, target.with_name("other")))
        halted.let_go()
        await asyncio.gather(making, other)
        assert len(list(target.parent.iterdir())) == 2

    async def test_a_database_that_was_moved_is_not_backed_up(
        self, store: SQLiteStorage, database: Path, target: Path
    ) -> None:
        database.rename(database.with_name("aside"))
        database.write_bytes(b"")
        with pytest.raises(StorageUnavailable):
            await back_up(store, target)
        assert list(target.parent.iterdir()) == []

    @pytest.mark.skipif(sys.platform != "linux", reason="locks of open files are Linux's")
    async def test_the_next_one_removes_what_one_that_was_killed_has_left(
        self, store: SQLiteStorage, target: Path
    ) -> None:
        left, busy, other = (
            target.with_name(name) for name in (f"a{UNFINISHED}", f"b{UNFINISHED}", "c.db")
        )
        for path in (left, busy, other):
            path.write_bytes(b"half")
        with busy.open("r+b") as file:
            lock = files._FLOCK.pack(fcntl.F_WRLCK, 0, files._BYTE, 1, 0)
            fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, lock)
            await back_up(store, target)
        assert set(target.parent.iterdir()) == {busy, other, target}

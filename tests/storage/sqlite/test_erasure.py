"""Deleting a key leaves no byte of it, holds nobody up, and survives a crash."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from opuslive.errors import OpusLiveError
from opuslive.storage import DatabaseDamaged, StorageUnavailable
from opuslive.storage.sqlite import erasure
from opuslive.storage.sqlite.store import SQLiteStorage
from opuslive.storage.sqlite.tables import KEPT
from tests.support.clock import NOW
from tests.support.keys import a_key, a_record
from tests.support.stores import (
    Open,
    a_marked_record,
    add_marked_key,
    add_marked_records,
    full_disk,
    query,
    traced,
    traces,
)


@pytest.fixture
async def store(database: Path) -> AsyncIterator[SQLiteStorage]:
    store = await SQLiteStorage.open(database, retry_delay=0)
    yield store
    await store.close()


def on_disk(database: Path) -> bytes:
    """All bytes in all files of the database.

    Read by another process: closing the file in this one would drop SQLite's locks.
    """
    files = sorted(database.parent.iterdir())
    return subprocess.run(["cat", *files], check=True, capture_output=True).stdout


async def test_no_byte_is_left_while_the_store_is_open(
    store: SQLiteStorage, database: Path
) -> None:
    chance = random.Random(7)
    numbers = list(range(1, 121))
    for number in numbers:
        await add_marked_key(store, number)
    # In many small commits, so that pages split and rows move about.
    for turn in range(300):
        await asyncio.gather(
            *(
                store.add_record(a_marked_record(number, NOW + turn * 60_000, parted=turn % 3 == 0))
                for number in chance.choices(numbers, k=80)
            )
        )
        number = chance.choice(numbers)
        limits = ("60 requests/1m",) * chance.randrange(12)
        (key,) = [key for key in await store.keys() if key.id == a_key(number).id]
        await store.update_key(replace(key, limits=limits), at=NOW)

    content = on_disk(database)
    assert all(trace in content for number in numbers for trace in traces(number))

    chance.shuffle(numbers)
    deleted, kept = numbers[:60], numbers[60:]
    for number in deleted:
        assert await store.delete_key(a_key(number).id) > 0
        content = on_disk(database)
        assert [trace for trace in traces(number) if trace in content] == []

    sums = await store.all_key_usage()
    assert set(sums) == {a_key(number).id for number in kept}
    for number in kept:
        records, _ = await store.records(a_key(number).id)
        assert len(records) == sums[a_key(number).id].sum.requests
    await store.close()
    assert query(database, "PRAGMA integrity_check") == [("ok",)]


def residues(content: bytes) -> int:
    """How many B-tree pages of a database have something in their unallocated bytes."""
    found = 0
    for number, start in enumerate(range(0, len(content), 4096)):
        page = content[start : start + 4096]
        header = 100 if number == 0 else 0
        size = {0x02: 12, 0x05: 12, 0x0A: 8, 0x0D: 8}.get(page[header], 0)
        if size:
            cells = int.from_bytes(page[header + 3 : header + 5], "big")
            first = int.from_bytes(page[header + 5 : header + 7], "big")
            found += any(page[header + size + 2 * cells : first])
    return found


async def test_no_copy_is_left_where_rows_were_moved_away(
    store: SQLiteStorage, database: Path
) -> None:
    def database_file() -> bytes:
        return subprocess.run(["cat", database], check=True, capture_output=True).stdout

    chance = random.Random(7)
    for number in range(1, 101):
        await add_marked_key(store, number)
    for turn in range(100):
        for number in chance.choices(range(1, 101), k=50):
            store.add_record(a_record(number, time=NOW + turn))
        await store.add_record(a_record(time=NOW + turn))
    store._database.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = database_file()
    assert len(before) > 200_000
    assert residues(before) > 10  # secure_delete does not see to these
    await store.delete_key(a_key(50).id)
    assert residues(database_file()) == 0
    # Nor do pages that were in memory bring theirs back when they are next written.
    for number in range(1, 101):
        await store.add_record(a_record(number))
    store._database.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert residues(database_file()) < residues(before) // 2


async def test_scrubbing_leaves_a_page_of_no_tree_alone(tmp_path: Path) -> None:
    """Overflow and free pages have no gap, and neither has a page whose header makes no sense."""
    database = tmp_path / "pages.db"
    connection = sqlite3.connect(database, isolation_level=None)
    with contextlib.closing(connection):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE long (text TEXT)")
        connection.executemany("INSERT INTO long VALUES (?)", [("x" * 50_000,)] * 300)
        connection.execute("DELETE FROM long WHERE rowid % 3 = 0")
        descriptor = os.open(database, os.O_RDWR)
        offset: int | None = 0
        offsets = []
        while offset is not None:
            offsets.append(offset)
            offset = erasure.scrub(connection, descriptor, offset)
        assert offsets == [0, erasure.SCRUB_BYTES, 2 * erasure.SCRUB_BYTES, 3 * erasure.SCRUB_BYTES]
        assert connection.execute("SELECT DISTINCT text FROM long").fetchall() == [("x" * 50_000,)]
        assert connection.execute("SELECT count(*) FROM long").fetchone() == (200,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    os.close(descriptor)


async def test_a_gap_that_the_disk_overwrote_in_part_is_scrubbed_again(tmp_path: Path) -> None:
    """A write may be cut short without an error, here by a limit in the middle."""
    database = tmp_path / "pages.db"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE short (text TEXT)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        descriptor = os.open(database, os.O_RDWR)
        os.pwrite(descriptor, b"left" * 100, page_size + 1_000)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (page_size + 1_200, hard))
        try:
            with pytest.raises(OSError, match="too large"):
                erasure.scrub(connection, descriptor, 0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert b"left" in os.pread(descriptor, page_size, page_size)
        assert erasure.scrub(connection, descriptor, 0) is None
        assert b"left" not in os.pread(descriptor, page_size, page_size)
    os.close(descriptor)


async def test_a_long_erasure_lets_records_through(store: SQLiteStorage) -> None:
    await add_marked_key(store, 1)
    await store.add_key(a_key(2))
    await add_marked_records(store, 1, 100_000)
    settled = 0
    with traced(store._database.writer) as statements:
        deletion = asyncio.create_task(store.delete_key(a_key(1).id))
        while not deletion.done():
            await store.add_record(a_record(2, time=NOW + settled))
            settled += 1
        assert await deletion == 100_000
    steps = "".join(
        "d" if statement.startswith("DELETE FROM usage") else "i"
        for statement in statements
        if statement.startswith(("DELETE FROM usage", "INSERT INTO usage"))
    )
    # Every ninth record has a part. The last batch has room left.
    batches = (100_000 + 100_000 // 9 + 1) // erasure.BATCH_ROWS + 1
    assert steps.count("d") == batches
    assert steps.strip("i").count("id") >= batches // 2
    assert (await store.key_usage(a_key(2).id)).sum.requests == settled


async def test_a_batch_deletes_a_bounded_number_of_rows(
    store: SQLiteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "BATCH_ROWS", 10)
    await add_marked_key(store, 1)
    await asyncio.gather(
        *(store.add_record(a_record(1, time=NOW + i // 4 * 3_600_000)) for i in range(95))
    )
    key = await store._writer.transaction(partial(erasure.mark, key_id=a_key(1).id))
    counts, last = [], False
    while not last:
        batch = partial(erasure.delete_batch, key=key)
        changes = store._database.writer.total_changes
        count, last = await store._writer.transaction(batch)
        assert store._database.writer.total_changes - changes <= 10
        counts.append(count)
    assert counts[:10] == [10] * 9 + [5]
    assert sum(counts) == 95


async def test_an_erasure_cut_short_is_completed_on_opening(
    store: SQLiteStorage, database: Path, open_store: Open
) -> None:
    await add_marked_key(store, 1)
    await add_marked_records(store, 1, erasure.BATCH_ROWS + 10)
    await add_marked_key(store, 2)
    await add_marked_records(store, 2, 10)
    key = await store._writer.transaction(partial(erasure.mark, key_id=a_key(1).id))
    assert [key.id for key in await store.keys()] == [a_key(2).id]
    await store._writer.transaction(partial(erasure.delete_batch, key=key))
    await store.close()

    reopened = await open_store()
    content = on_disk(database)
    assert [trace for trace in traces(1) if trace in content] == []
    assert len((await reopened.records(a_key(2).id))[0]) == 10
    await reopened.close()
    for table in KEPT:
        assert query(database, f"SELECT DISTINCT key FROM {table.name}") == [(2,)]


_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from opuslive.storage.sqlite.store import SQLiteStorage
from tests.support.keys import a_key
from tests.support.stores import add_marked_key, add_marked_records

async def main():
    store = await SQLiteStorage.open(Path(sys.argv[1]), retry_delay=1)
    for number in (1, 2):
        await add_marked_key(store, number)
        await add_marked_records(store, number, 12_000)
    deletes = 0
    def kill(statement):
        nonlocal deletes
        deletes += statement.startswith("DELETE FROM usage")
        if deletes == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    store._database.writer.set_trace_callback(kill)
    await store.delete_key(a_key(1).id)

asyncio.run(main())
"""


async def test_an_erasure_cut_short_by_a_kill_is_completed_on_opening(
    database: Path, open_store: Open
) -> None:
    child = subprocess.run([sys.executable, "-c", _KILLED, database], check=False)
    assert child.returncode == -signal.SIGKILL
    assert any(trace in on_disk(database) for trace in traces(1))
    store = await open_store()  # the lock died with its owner
    content = on_disk(database)
    assert [trace for trace in traces(1) if trace in content] == []
    assert (await store.key_usage(a_key(2).id)).sum.requests == 12_000


async def test_an_erasure_cut_short_by_close_is_completed_on_opening(
    store: SQLiteStorage, database: Path, open_store: Open
) -> None:
    await add_marked_key(store, 1)
    await add_marked_records(store, 1, 5 * erasure.BATCH_ROWS)
    deletion = asyncio.create_task(store.delete_key(a_key(1).id))
    while await store.keys():
        await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StorageUnavailable):
        await deletion
    assert await (await open_store()).keys() == []
    assert [trace for trace in traces(1) if trace in on_disk(database)] == []


async def test_a_full_disk_delays_an_erasure(store: SQLiteStorage, database: Path) -> None:
    await add_marked_key(store, 1)
    await add_marked_records(store, 1, 100)
    with full_disk(), pytest.raises(StorageUnavailable):  # not even begun
        await store.delete_key(a_key(1).id)
    assert len(await store.keys()) == 1
    while not store.healthy:
        await asyncio.sleep(0)
    deletion = asyncio.create_task(store.delete_key(a_key(1).id))
    while await store.keys():
        await asyncio.sleep(0)
    with full_disk():
        while store.healthy and not deletion.done():
            await asyncio.sleep(0)
    assert await deletion == 100
    assert [trace for trace in traces(1) if trace in on_disk(database)] == []


def damage(database: Path, number: int) -> None:
    """Overwrite a page of the database that holds records of this key and of no other."""
    content = bytearray(database.read_bytes())
    model, other = f"model of {number} ".encode(), f"model of {3 - number} ".encode()
    pages = [content[start : start + 4096] for start in range(0, len(content), 4096)]
    leaves = [at for at, page in enumerate(pages) if page[0] == 10 and model in page]
    chosen = [at for at in leaves if other not in pages[at]]
    start = 4096 * chosen[len(chosen) // 2]
    content[start : start + 4096] = b"\xff" * 4096
    database.write_bytes(content)


async def test_a_damaged_page_costs_that_erasure_alone(
    store: SQLiteStorage, database: Path, open_store: Open, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        await add_marked_key(store, number)
        await add_marked_records(store, number, 2 * erasure.BATCH_ROWS)
    await store.close()
    damage(database, 1)
    store = await SQLiteStorage.open(database, retry_delay=0)
    deletion = asyncio.create_task(store.delete_key(a_key(1).id))
    settled = 0
    while not deletion.done():
        await store.add_record(a_record(2, time=NOW + settled))
        assert store.healthy
        settled += 1
    with pytest.raises(DatabaseDamaged, match="restore a backup"):
        await deletion
    remedy = "can't be erased, for the database is damaged; restore a backup"
    assert caplog.text.count(remedy) == 1
    await store.close()

    reopened = await open_store()  # where it is tried again
    assert caplog.text.count(remedy) == 2
    assert [key.id for key in await reopened.keys()] == [a_key(2).id]
    await add_marked_key(reopened, 3)
    await add_marked_records(reopened, 3, 10)
    assert await reopened.delete_key(a_key(3).id) == 10
    usage = await reopened.key_usage(a_key(2).id)
    assert usage.sum.requests == 2 * erasure.BATCH_ROWS + settled


async def test_a_step_that_always_fails_does_not_stop_the_rest(
    database: Path, open_store: Open
) -> None:
    """It is tried again ever more seldom: not for as long as this test takes, the third time."""
    store = await SQLiteStorage.open(database, retry_delay=3_600)
    await add_marked_key(store, 1)
    await add_marked_records(store, 1, 10)
    await store.add_key(a_key(2))
    deletes = [False]
    writer = store._database.writer
    writer.set_trace_callback(
        lambda statement: deletes.append(statement.startswith("DELETE FROM usage"))
    )
    writer.set_progress_handler(lambda: deletes[-1], 1)  # interrupts the statement
    deletion = asyncio.create_task(store.delete_key(a_key(1).id))
    while not any(deletes):
        await asyncio.sleep(0)
    failed = 0
    for number in range(50):
        try:
            await store.add_record(a_record(2, time=NOW + number))
        except StorageUnavailable:
            failed += 1
    assert store.healthy
    assert failed <= deletes.count(True) <= 2
    await store.close()
    with pytest.raises(StorageUnavailable):
        await deletion
    reopened = await open_store()
    assert (await reopened.key_usage(a_key(2).id)).sum.requests == 50
    assert [key.id for key in await reopened.keys()] == [a_key(2).id]


async def test_pauses_between_attempts_grow_and_are_bounded() -> None:
    assert [erasure.pause(failures, 1.0) for failures in range(1, 9)] == [
        *(0, 1, 3, 7, 15, 31, 60, 60)
    ]
    assert erasure.pause(100_000, 1.0) == 60
    assert erasure.pause(7, 0) == 0


async def test_a_foreign_reader_delays_an_erasure(store: SQLiteStorage, database: Path) -> None:
    await add_marked_key(store, 1)
    await add_marked_records(store, 1, 10)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as foreign:
        foreign.execute("BEGIN")
        foreign.execute("SELECT * FROM keys").fetchall()
        with traced(store._database.writer) as statements:
            deletion = asyncio.create_task(store.delete_key(a_key(1).id))
            while statements.count("PRAGMA wal_checkpoint(TRUNCATE)") < 3:
                await asyncio.sleep(0)
        assert not deletion.done()
        assert store.healthy
        foreign.execute("ROLLBACK")
    assert await deletion == 10
    assert [trace for trace in traces(1) if trace in on_disk(database)] == []


async def test_a_foreign_reader_keeps_an_erasure_from_being_completed_and_is_named(
    store: SQLiteStorage, database: Path, open_store: Open
) -> None:
    await add_marked_key(store, 1)
    await add_marked_records(store, 1, 10)
    await store._writer.transaction(partial(erasure.mark, key_id=a_key(1).id))
    await store.close()
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as foreign:
        foreign.execute("BEGIN")
        foreign.execute("SELECT * FROM keys").fetchall()
        with pytest.raises(OpusLiveError, match="close that program"):
            await open_store()
    await open_store()

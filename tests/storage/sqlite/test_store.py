"""What is particular to the SQLite store: its files, its schema, its commits and its trouble."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opuslive.errors import OpusLiveError, UsageError
from opuslive.keys import GroupChange
from opuslive.storage import DatabaseInUse, StorageUnavailable, open_storage
from opuslive.storage.sqlite import queries
from opuslive.storage.sqlite.database import known_schema
from opuslive.storage.sqlite.queries import Query
from opuslive.storage.sqlite.store import SQLiteStorage
from opuslive.times import DAY_MS, HOUR_MS
from tests.support.clock import NOW
from tests.support.keys import a_key, a_record
from tests.support.stores import Open, full_disk, query, traced


@pytest.fixture
async def store(database: Path) -> AsyncIterator[SQLiteStorage]:
    store = await SQLiteStorage.open(database, retry_delay=3_600)
    yield store
    await store.close()


def refuse(store: SQLiteStorage, status: str) -> None:
    """Let the database take no record with this status any more, for no fault of the disk."""
    for event in ("INSERT", "UPDATE"):
        store._database.writer.execute(
            f"CREATE TRIGGER no_{event} BEFORE {event} ON usage WHEN NEW.status = {status} "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )


class TestUrl:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "sqlite",
            "sqlite://",
            "sqlite:///",
            "sqlite://relative/opuslive.db",
            "sqlite://:memory:",
            "sqlite:///folder/",
            "sqlite:///nul\0",
            "/var/lib/opuslive.db",
            "postgresql://localhost/opuslive",
        ],
    )
    async def test_a_wrong_url_is_explained(self, url: str) -> None:
        with pytest.raises(UsageError, match="write sqlite:// and the absolute path"):
            await open_storage(url)

    @pytest.mark.parametrize("slashes", ["", "/"])
    @pytest.mark.parametrize("name", ["opuslive.db", "what?mode=memory#%41 ü.db"])
    async def test_everything_after_the_scheme_is_the_path(
        self, tmp_path: Path, slashes: str, name: str
    ) -> None:
        await (await open_storage(f"sqlite://{slashes}{tmp_path / name}")).close()
        assert (tmp_path / name).is_file()


class TestFiles:
    @pytest.mark.parametrize("umask", [0, 0o077, 0o777])
    async def test_files_are_for_their_owner_only(self, tmp_path: Path, umask: int) -> None:
        database = tmp_path / "made" / "too" / "opuslive.db"
        before = os.umask(umask)
        try:
            store = await open_storage(f"sqlite://{database}")
            await store.add_key(a_key())
        finally:
            os.umask(before)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
        await store.close()
        assert modes == {
            "made": 0o700,
            "too": 0o700,
            "opuslive.db": 0o600,
            "opuslive.db-wal": 0o600,
            "opuslive.db-shm": 0o600,
            "opuslive.db.lock": 0o600,
        }

    async def test_wider_modes_are_narrowed_but_not_of_the_folder(self, tmp_path: Path) -> None:
        database, lock = tmp_path / "opuslive.db", tmp_path / "opuslive.db.lock"
        for file in (database, lock):
            file.touch()
            file.chmod(0o644)
        tmp_path.chmod(0o755)
        await (await open_storage(f"sqlite://{database}")).close()
        assert [stat.S_IMODE(f.stat().st_mode) for f in (database, lock)] == [0o600, 0o600]
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755

    async def test_close_leaves_the_database_and_the_lock(
        self, store: SQLiteStorage, database: Path
    ) -> None:
        await store.add_key(a_key())
        await store.close()
        assert sorted(file.name for file in database.parent.iterdir()) == [
            "opuslive.db",
            "opuslive.db.lock",
        ]


class TestRefusals:
    """Each says what to do, leaves the file alone, and leaves nothing open."""

    async def refused(self, database: Path) -> str:
        before = database.read_bytes() if database.is_file() else None
        with pytest.raises(OpusLiveError) as raised:
            await open_storage(f"sqlite://{database}")
        for thread in threading.enumerate():
            if thread.name.startswith("opuslive"):
                thread.join(10)
                assert not thread.is_alive()
        assert str(database) in raised.value.message
        if before is not None:
            assert database.read_bytes() == before
            database.unlink()
            await (await open_storage(f"sqlite://{database}")).close()  # the lock is free
        return raised.value.message

    async def test_a_newer_schema_is_refused(self, store: SQLiteStorage, database: Path) -> None:
        await store.close()
        query(database, "PRAGMA user_version = 99")
        message = await self.refused(database)
        assert "version 99" in message
        assert f"up to {known_schema()};" in message
        assert "upgrade OpusLive, or restore a backup" in message

    async def test_an_old_sqlite_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite3, "sqlite_version", "3.23.1")
        monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 23, 1))
        with pytest.raises(OpusLiveError, match=r"has SQLite 3\.23\.1, and OpusLive needs 3\.27"):
            await open_storage(f"sqlite://{tmp_path / 'opuslive.db'}")
        assert list(tmp_path.iterdir()) == []

    async def test_a_file_that_is_no_database_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("Not a database. " * 500)
        assert "not a database; move that file" in await self.refused(tmp_path / "notes.txt")

    async def test_a_database_of_another_program_is_refused(self, tmp_path: Path) -> None:
        query(tmp_path / "theirs.db", "CREATE TABLE theirs (x)")
        assert "another program" in await self.refused(tmp_path / "theirs.db")

    async def test_a_damaged_database_is_refused(
        self, store: SQLiteStorage, database: Path
    ) -> None:
        await store.close()
        content = database.read_bytes()
        database.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
        assert "damaged; restore a backup" in await self.refused(database)

    async def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        assert "add the name of a file" in await self.refused(tmp_path)

    async def test_a_folder_that_cannot_be_written_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()  # root may write in every folder, but not in this
        message = await self.refused(tmp_path / "file" / "folder" / "opuslive.db")
        assert "Not a directory" in message
        assert "set another path in [storage] url" in message

    async def test_a_full_disk_is_named_on_opening(self, database: Path) -> None:
        with full_disk(), pytest.raises(OpusLiveError, match="disk"):
            await open_storage(f"sqlite://{database}")
        await (await open_storage(f"sqlite://{database}")).close()

    async def test_a_database_in_use_keeps_its_lock(
        self, store: SQLiteStorage, database: Path
    ) -> None:
        for _ in range(2):  # a refused attempt doesn't release the lock of the other
            with pytest.raises(DatabaseInUse):
                await open_storage(f"sqlite://{database}")

    async def test_a_caller_that_leaves_lets_go_of_the_lock(self, database: Path) -> None:
        opening = asyncio.create_task(open_storage(f"sqlite://{database}"))
        await asyncio.sleep(0)  # it has begun
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        for thread in threading.enumerate():
            if thread.name.startswith("opuslive"):
                await asyncio.to_thread(thread.join)
        await (await open_storage(f"sqlite://{database}")).close()


class TestSchema:
    async def test_usage_has_these_columns_and_no_other(
        self, store: SQLiteStorage, database: Path
    ) -> None:
        await store.close()
        assert [row[1] for row in query(database, "PRAGMA table_info(usage)")] == [
            "key",
            "time",
            "seq",
            "model",
            "status",
            "latency_ms",
            "input_tokens",
            "output_tokens",
            "cache_read_tokens",
            "cache_write_5m_tokens",
            "cache_write_1h_tokens",
        ]

    async def test_a_database_of_the_first_version_keeps_everything(
        self, store: SQLiteStorage, database: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its usage, its hourly sums, and those of the days, which it did not have."""
        caplog.set_level("INFO", "opuslive")
        await store.add_key(a_key())
        for hours in (0, 1, 30):
            await store.add_record(a_record(time=NOW - hours * HOUR_MS))
        sums = await store.sums(None, since=0, until=NOW * 2, by="day")
        records = await store.records(a_key().id)
        await store.close()
        for statement in (
            "DROP TABLE invitations",
            "ALTER TABLE keys DROP COLUMN raises",
            "DROP TABLE parts",
            "DROP TABLE group_changes",
            "DROP TABLE daily",
            "DROP INDEX open_usage",
            "DROP INDEX trouble",
            "PRAGMA user_version = 1",
        ):
            query(database, statement)
        await (await open_storage(f"sqlite://{database}.new")).close()
        assert caplog.messages == []  # a new one takes no time
        store = await SQLiteStorage.open(database, retry_delay=3_600)
        newest = known_schema()
        assert caplog.messages == [
            f"The database is being brought from version 1 to {newest}; this may take minutes, and "
            "as much free space as it is large.",
            f"The database is at version {newest} now; that took 0 s.",
        ]
        assert await store.sums(None, since=0, until=NOW * 2, by="day") == sums
        assert await store.records(a_key().id) == records
        assert query(database, "PRAGMA foreign_key_check") == []
        await store.close()

    async def test_a_database_of_the_second_version_has_had_its_groups_from_the_first_moment_on(
        self, store: SQLiteStorage, database: Path
    ) -> None:
        await store.add_key(a_key(1, group="friends"))
        await store.add_key(a_key(2))
        await store.close()
        for statement in (
            "DROP TABLE invitations",
            "ALTER TABLE keys DROP COLUMN raises",
            "DROP TABLE parts",
            "DROP TABLE group_changes",
            "DROP INDEX trouble",
            "PRAGMA user_version = 2",
        ):
            query(database, statement)
        store = await SQLiteStorage.open(database, retry_delay=3_600)
        assert await store.group_changes() == {a_key(1).id: [GroupChange(0, "friends")]}
        assert query(database, "PRAGMA foreign_key_check") == []
        await store.close()

    async def test_a_reopened_database_is_not_migrated_again(
        self, store: SQLiteStorage, database: Path
    ) -> None:
        await store.close()
        before = query(database, "SELECT sql FROM sqlite_master")
        await (await open_storage(f"sqlite://{database}")).close()
        assert query(database, "SELECT sql FROM sqlite_master") == before
        assert query(database, "PRAGMA user_version") == [(known_schema(),)]

    async def test_the_connections_are_set_up(self, store: SQLiteStorage) -> None:
        writer, reader = store._database.writer, store._reader
        settings = {
            name: writer.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "secure_delete", "temp_store")
        }
        assert settings == {
            "journal_mode": "wal",
            "synchronous": 2,
            "secure_delete": 1,
            "temp_store": 2,
        }
        settings = {
            name: (await reader.fetch(Query(f"PRAGMA {name}", (), lambda row: row[0])))[0]
            for name in ("query_only", "wal_autocheckpoint", "temp_store", "cache_size")
        }
        assert settings == {
            "query_only": 1,
            "wal_autocheckpoint": 0,
            "temp_store": 2,
            "cache_size": -8192,
        }

    async def test_reads_use_the_primary_keys(self, store: SQLiteStorage) -> None:
        await store.add_key(a_key())
        await store.add_record(a_record())
        key_id = a_key().id
        plans = {
            line
            for query in (
                queries.records(key_id, str, (5, 5), 10),
                queries.latest_records(key_id, 10),
                queries.key_usage(key_id),
                queries.sums(key_id, 0, NOW, "day"),
                queries.sums(None, 0, NOW, "hour"),
                queries.tokens_by_key(0, NOW),
                queries.group_changes(),
                queries.latencies(None, 0, NOW),
                queries.latest_trouble(10),
            )
            for line in await store._reader.fetch(
                Query(f"EXPLAIN QUERY PLAN {query.statement}", query.parameters, lambda row: row[3])
            )
        }
        assert {
            "SEARCH usage USING PRIMARY KEY (key=? AND (time,seq)>(?,?) AND time<?)",
            "SEARCH hourly USING PRIMARY KEY (key=? AND hour>? AND hour<?)",
            "SEARCH daily USING PRIMARY KEY (key=? AND day>? AND day<?)",
            "SEARCH totals USING INTEGER PRIMARY KEY (rowid=?)",
            "SEARCH group_changes USING PRIMARY KEY (key=?)",
            "SEARCH parts USING PRIMARY KEY (key=? AND time=? AND seq=?)",
            "SCAN usage USING INDEX trouble",
        } <= plans
        scans = {plan for plan in plans if plan.startswith("SCAN")} - {
            "SCAN usage USING INDEX trouble",  # from its end, as far as it takes
            "SCAN keys",
            "SCAN added",  # what was added up already
        }
        assert not scans

    async def test_reads_leave_no_cursor_open(self, store: SQLiteStorage) -> None:
        await store.add_key(a_key())
        await asyncio.gather(*(store.add_record(a_record(time=NOW + i)) for i in range(9)))
        await store.records(a_key().id, limit=2)
        await store.keys()
        checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)"
        assert store._database.writer.execute(checkpoint).fetchone() == (0, 0, 0)


class TestGroupCommit:
    async def test_records_of_one_turn_share_a_commit(self, store: SQLiteStorage) -> None:
        await store.add_key(a_key())
        with traced(store._database.writer) as statements:
            await asyncio.gather(*(store.add_record(a_record()) for _ in range(100)))
        assert statements.count("COMMIT") == 1

    async def test_records_that_come_during_a_commit_share_the_next(
        self, store: SQLiteStorage
    ) -> None:
        await store.add_key(a_key())
        hold = threading.Event()
        with traced(store._database.writer) as statements:
            held = asyncio.create_task(store._writer.transaction(lambda _: hold.wait()))
            waiting = [store.add_record(a_record())]
            for _ in range(3):
                await asyncio.sleep(0)  # both have been handed over to the thread
            for _ in range(50):
                waiting.append(store.add_record(a_record()))
                await asyncio.sleep(0)
            hold.set()
            await asyncio.gather(held, *waiting)
        assert statements.count("COMMIT") == 3  # what held them up, the first record, the other 50

    async def test_a_batch_costs_one_upsert_per_sum(self, store: SQLiteStorage) -> None:
        await store.add_key(a_key())
        with traced(store._database.writer) as statements:
            await asyncio.gather(*(store.add_record(a_record(latency_ms=0)) for _ in range(100)))
        assert len([s for s in statements if s.startswith("INSERT INTO usage")]) == 100
        assert len([s for s in statements if s.startswith("INSERT INTO hourly")]) == 1
        assert len([s for s in statements if s.startswith("INSERT INTO totals")]) == 1

    async def test_open_records_need_no_newer_sqlite_than_the_rest(
        self, store: SQLiteStorage
    ) -> None:
        """RETURNING came with SQLite 3.35; an older one would never get past the statement."""
        await store.add_key(a_key())
        with traced(store._database.writer) as statements:
            first, second = (store.keep_open(a_record(status=None)) for _ in range(2))
            await store.flush()
            await store.add_record(a_record(status=201), second)
            await store.add_record(a_record(status=202), first)
        assert not [each for each in statements if "RETURNING" in each.upper()]
        records, _ = await store.records(a_key().id)
        assert [record.status for record in records] == [202, 201]

    @pytest.mark.parametrize("delta", [3 * DAY_MS, -3 * DAY_MS])
    async def test_an_open_record_whose_date_was_moved_is_replaced_and_counted_once(
        self, store: SQLiteStorage, delta: int
    ) -> None:
        """Also where another record bears the new time; and twice in one commit."""
        await store.add_key(a_key())
        opened = store.keep_open(a_record(status=None))
        await store.flush()
        other = a_record(time=NOW + delta, status=201)
        await store.add_record(other)
        store.keep_open(a_record(time=NOW + delta, status=None), opened)
        ended = a_record(time=NOW + delta + 1, status=202)
        await store.add_record(ended, opened)
        assert (await store.records(a_key().id))[0] == [other, ended]
        assert (await store.key_usage(a_key().id)).sum.requests == 2
        until = NOW + delta + DAY_MS
        (day,) = await store.sums(a_key().id, since=NOW - 9 * DAY_MS, until=until, by="day")
        assert (day.bucket, day.sum.requests) == ((NOW + delta) // DAY_MS * DAY_MS, 2)


class TestTrouble:
    async def test_a_failed_commit_is_told_and_repeated_with_the_next_record(
        self, store: SQLiteStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.add_key(a_key())
        assert store.healthy
        with full_disk():
            for number in range(3):
                with pytest.raises(StorageUnavailable) as raised:
                    await store.add_record(a_record(time=NOW + number))
                assert raised.value.retry_after == 5
                assert not store.healthy
            assert (await store.records(a_key().id))[0] == []  # reads go on
        await store.add_record(a_record(time=NOW + 3))
        assert store.healthy
        records, _ = await store.records(a_key().id)
        assert [record.time for record in records] == [NOW + i for i in range(4)]
        assert (await store.key_usage(a_key().id)).sum.requests == 4
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]

    async def test_a_record_that_came_during_the_failure_is_written_once(
        self, store: SQLiteStorage
    ) -> None:
        await store.add_key(a_key())
        with full_disk():
            first = store.add_record(a_record())
            while store.healthy:
                await asyncio.sleep(0)
                store.add_record(a_record()).cancel()
            with pytest.raises(StorageUnavailable):
                await first
        await store.add_record(a_record())
        records, _ = await store.records(a_key().id, limit=1_000_000)
        assert (await store.key_usage(a_key().id)).sum.requests == len(records) >= 2

    async def test_a_store_recovers_by_itself(self, database: Path) -> None:
        store = await open_storage(f"sqlite://{database}", retry_delay=0)
        await store.add_key(a_key())
        with full_disk(), pytest.raises(StorageUnavailable):
            await store.add_record(a_record())
        while not store.healthy:
            await asyncio.sleep(0)
        assert (await store.records(a_key().id))[0] == [a_record()]
        await store.close()

    async def test_a_store_recovers_from_a_failed_change_of_a_key(self, database: Path) -> None:
        store = await open_storage(f"sqlite://{database}", retry_delay=0)
        with full_disk():
            with pytest.raises(StorageUnavailable):
                await store.add_key(a_key())
            unhealthy = not store.healthy
        assert unhealthy
        while not store.healthy:
            await asyncio.sleep(0)
        assert await store.keys() == []
        await store.add_key(a_key())
        await store.close()

    async def test_a_record_that_the_database_refuses_holds_up_no_other(
        self, store: SQLiteStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.add_key(a_key())
        refuse(store, "418")
        opened = store.keep_open(a_record(status=None))
        running = store.add_record(a_record(status=201), opened)
        bad = [store.add_record(a_record(status=418, model="secret")) for _ in range(2)]
        opened_bad = store.keep_open(a_record(status=None))
        bad.append(store.add_record(a_record(time=NOW + 1, status=418), opened_bad))
        good = [store.add_record(a_record(time=NOW + i, status=202)) for i in (2, 3)]
        await asyncio.gather(running, *good)
        for future in bad:
            with pytest.raises(StorageUnavailable):
                await future
        assert store.healthy
        await store.add_record(a_record(time=NOW + 4, status=203))
        records, _ = await store.records(a_key().id)
        assert [record.status for record in records] == [201, None, 202, 202, 203]
        assert (await store.key_usage(a_key().id)).sum.requests == 4
        assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
        line = "of key key00001, of 2026-11-23T15:04:05.123Z, was lost"
        assert sum(line in record.getMessage() for record in caplog.records) == 2
        assert "Check the disk" not in caplog.text
        assert "secret" not in caplog.text

    async def test_a_full_disk_is_no_reason_to_drop_a_record_that_falls_apart(
        self, store: SQLiteStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.add_key(a_key())
        refuse(store, "418")
        with full_disk():
            both = [store.add_record(a_record(status=status)) for status in (418, 200)]
            for future in both:
                with pytest.raises(StorageUnavailable):
                    await future
            assert not store.healthy
        await store.add_record(a_record(status=201))
        records, _ = await store.records(a_key().id)
        assert [record.status for record in records] == [200, 201]
        assert "Check the disk." in caplog.text

    async def test_a_change_that_the_database_refuses_is_no_trouble_of_the_disk(
        self, store: SQLiteStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(StorageUnavailable):
            await store._writer.transaction(lambda writer: writer.execute("SELECT 1 FROM missing"))
        assert store.healthy
        await store.add_key(a_key())
        assert caplog.messages == ["A change of the database failed (SQLITE_ERROR)."]

    async def test_nobody_has_to_wait_for_a_record(self, store: SQLiteStorage) -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, c: complaints.append(c))
        await store.add_key(a_key())
        with full_disk():
            store.add_record(a_record())
            change = asyncio.create_task(store.add_key(a_key(2)))
            await asyncio.sleep(0)
            change.cancel()
            while store.healthy:
                await asyncio.sleep(0)
            await asyncio.wait([change])
        await store.close()
        gc.collect()
        await asyncio.sleep(0)
        assert complaints == []

    async def test_close_tries_once_more(self, store: SQLiteStorage, open_store: Open) -> None:
        await store.add_key(a_key())
        with full_disk(), pytest.raises(StorageUnavailable):
            await store.add_record(a_record())
        await store.close()
        assert (await (await open_store()).records(a_key().id))[0] == [a_record()]

    async def test_close_ends_on_a_full_disk_too(
        self, store: SQLiteStorage, open_store: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.add_key(a_key())
        with full_disk():
            waiting = store.add_record(a_record())
            await store.close()
        with pytest.raises(StorageUnavailable):
            await waiting
        assert "1 usage records were lost" in caplog.text
        assert await (await open_store()).keys() == [a_key()]

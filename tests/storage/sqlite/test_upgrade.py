"""A database of every older version, with all that this one had, becomes one of today.

Each is made by the migrations that there were at that time, and filled by SQL of that time.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import pytest

from opuslive.storage.sqlite.database import known_schema
from opuslive.storage.sqlite.store import SQLiteStorage
from opuslive.times import DAY_MS, HOUR_MS
from tests.support.clock import NOW
from tests.support.keys import a_key, a_record

TOKENS = (1, 20, 300, 4_000, 50_000)
#: Time, status, latency in ms and tier of the requests of key 1.
RECORDS: Sequence[tuple[int, int, int | None, int]] = (
    (NOW - 40 * DAY_MS, 200, 1_500, 0),
    (NOW - HOUR_MS, 404, 120, 0),
    (NOW - HOUR_MS, 200, 1_000, 1),
    (NOW, 429, None, 0),
    (NOW, 429, 300, 1),
    (NOW + 1, 499, 2_500, 1),
    (NOW + 2, 502, 0, 2),
    (NOW + 3, 200, 1_500, 2),
)
TIMES = [time for time, *_ in RECORDS]
MODEL = "claude-opus-4-8"
TOKEN_NAMES = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
)
#: Status and latency → the column that counts such a request, from version 5 on.
COUNTED_AS: Mapping[tuple[int, int | None], str] = {
    (200, 1_500): "latency_2s",
    (200, 1_000): "latency_1s",
    (404, 120): "client_errors",
    (429, None): "refusals",
    (429, 300): "upstream_errors",
    (499, 2_500): "cut",
    (502, 0): "upstream_errors",
}
VERSIONS = range(1, known_schema())


def migrations() -> Sequence[str]:
    folder = resources.files("opuslive.storage.sqlite.migrations")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=str)
    return [file.read_text("utf-8") for file in files]


def make(path: Path, version: int) -> None:
    """What the program of that version left."""
    path.parent.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for script in migrations()[:version]:
            connection.executescript(script)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO meta VALUES ('checksum_key', ?)", (b"k" * 32,))
        fill(connection, version)
    path.chmod(0o600)


def fill(connection: sqlite3.Connection, version: int) -> None:
    for number in (1, 2):
        key = a_key(number)
        connection.execute(
            "INSERT INTO keys (key, id, name, prefix, created_at, secret_hash, enabled, models, "
            "limits, group_name) VALUES (?, ?, ?, ?, ?, ?, 1, '[]', '[\"60 requests/1m\"]', ?)",
            (
                number,
                key.id,
                key.name,
                key.prefix,
                key.created_at,
                key.secret_hash,
                "friends" if number == 1 else None,
            ),
        )
    sums: defaultdict[tuple[str, int, int], Counter[str]] = defaultdict(Counter)
    for number, (time, status, latency_ms, tier) in enumerate(RECORDS):
        refused = latency_ms is None
        values = (1, time, number, MODEL, status, latency_ms, *((0,) * 5 if refused else TOKENS))
        connection.execute(f"INSERT INTO usage VALUES ({', '.join('?' * 11)})", values)
        added = Counter({"refusals" if refused else "requests": 1})
        if not refused:
            added.update(dict(zip(TOKEN_NAMES, TOKENS, strict=True)))
        if version >= 5:
            added[COUNTED_AS[status, latency_ms]] += not refused
        for table, span in [("hourly", HOUR_MS)] + [("daily", DAY_MS)] * (version >= 2):
            # (Tokens count where the request ended.)
            assert time // span == (time + (latency_ms or 0)) // span
            sums[table, time // span, tier].update(added)
        sums["totals", 0, 0].update(added)
    for (table, bucket, tier), counts in sums.items():
        where = (1, max(TIMES)) if table == "totals" else (1, bucket, MODEL, tier)
        info = connection.execute(f"PRAGMA table_info({table})").fetchall()
        row = (*where, *(counts[name] for _, name, *_ in info[len(where) :]))
        connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    if version >= 3:
        connection.execute("INSERT INTO group_changes VALUES (1, ?, 'friends')", (NOW - DAY_MS,))


@pytest.mark.parametrize("version", VERSIONS)
async def test_everything_is_there_and_sound(database: Path, version: int) -> None:
    make(database, version)
    store = await SQLiteStorage.open(database, retry_delay=3_600)
    try:
        assert await store.maintenance.check(quick=False, progress=lambda part: None) == []
        assert [key.name for key in await store.keys()] == [a_key(1).name, a_key(2).name]
        assert {key.group for key in await store.keys()} == {"friends", None}
        records, _ = await store.records(a_key().id)
        assert sorted(record.time for record in records) == sorted(TIMES)
        since = {
            key: [change.since for change in each]
            for key, each in (await store.group_changes()).items()
        }
        assert since == {a_key().id: [NOW - DAY_MS if version >= 3 else 0]}
        whole = (await store.key_usage(a_key().id)).sum
        assert whole.outcomes == {
            "served": 3,
            "client_error": 1,
            "upstream_error": 2,
            "cut": 1,
            "refused": 1,
        }
        latencies = await store.latencies(None, since=0, until=2 * NOW)
        assert latencies[MODEL].counts == (0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        assert [each.status for each in await store.latest_trouble(limit=3)] == [502, 499, 429]
        # It goes on as any other one.
        await store.add_record(a_record(2))
        assert await store.maintenance.check(quick=False, progress=lambda part: None) == []
    finally:
        await store.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_its_schema_is_that_of_a_new_one(database: Path, version: int) -> None:
    make(database, version)
    new = database.with_name("new.db")
    for path in (database, new):
        await (await SQLiteStorage.open(path, retry_delay=3_600)).close()
    schemas = []
    for path in (database, new):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            statement = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
            schemas.append(connection.execute(statement).fetchall())
    assert schemas[0] == schemas[1]


async def test_a_program_of_the_version_before_refuses_it(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And changes nothing: the way back is the backup from before."""
    await (await SQLiteStorage.open(database, retry_delay=3_600)).close()
    before = database.read_bytes()
    older = tuple(migrations()[:-1])
    monkeypatch.setattr("opuslive.storage.sqlite.database._MIGRATIONS", older)
    with pytest.raises(Exception, match=f"version {known_schema() + 1}"):
        await SQLiteStorage.open(database, retry_delay=3_600)
    assert database.read_bytes() == before

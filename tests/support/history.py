"""A gateway whose keys have a past: written into its database before it starts."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from opuslive.storage import open_storage
from opuslive.times import DAY_MS, iso_ms
from opuslive.usage import EXPORT_COLUMNS, TokenCounts, UsageRecord
from tests.support.server import Server

MODELS = ("claude-opus-4-8", "claude-sonnet-4-5", "claude-haiku-4-5", None)


@dataclass(frozen=True, slots=True)
class Holder:
    """A key with a past."""

    id: str
    key: str
    records: Sequence[UsageRecord]


async def write_history(server: Server, name: str, number: int, *options: str) -> Holder:
    """Make a key, before the server starts, that was used so many times in the last 25 days."""
    made = await server.create_key(name, *options)
    records = sorted(_records(made["id"], number), key=lambda record: record.time)
    storage = await open_storage(f"sqlite://{server.database}")
    for record in records:
        storage.add_record(record)
    await storage.flush()
    await storage.close()
    return Holder(made["id"], made["key"], records)


def schema(folder: Path) -> dict[str, set[str]]:
    """The columns of each table."""
    with sqlite3.connect(folder / "opuslive.db") as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        names = {name for (name,) in tables if not name.startswith("sqlite_")}
        columns = {
            name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})")}
            for name in names
        }
    connection.close()
    return columns


def stored(server: Server, folder: Path) -> list[tuple[object, ...]]:
    """The records in the database of a server with one used key, read from a copy of it."""
    for path, content in server.files().items():
        if path.name in ("opuslive.db", "opuslive.db-wal"):
            (folder / path.name).write_bytes(content)
    with sqlite3.connect(folder / "opuslive.db") as connection:
        rows = connection.execute(
            f"SELECT {', '.join(EXPORT_COLUMNS)} FROM usage ORDER BY time, seq"
        ).fetchall()
    connection.close()
    return [(iso_ms(time), *others) for time, *others in rows]


def _records(key_id: str, number: int) -> Sequence[UsageRecord]:
    chance = random.Random(number)
    now = int(datetime.now(UTC).timestamp() * 1000)
    records = []
    for index in range(number):
        # Half of it in the last two days, some of it within the hour.
        days = 25 if index % 2 else 2
        age = int(DAY_MS * days * chance.random() ** 2) + 60_000
        refused = index % 19 == 0
        tokens = TokenCounts(
            input=chance.randrange(200, 6_000),
            output=chance.randrange(50, 4_000),
            cache_read=chance.randrange(0, 12_000),
            cache_write_5m=chance.randrange(0, 2_000),
            cache_write_1h=chance.randrange(0, 500),
        )
        records.append(
            UsageRecord(
                key_id=key_id,
                time=now - age,
                model=chance.choices(MODELS, (6, 4, 2, 1))[0],
                status=429 if refused else (200 if index % 23 else 529),
                latency_ms=None if refused else chance.randrange(400, 40_000),
                tokens=TokenCounts() if refused else tokens,
            )
        )
    return records

"""What is read. Each function runs in one read transaction and leaves no cursor open."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from opuslive.keys import Key
from opuslive.storage.protocol import Cursor, KeyUsage, SeriesBy
from opuslive.storage.rows import (
    KEY_COLUMNS,
    LATEST_TIME,
    RECORD_COLUMNS,
    SUM_COLUMNS,
    find_key,
    key_of,
    record_of,
    sum_of,
)
from opuslive.usage import DAY_MS, HOUR_MS, HourSum, SeriesPoint, UsageRecord, UsageSum

_TOTALS = ", ".join(f"totals.{column}" for column in SUM_COLUMNS)
_SUMS = ", ".join(f"sum(hourly.{column})" for column in SUM_COLUMNS)
_TOKENS = " + ".join(f"sum(hourly.{column})" for column in SUM_COLUMNS[2:])
_BUCKETS: Mapping[SeriesBy, str] = {
    "day": f"hourly.hour / 24 * {DAY_MS}",
    "hour": f"hourly.hour * {HOUR_MS}",
    "model": "nullif(hourly.model, '')",
}
_ORDERS: Mapping[SeriesBy, str] = {
    "day": "bucket",
    "hour": "bucket",
    "model": f"{_TOKENS} DESC, bucket",
}


def keys(connection: sqlite3.Connection) -> Sequence[Key]:
    rows = connection.execute(
        f"SELECT {KEY_COLUMNS} FROM keys WHERE NOT erasing ORDER BY created_at, key"
    )
    return [key_of(row) for row in rows.fetchall()]


def all_key_usage(connection: sqlite3.Connection) -> dict[str, KeyUsage]:
    rows = connection.execute(
        f"SELECT keys.id, totals.last_used_at, {_TOTALS} "
        "FROM keys JOIN totals USING (key) WHERE NOT keys.erasing"
    )
    return {row[0]: KeyUsage(row[1], sum_of(row[2:])) for row in rows.fetchall()}


def key_usage(connection: sqlite3.Connection, key_id: str) -> KeyUsage:
    row = connection.execute(
        f"SELECT last_used_at, {_TOTALS} FROM totals WHERE key = ?",
        (find_key(connection, key_id),),
    ).fetchone()
    return KeyUsage() if row is None else KeyUsage(row[0], sum_of(row[1:]))


def series(
    connection: sqlite3.Connection, key_id: str | None, since: int, until: int, by: SeriesBy
) -> Sequence[SeriesPoint]:
    since, until = (max(0, min(time, LATEST_TIME)) for time in (since, until))
    hours = (since // HOUR_MS, -(-until // HOUR_MS))
    if key_id is None:
        # CROSS JOIN keeps this order of loops: one range of hours for each key, not every row.
        source, which = "keys CROSS JOIN hourly ON hourly.key = keys.key", "NOT keys.erasing"
        values: tuple[int | None, ...] = hours
    else:
        source, which = "hourly", "hourly.key = ?"
        values = (find_key(connection, key_id), *hours)
    rows = connection.execute(
        f"SELECT {_BUCKETS[by]} AS bucket, {_SUMS} FROM {source} "
        f"WHERE {which} AND hourly.hour >= ? AND hourly.hour < ? "
        f"GROUP BY bucket ORDER BY {_ORDERS[by]}",
        values,
    )
    points = (SeriesPoint(row[0], sum_of(row[1:])) for row in rows.fetchall())
    return [point for point in points if point.sum != UsageSum()]


def hours(connection: sqlite3.Connection, key_id: str, since_hour: int) -> Sequence[HourSum]:
    rows = connection.execute(
        f"SELECT hour, nullif(model, ''), tier, {', '.join(SUM_COLUMNS)} FROM hourly "
        "WHERE key = ? AND hour >= ? ORDER BY hour, model, tier",
        (find_key(connection, key_id), max(0, since_hour)),
    )
    return [HourSum(row[0], row[1], row[2], sum_of(row[3:])) for row in rows.fetchall()]


def records(
    connection: sqlite3.Connection, key_id: str, after: Cursor | None, limit: int
) -> tuple[Sequence[UsageRecord], Cursor | None]:
    time, seq = (max(-1, min(part, LATEST_TIME)) for part in after or (-1, -1))
    rows = connection.execute(
        f"SELECT {RECORD_COLUMNS} FROM usage WHERE key = ? AND (time, seq) > (?, ?) "
        "ORDER BY time, seq LIMIT ?",
        (find_key(connection, key_id), time, seq, limit + 1),  # one more: is there a next page?
    ).fetchall()
    page = rows[:limit]
    following = (page[-1][0], page[-1][1]) if len(rows) > limit else None
    return [record_of(key_id, row) for row in page], following


def latest_records(
    connection: sqlite3.Connection, key_id: str, limit: int
) -> Sequence[UsageRecord]:
    rows = connection.execute(
        f"SELECT {RECORD_COLUMNS} FROM usage WHERE key = ? ORDER BY time DESC, seq DESC LIMIT ?",
        (find_key(connection, key_id), limit),
    )
    return [record_of(key_id, row) for row in rows.fetchall()]

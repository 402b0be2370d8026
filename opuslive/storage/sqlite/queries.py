"""What is read. Each function runs in one read transaction and leaves no cursor open."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Sequence

from opuslive.keys import GroupChange, Key
from opuslive.storage.protocol import Cursor, KeyUsage, OpenRecord, SumsBy
from opuslive.storage.sqlite.rows import (
    KEY_COLUMNS,
    LATEST_TIME,
    RECORD_COLUMNS,
    SUM_COLUMNS,
    find_key,
    key_of,
    record_of,
    sum_of,
)
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import ModelSum, UsageRecord, UsageSum

_TOTALS = ", ".join(f"totals.{column}" for column in SUM_COLUMNS)
_SUMS = ", ".join(f"sum({column})" for column in SUM_COLUMNS)


def keys(connection: sqlite3.Connection) -> Sequence[Key]:
    rows = connection.execute(
        f"SELECT {KEY_COLUMNS} FROM keys WHERE NOT erasing ORDER BY created_at, key"
    )
    return [key_of(row) for row in rows.fetchall()]


def group_changes(connection: sqlite3.Connection) -> dict[str, list[GroupChange]]:
    found: dict[str, list[GroupChange]] = {}
    for key_id, since, group in connection.execute(
        "SELECT keys.id, since, group_changes.group_name FROM group_changes JOIN keys USING (key) "
        "WHERE NOT erasing ORDER BY since"
    ).fetchall():
        found.setdefault(key_id, []).append(GroupChange(since, group))
    return found


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


def sums(
    connection: sqlite3.Connection, key_id: str | None, since: int, until: int, by: SumsBy
) -> Sequence[ModelSum]:
    since, until = (max(0, min(time, LATEST_TIME)) for time in (since, until))
    first, end = since // HOUR_MS, -(-until // HOUR_MS)
    # Whole days come from their own sums, what is left at both ends from those of the hours.
    first_day, end_day = -(-first // 24), end // 24
    if by == "hour" or first_day >= end_day:
        ranges = [("hourly", "hour", first, end)]
    else:
        ranges = [
            ("hourly", "hour", first, first_day * 24),
            ("daily", "day", first_day, end_day),
            ("hourly", "hour", end_day * 24, end),
        ]
    key = None if key_id is None else find_key(connection, key_id)
    if key_id is not None and key is None:
        return []
    found: dict[tuple[int | str | None, str, int], list[int]] = {}
    for table, column, start, stop in ranges:
        if start < stop:
            _add_range(connection, found, table, column, (start, stop), by, key)
    return [
        ModelSum(bucket, model or None, tier, total)
        for (bucket, model, tier), numbers in found.items()
        if (total := sum_of(numbers)) != UsageSum()
    ]


def _add_range(
    connection: sqlite3.Connection,
    found: dict[tuple[int | str | None, str, int], list[int]],
    table: str,
    column: str,
    span: tuple[int, int],
    by: SumsBy,
    key: int | None,
) -> None:
    """Add the sums of a span of one table to what was found."""
    bucket = {
        "day": f"{column} / 24 * {DAY_MS}" if table == "hourly" else f"{column} * {DAY_MS}",
        "hour": f"{column} * {HOUR_MS}",
        "model": "nullif(model, '')",
        "key": "keys.id",
    }[by]
    # CROSS JOIN keeps this order of loops: one range of time for each key, not every row.
    rows = connection.execute(
        f"SELECT {bucket} AS bucket, model, tier, {_SUMS} "
        f"FROM keys CROSS JOIN {table} USING (key) "
        f"WHERE {'NOT keys.erasing' if key is None else 'keys.key = ?3'} "
        f"AND {column} >= ?1 AND {column} < ?2 GROUP BY bucket, model, tier ORDER BY bucket",
        span if key is None else (*span, key),
    )
    for name, model, tier, *numbers in rows.fetchall():
        known = found.setdefault((name, model, tier), numbers)
        if known is not numbers:
            known[:] = map(operator.add, known, numbers)


def tokens_by_key(connection: sqlite3.Connection, since: int, until: int) -> dict[str, int]:
    since, until = (max(0, min(time, LATEST_TIME)) for time in (since, until))
    # A subquery for each key, and no GROUP BY, for which SQLite would sort all rows.
    rows = connection.execute(
        f"SELECT id, (SELECT sum({' + '.join(SUM_COLUMNS[2:])}) FROM daily "
        "WHERE daily.key = keys.key AND day >= ? AND day < ?) AS tokens "
        "FROM keys WHERE NOT erasing AND tokens IS NOT NULL",
        (since // DAY_MS, -(-until // DAY_MS)),
    )
    return dict(rows.fetchall())


def open_records(connection: sqlite3.Connection) -> Sequence[tuple[OpenRecord, UsageRecord]]:
    rows = connection.execute(
        f"SELECT keys.id, keys.key, {RECORD_COLUMNS} FROM usage JOIN keys USING (key) "
        "WHERE status IS NULL AND NOT keys.erasing"
    )
    found = []
    for key_id, key, *row in rows.fetchall():
        opened = OpenRecord()
        opened.row_key = (key, row[0], row[1])
        found.append((opened, record_of(key_id, row)))
    return found


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

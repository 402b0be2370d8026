"""What is read. Each query is one statement, and so sees one state of the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from opuslive.keys import GroupChange, Key
from opuslive.latencies import Latencies
from opuslive.storage.protocol import Cursor, KeyUsage, SumsBy
from opuslive.storage.sqlite.key_rows import KEY_COLUMNS, key_of
from opuslive.storage.sqlite.record_rows import RECORD_COLUMNS, OpenRow, record_of, sum_of
from opuslive.storage.sqlite.tables import (
    DAILY,
    HOURLY,
    LATENCY_NAMES,
    SUM_NAMES,
    TOKEN_NAMES,
    Table,
)
from opuslive.storage.sqlite.values import LATEST_TIME, bounded_time, is_text
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import ModelSum, UsageRecord

T = TypeVar("T")

_TOTALS = ", ".join(f"totals.{name}" for name in SUM_NAMES)
_ADDED = ", ".join(f"sum({name})" for name in SUM_NAMES)
_ADDED_AS = ", ".join(f"sum({name}) AS {name}" for name in SUM_NAMES)
_LATENCIES = ", ".join(f"sum({name})" for name in LATENCY_NAMES)
_LATENCIES_AS = ", ".join(f"sum({name}) AS {name}" for name in LATENCY_NAMES)
_TOKENS = " + ".join(TOKEN_NAMES)
_NUMBER = "(SELECT key FROM keys WHERE id = ? AND NOT erasing)"


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """A statement, its parameters, and what is made of each of its rows."""

    statement: str
    parameters: Sequence[object] | Mapping[str, object]
    made_of: Callable[[Sequence[Any]], T]


def keys() -> Query[Key]:
    """Every key, oldest first."""
    return Query(
        f"SELECT {KEY_COLUMNS} FROM keys WHERE NOT erasing ORDER BY created_at, key", (), key_of
    )


def group_changes() -> Query[tuple[str, GroupChange]]:
    """Ids of keys, each with one change of its group; those of a key are in their order."""
    return Query(
        "SELECT keys.id, since, group_changes.group_name "
        "FROM keys CROSS JOIN group_changes USING (key) "
        "WHERE NOT keys.erasing ORDER BY key, since",
        (),
        lambda row: (row[0], GroupChange(row[1], row[2])),
    )


def all_key_usage() -> Query[tuple[str, KeyUsage]]:
    """Ids of keys, each with its usage."""
    return Query(
        f"SELECT keys.id, totals.last_used_at, {_TOTALS} "
        "FROM keys JOIN totals USING (key) WHERE NOT keys.erasing",
        (),
        lambda row: (row[0], KeyUsage(row[1], sum_of(row[2:]))),
    )


def key_usage(key_id: str) -> Query[KeyUsage]:
    """The usage of this key, if there is any."""
    return Query(
        f"SELECT last_used_at, {_TOTALS} FROM totals WHERE key = {_NUMBER}",
        (_bindable(key_id),),
        lambda row: KeyUsage(row[0], sum_of(row[1:])),
    )


def sums(key_id: str | None, since: int, until: int, by: SumsBy) -> Query[ModelSum]:
    """See ``Storage.sums``."""
    since, until = bounded_time(since), bounded_time(until)
    if by == "group":
        return _sums_by_group(key_id, since, until)
    parts = []
    parameters: list[object] = []
    for table, column, first, end in _ranges(since, until, by):
        rows, values = _rows_of(key_id, table, column, first, end)
        parts.append(
            f"SELECT {_bucket(table, column, by)} AS bucket, model, tier, {_ADDED_AS} {rows} "
            "GROUP BY 1, 2, 3"
        )
        parameters += values
    return Query(
        f"SELECT bucket, model, tier, {_ADDED} FROM ({' UNION ALL '.join(parts)}) AS added "
        "GROUP BY 1, 2, 3 ORDER BY 1",
        parameters,
        _model_sum,
    )


def _model_sum(row: Sequence[Any]) -> ModelSum:
    return ModelSum(row[0], row[1] or None, row[2], sum_of(row[3:]))


def _rows_of(
    key_id: str | None, table: Table, column: str, first: int, end: int
) -> tuple[str, Sequence[object]]:
    """The rows of sums of a range, from FROM on, and the parameters."""
    whose = () if key_id is None else (_bindable(key_id),)
    # CROSS JOIN keeps this order of loops: one range of time for each key, not every row.
    return (
        f"FROM keys CROSS JOIN {table.name} USING (key) "
        f"WHERE NOT keys.erasing {'AND keys.id = ?' if whose else ''} "
        f"AND {column} >= ? AND {column} < ?",
        (*whose, first, end),
    )


#: The hours that a key spent in each of its groups, of those from ``:first`` to before ``:end``. A
#: key is in none before its first change. The last change within an hour is the one that counts for
#: it, for the stretches of the others are empty.
_STAYS = f"""
    SELECT key, stays.group_name AS group_name, max(began, :first) AS first,
        min(coalesce(ended, :end), :end) AS "end"
    FROM (
        SELECT key, group_name, began,
            lead(began) OVER (PARTITION BY key ORDER BY began, since) AS ended
        FROM (
            SELECT key, NULL AS group_name, -1 AS began, -1 AS since FROM keys
            UNION ALL
            SELECT key, group_name, since / {HOUR_MS}, since FROM group_changes
        ) AS changes
    ) AS stays
    JOIN keys USING (key)
    WHERE NOT keys.erasing AND (:key_id IS NULL OR keys.id = :key_id)"""
#: The whole days of a stay, and the hours before and after them.
_PARTS_OF_STAYS = (
    (HOURLY, 'hour >= first AND hour < min("end", (first + 23) / 24 * 24)'),
    (DAILY, 'day >= (first + 23) / 24 AND day < "end" / 24'),
    (HOURLY, 'hour >= max((first + 23) / 24, "end" / 24) * 24 AND hour < "end"'),
)


def _sums_by_group(key_id: str | None, since: int, until: int) -> Query[ModelSum]:
    parts = " UNION ALL ".join(
        f"SELECT stays.group_name AS bucket, model, tier, {_ADDED_AS} "
        f"FROM stays CROSS JOIN {table.name} USING (key) WHERE {condition} GROUP BY 1, 2, 3"
        for table, condition in _PARTS_OF_STAYS
    )
    return Query(
        f"WITH stays AS ({_STAYS}) "
        f"SELECT bucket, model, tier, {_ADDED} FROM ({parts}) AS added "
        "GROUP BY 1, 2, 3 ORDER BY 1",
        {
            "first": since // HOUR_MS,
            "end": -(-until // HOUR_MS),
            "key_id": None if key_id is None else _bindable(key_id) or "",
        },
        _model_sum,
    )


def latencies(key_id: str | None, since: int, until: int) -> Query[tuple[str | None, Latencies]]:
    """See ``Storage.latencies``."""
    parts = []
    parameters: list[object] = []
    for table, column, first, end in _ranges(bounded_time(since), bounded_time(until), "model"):
        rows, values = _rows_of(key_id, table, column, first, end)
        parts.append(f"SELECT model, {_LATENCIES_AS} {rows} GROUP BY 1")
        parameters += values
    return Query(
        f"SELECT model, {_LATENCIES} FROM ({' UNION ALL '.join(parts)}) AS added "
        f"GROUP BY 1 HAVING {_LATENCIES.replace(', ', ' + ')} > 0",
        parameters,
        lambda row: (row[0] or None, Latencies(row[1:])),
    )


def _ranges(since: int, until: int, by: SumsBy) -> Sequence[tuple[Table, str, int, int]]:
    """The rows that make up the span, as ``(table, column, first, end)``: the rows of the table
    whose column is at least ``first`` and less than ``end``.

    Whole days are read from the sums of days, the hours at both ends from the sums of hours.
    """
    first, end = since // HOUR_MS, -(-until // HOUR_MS)
    first_day, end_day = -(-first // 24), end // 24
    if by == "hour" or first_day >= end_day:
        return [(HOURLY, "hour", first, end)]
    parts = [
        (HOURLY, "hour", first, first_day * 24),
        (DAILY, "day", first_day, end_day),
        (HOURLY, "hour", end_day * 24, end),
    ]
    return [part for part in parts if part[2] < part[3]]


def _bucket(table: Table, column: str, by: SumsBy) -> str:
    """The expression for the bucket of a row, where ``column`` has its hour or day."""
    return {
        "day": f"{column} / 24 * {DAY_MS}" if table is HOURLY else f"{column} * {DAY_MS}",
        "hour": f"{column} * {HOUR_MS}",
        "model": "nullif(model, '')",
        "key": "keys.id",
    }[by]


def expiries_seen() -> Query[int]:
    """The moment at which expiries were looked at last, if there was one."""
    return Query("SELECT value FROM meta WHERE name = 'expiries_seen'", (), lambda row: row[0])


def tokens_by_key(since: int, until: int) -> Query[tuple[str, int]]:
    """Ids of keys, each with its tokens."""
    # A subquery for each key, and no GROUP BY, for which SQLite would sort all rows.
    return Query(
        f"SELECT id, (SELECT sum({_TOKENS}) FROM daily "
        "WHERE daily.key = keys.key AND day >= ? AND day < ?) AS tokens "
        "FROM keys WHERE NOT erasing AND tokens IS NOT NULL",
        (bounded_time(since) // DAY_MS, -(-bounded_time(until) // DAY_MS)),
        lambda row: (row[0], row[1]),
    )


def open_records() -> Query[tuple[OpenRow, UsageRecord]]:
    """The records of requests that run, or ran when the process was killed."""
    return Query(
        f"SELECT keys.id, keys.key, {RECORD_COLUMNS} FROM usage JOIN keys USING (key) "
        "WHERE status IS NULL AND NOT keys.erasing",
        (),
        lambda row: (OpenRow((row[1], row[2], row[3])), record_of(row[0], row[2:])),
    )


def records(
    key_id: str,
    made_of: Callable[[UsageRecord], T],
    after: Cursor | None,
    limit: int,
    until: int | None = None,
) -> Query[tuple[Cursor, T]]:
    """What is made of the first records after the cursor, each with its own cursor; ``until``, in
    ms since the epoch, is the first moment that they are not of."""
    time, seq = (max(-1, min(part, LATEST_TIME)) for part in after or (-1, -1))
    return Query(
        f"SELECT {RECORD_COLUMNS} FROM usage WHERE key = {_NUMBER} AND (time, seq) > (?, ?) "
        "AND time <= ? ORDER BY time, seq LIMIT ?",
        (
            _bindable(key_id),
            time,
            seq,
            LATEST_TIME if until is None else bounded_time(until) - 1,
            limit,
        ),
        lambda row: ((row[0], row[1]), made_of(record_of(key_id, row))),
    )


def latest_records(key_id: str, limit: int) -> Query[UsageRecord]:
    """The last records, newest first."""
    return Query(
        f"SELECT {RECORD_COLUMNS} FROM usage WHERE key = {_NUMBER} "
        "ORDER BY time DESC, seq DESC LIMIT ?",
        (_bindable(key_id), limit),
        lambda row: record_of(key_id, row),
    )


def latest_trouble(limit: int) -> Query[UsageRecord]:
    """The last records of requests that were not served, newest first."""
    # The condition is that of the index, word for word, lest SQLite read every record. CROSS JOIN
    # keeps the order of the index.
    return Query(
        f"SELECT keys.id, {RECORD_COLUMNS} FROM usage INDEXED BY trouble "
        "CROSS JOIN keys USING (key) WHERE usage.status IS NOT NULL "
        "AND (usage.latency_ms IS NULL OR usage.status NOT BETWEEN 200 AND 299) "
        "AND NOT keys.erasing ORDER BY usage.time DESC, usage.key DESC, usage.seq DESC LIMIT ?",
        (limit,),
        lambda row: record_of(row[0], row[1:]),
    )


def _bindable(key_id: str) -> str | None:
    """The id as a parameter; ``None``, which no key has, for what no database can hold."""
    return key_id if is_text(key_id) else None

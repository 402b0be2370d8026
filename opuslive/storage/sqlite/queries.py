"""What is read. Each query is one statement, and so sees one state of the database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from opuslive.keys import GroupChange, Key
from opuslive.storage.protocol import Cursor, KeyUsage, SumsBy
from opuslive.storage.sqlite.key_rows import INVITATION_COLUMNS, KEY_COLUMNS, invited_key_of
from opuslive.storage.sqlite.record_rows import RECORD_COLUMNS, OpenRow, record_of, sum_of
from opuslive.storage.sqlite.tables import DAILY, HOURLY, SUM_NAMES, TOKEN_NAMES, Table
from opuslive.storage.sqlite.values import LATEST_TIME, bounded_time, is_text
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import ModelSum, UsageRecord

T = TypeVar("T")

_TOTALS = ", ".join(f"totals.{name}" for name in SUM_NAMES)
_ADDED = ", ".join(f"sum({name})" for name in SUM_NAMES)
_ADDED_AS = ", ".join(f"sum({name}) AS {name}" for name in SUM_NAMES)
_TOKENS = " + ".join(TOKEN_NAMES)
#: As ``KEY_COLUMNS``, where other tables have columns of these names.
_KEY_COLUMNS = ", ".join(f"keys.{name}" for name in KEY_COLUMNS.split(", "))
_NUMBER = "(SELECT key FROM keys WHERE id = ? AND NOT erasing)"


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """A statement, its parameters, and what is made of each of its rows."""

    statement: str
    parameters: Sequence[object]
    made_of: Callable[[Sequence[Any]], T]


def keys() -> Query[Key]:
    """Every key, oldest first."""
    return Query(
        f"SELECT {_KEY_COLUMNS}, {INVITATION_COLUMNS} FROM keys LEFT JOIN invitations USING (key) "
        "WHERE NOT erasing ORDER BY created_at, key",
        (),
        invited_key_of,
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
    parts = []
    parameters: list[object] = []
    whose = () if key_id is None else (_bindable(key_id),)
    for table, column, first, end in _ranges(bounded_time(since), bounded_time(until), by):
        # CROSS JOIN keeps this order of loops: one range of time for each key, not every row.
        parts.append(
            f"SELECT {_bucket(table, column, by)} AS bucket, model, tier, {_ADDED_AS} "
            f"FROM keys CROSS JOIN {table.name} USING (key) "
            f"WHERE NOT keys.erasing {'AND keys.id = ?' if whose else ''} "
            f"AND {column} >= ? AND {column} < ? GROUP BY 1, 2, 3"
        )
        parameters += (*whose, first, end)
    return Query(
        f"SELECT bucket, model, tier, {_ADDED} FROM ({' UNION ALL '.join(parts)}) AS added "
        "GROUP BY 1, 2, 3 ORDER BY 1",
        parameters,
        lambda row: ModelSum(row[0], row[1] or None, row[2], sum_of(row[3:])),
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
    key_id: str, made_of: Callable[[UsageRecord], T], after: Cursor | None, limit: int
) -> Query[tuple[Cursor, T]]:
    """What is made of the first records after the cursor, each with its own cursor."""
    time, seq = (max(-1, min(part, LATEST_TIME)) for part in after or (-1, -1))
    return Query(
        f"SELECT {RECORD_COLUMNS} FROM usage WHERE key = {_NUMBER} AND (time, seq) > (?, ?) "
        "ORDER BY time, seq LIMIT ?",
        (_bindable(key_id), time, seq, limit),
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


def _bindable(key_id: str) -> str | None:
    """The id as a parameter; ``None``, which no key has, for what no database can hold."""
    return key_id if is_text(key_id) else None

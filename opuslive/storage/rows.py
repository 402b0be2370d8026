"""Keys and usage records as rows: how they are written, and how they are made again."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.keys import Key
from opuslive.metering import TokenCounts
from opuslive.usage import HOUR_MS, UsageRecord, UsageSum

#: No request uses a million million tokens, and no number this size makes a sum overflow
#: SQLite's 64 bits before eight million of them.
LARGEST_NUMBER = 2**40
#: In ms since the epoch, the year 10889: beyond any clock, within any arithmetic.
LATEST_TIME = 2**48

KEY_COLUMNS = (
    "id, name, prefix, created_at, secret_hash, enabled, expires_at, models, limits, "
    "group_name, previous_hash, previous_expires_at"
)
RECORD_COLUMNS = (
    "time, seq, model, status, latency_ms, input_tokens, output_tokens, "
    "cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens"
)
SUM_COLUMNS = (
    "requests",
    "refusals",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
)

_ADD_SUMS = ", ".join(f"{column} = {column} + excluded.{column}" for column in SUM_COLUMNS)
# The columns are constants of this module; no value ever becomes part of a statement.
_INSERT_RECORD = f"""
    INSERT INTO usage (key, {RECORD_COLUMNS}) VALUES (
        ?1, ?2, (SELECT coalesce(max(seq) + 1, 0) FROM usage WHERE key = ?1 AND time = ?2),
        ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10
    )"""
_ADD_HOURLY = f"""
    INSERT INTO hourly (key, hour, model, tier, {", ".join(SUM_COLUMNS)})
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key, hour, model, tier) DO UPDATE SET {_ADD_SUMS}"""
_ADD_TOTALS = f"""
    INSERT INTO totals (key, last_used_at, {", ".join(SUM_COLUMNS)})
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET
        last_used_at = max(last_used_at, excluded.last_used_at), {_ADD_SUMS}"""


# --- keys -----------------------------------------------------------------------------------


def find_key(connection: sqlite3.Connection, key_id: str) -> int | None:
    """The number of the key with this id, unless it is being erased."""
    try:
        row = connection.execute(
            "SELECT key FROM keys WHERE id = ? AND NOT erasing", (key_id,)
        ).fetchone()
    except UnicodeEncodeError:  # no text that the database can hold
        return None
    return None if row is None else int(row[0])


def insert_key(connection: sqlite3.Connection, key: Key) -> None:
    """Raises OpusLiveError (conflict, invalid_request)."""
    values = _key_row(key)
    if find_key(connection, key.id) is not None:
        raise OpusLiveError(
            Code.CONFLICT, f"There is a key with the id {key.id} already; make one with another id."
        )
    _check_name_is_free(connection, key)
    connection.execute(
        f"INSERT INTO keys ({KEY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        values,
    )


def update_key(connection: sqlite3.Connection, key: Key) -> None:
    """Raises OpusLiveError (conflict, invalid_request, not_found)."""
    values = _key_row(key)
    number = find_key(connection, key.id)
    if number is None:
        raise no_such_key(key.id)
    _check_name_is_free(connection, key)
    connection.execute(
        f"UPDATE keys SET ({KEY_COLUMNS}) = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE key = ?",
        (*values, number),
    )


def no_such_key(key_id: str) -> OpusLiveError:
    return OpusLiveError(
        Code.NOT_FOUND, f"There is no key with the id {key_id}; list the keys to see which are."
    )


def _check_name_is_free(connection: sqlite3.Connection, key: Key) -> None:
    taken = connection.execute(
        "SELECT 1 FROM keys WHERE name = ? AND id <> ?", (key.name, key.id)
    ).fetchone()
    if taken is not None:
        raise OpusLiveError(
            Code.CONFLICT, f"There is a key named {key.name} already; choose another name."
        )


def _key_row(key: Key) -> tuple[object, ...]:
    row = (
        key.id,
        key.name,
        key.prefix,
        key.created_at,
        key.secret_hash,
        int(key.enabled),
        key.expires_at,
        json.dumps(key.models),
        json.dumps(key.limits),
        key.group,
        key.previous_hash,
        key.previous_expires_at,
    )
    for value in row:
        if isinstance(value, str) and not _encodable(value):
            raise UsageError(
                "A name or group of the key holds half a character (a lone surrogate); "
                "write it as valid Unicode text."
            )
        if isinstance(value, int) and not 0 <= value <= LATEST_TIME:
            raise UsageError(f"A time of the key, {value} ms, is no date; give one before 10000.")
    return row


def key_of(row: Sequence[Any]) -> Key:
    """The key in a row of ``KEY_COLUMNS``."""
    return Key(
        id=row[0],
        name=row[1],
        prefix=row[2],
        created_at=row[3],
        secret_hash=row[4],
        enabled=bool(row[5]),
        expires_at=row[6],
        models=tuple(json.loads(row[7])),
        limits=tuple(json.loads(row[8])),
        group=row[9],
        previous_hash=row[10],
        previous_expires_at=row[11],
    )


# --- usage ----------------------------------------------------------------------------------


def storable(record: UsageRecord) -> UsageRecord:
    """The record with every number and the model within what the database can hold.

    One that it can't would fail each commit it is in, and so hold up all records behind it.
    """
    tokens = record.tokens
    counts = (
        record.status,
        record.latency_ms or 0,
        tokens.input,
        tokens.output,
        tokens.cache_read,
        tokens.cache_write_5m,
        tokens.cache_write_1h,
    )
    if (
        min(counts) >= 0
        and max(counts) <= LARGEST_NUMBER
        and 0 <= record.time <= LATEST_TIME
        and (record.model is None or (record.model and _encodable(record.model)))
    ):
        return record
    status, latency_ms, *kinds = (_clamp(count) for count in counts)
    return replace(
        record,
        time=max(0, min(record.time, LATEST_TIME)),
        model=record.model if record.model and _encodable(record.model) else None,
        status=status,
        latency_ms=None if record.latency_ms is None else latency_ms,
        tokens=TokenCounts(*kinds),
    )


def insert_records(connection: sqlite3.Connection, records: Sequence[UsageRecord]) -> None:
    """Write storable records, and add them to the sums; drop those whose key is not there."""
    numbers = {key_id: find_key(connection, key_id) for key_id in {r.key_id for r in records}}
    rows = []
    # Added up here, so that a batch costs one statement per key, hour and model, not per record.
    hourly: defaultdict[tuple[int, int, str, int], list[int]] = defaultdict(_zeros)
    totals: defaultdict[int, list[int]] = defaultdict(_zeros)
    last_used: dict[int, int] = {}
    for record in records:
        key = numbers[record.key_id]
        if key is None:
            continue
        time, model, tier, tokens = record.time, record.model or "", record.tier, record.tokens
        kinds = (
            tokens.input,
            tokens.output,
            tokens.cache_read,
            tokens.cache_write_5m,
            tokens.cache_write_1h,
        )
        rows.append((key, time, record.model, record.status, record.latency_ms, *kinds))
        which = 1 if record.latency_ms is None else 0  # a refusal, or a request
        hourly[key, time // HOUR_MS, model, tier][which] += 1
        totals[key][which] += 1
        last_used[key] = max(time, last_used.get(key, time))
        if any(kinds):
            hour_sums, total = hourly[key, record.end_time // HOUR_MS, model, tier], totals[key]
            for index, count in enumerate(kinds, 2):
                hour_sums[index] += count
                total[index] += count
    connection.executemany(_INSERT_RECORD, rows)
    connection.executemany(_ADD_HOURLY, [(*where, *sums) for where, sums in hourly.items()])
    connection.executemany(_ADD_TOTALS, [(k, last_used[k], *sums) for k, sums in totals.items()])


def record_of(key_id: str, row: Sequence[Any]) -> UsageRecord:
    """The record in a row of ``RECORD_COLUMNS``."""
    time, _, model, status, latency_ms, *kinds = row
    return UsageRecord(key_id, time, model, status, latency_ms, TokenCounts(*kinds))


def sum_of(row: Sequence[int]) -> UsageSum:
    """The sum in a row of ``SUM_COLUMNS``."""
    return UsageSum(row[0], row[1], TokenCounts(*row[2:]))


def _zeros() -> list[int]:
    return [0] * len(SUM_COLUMNS)


def _clamp(count: int) -> int:
    return max(0, min(count, LARGEST_NUMBER))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

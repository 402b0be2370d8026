"""Keys and usage records as rows: how they are written, and how they are made again."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.keys import Key
from opuslive.storage.protocol import OpenRecord
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import TokenCounts, UsageRecord, UsageSum

#: The primary key of a record's row: the number of its key, its time and its seq.
RowKey = tuple[int, int, int]

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
# The tables and columns are constants of this module; no value ever becomes part of a statement.
_NEXT_SEQ = "SELECT coalesce(max(seq) + 1, 0) FROM usage WHERE key = ?1 AND time = ?2"
_INSERT_RECORD = f"""
    INSERT INTO usage (key, {RECORD_COLUMNS})
    VALUES (?1, ?2, ({_NEXT_SEQ}), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"""
_INSERT_RECORD_AT = f"""
    INSERT INTO usage (key, {RECORD_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_UPDATE_RECORD = """
    UPDATE usage SET model = ?, status = ?, latency_ms = ?, input_tokens = ?, output_tokens = ?,
        cache_read_tokens = ?, cache_write_5m_tokens = ?, cache_write_1h_tokens = ?
    WHERE key = ? AND time = ? AND seq = ?"""
_ADD_HOURLY, _ADD_DAILY = (
    f"""
    INSERT INTO {table} (key, {bucket}, model, tier, {", ".join(SUM_COLUMNS)})
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key, {bucket}, model, tier) DO UPDATE SET {_ADD_SUMS}"""
    for table, bucket in (("hourly", "hour"), ("daily", "day"))
)
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
    number = find_key(connection, key.id)
    if key.group is not None and number is not None:
        _change_group(connection, number, 0, key.group)


def _change_group(connection: sqlite3.Connection, key: int, since: int, group: str | None) -> None:
    connection.execute(
        "INSERT INTO group_changes (key, since, group_name) VALUES (?, ?, ?) "
        "ON CONFLICT (key, since) DO UPDATE SET group_name = excluded.group_name",
        (key, since, group),
    )


def update_key(connection: sqlite3.Connection, key: Key, at: int) -> None:
    """Raises OpusLiveError (conflict, invalid_request, not_found)."""
    values = _key_row(key)
    number = find_key(connection, key.id)
    if number is None:
        raise no_such_key(key.id)
    _check_name_is_free(connection, key)
    (group,) = connection.execute("SELECT group_name FROM keys WHERE key = ?", (number,)).fetchone()
    if group != key.group:
        _change_group(connection, number, at, key.group)
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
    counts = (record.status or 0, record.latency_ms or 0, *_kinds(record.tokens))
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
        status=None if record.status is None else status,
        latency_ms=None if record.latency_ms is None else latency_ms,
        tokens=TokenCounts(*kinds),
    )


def insert_records(
    connection: sqlite3.Connection,
    records: Sequence[tuple[UsageRecord, OpenRecord | None]],
    known: Mapping[OpenRecord, RowKey] = MappingProxyType({}),
) -> Mapping[OpenRecord, RowKey]:
    """Write storable records, and add them to the sums; drop those whose key is not there.

    A record with an ``OpenRecord`` goes where that one's row is; returned are the keys of
    new rows, which count once they are committed. ``known`` are such keys of rows that were
    written before in the same transaction. A record without a status is in no sum yet.
    """
    key_ids = {record.key_id for record, _ in records}
    numbers = {key_id: find_key(connection, key_id) for key_id in key_ids}
    rows = []
    row_keys: dict[OpenRecord, RowKey] = {}
    sums = _Sums()
    for record, opened in records:
        key = numbers[record.key_id]
        if key is None:
            continue
        row = _record_row(record)
        if opened is None:
            rows.append((key, record.time, *row))
        elif row_key := row_keys.get(opened) or known.get(opened) or opened.row_key:
            connection.execute(_UPDATE_RECORD, (*row, *row_key))
        else:
            (seq,) = connection.execute(_NEXT_SEQ, (key, record.time)).fetchone()
            row_keys[opened] = key, record.time, seq
            connection.execute(_INSERT_RECORD_AT, (*row_keys[opened], *row))
        if record.status is not None:
            sums.add(key, record)
    connection.executemany(_INSERT_RECORD, rows)
    sums.write(connection)
    return row_keys


class _Sums:
    """Added up here, so that a batch costs a statement per key, hour and model, not per record."""

    def __init__(self) -> None:
        self._hourly: defaultdict[tuple[int, int, str, int], list[int]] = defaultdict(_zeros)
        self._daily: defaultdict[tuple[int, int, str, int], list[int]] = defaultdict(_zeros)
        self._totals: defaultdict[int, list[int]] = defaultdict(_zeros)
        self._last_used: dict[int, int] = {}

    def add(self, key: int, record: UsageRecord) -> None:
        time, model, tier = record.time, record.model or "", record.tier
        total = self._totals[key]
        which = 1 if record.latency_ms is None else 0  # a refusal, or a request
        self._hourly[key, time // HOUR_MS, model, tier][which] += 1
        self._daily[key, time // DAY_MS, model, tier][which] += 1
        total[which] += 1
        self._last_used[key] = max(time, self._last_used.get(key, time))
        kinds = _kinds(record.tokens)
        if any(kinds):
            end = record.end_time
            hour = self._hourly[key, end // HOUR_MS, model, tier]
            day = self._daily[key, end // DAY_MS, model, tier]
            for index, count in enumerate(kinds, 2):
                hour[index] += count
                day[index] += count
                total[index] += count

    def write(self, connection: sqlite3.Connection) -> None:
        connection.executemany(_ADD_HOURLY, [(*at, *sums) for at, sums in self._hourly.items()])
        connection.executemany(_ADD_DAILY, [(*at, *sums) for at, sums in self._daily.items()])
        connection.executemany(
            _ADD_TOTALS,
            [(key, self._last_used[key], *sums) for key, sums in self._totals.items()],
        )


def _record_row(record: UsageRecord) -> tuple[object, ...]:
    """What ``RECORD_COLUMNS`` names after time and seq."""
    return (record.model, record.status, record.latency_ms, *_kinds(record.tokens))


def _kinds(tokens: TokenCounts) -> tuple[int, ...]:
    """The counts in the order of the columns."""
    return (
        tokens.input,
        tokens.output,
        tokens.cache_read,
        tokens.cache_write_5m,
        tokens.cache_write_1h,
    )


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

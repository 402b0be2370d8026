"""Usage records as rows: how they are written and added up, and how they are made again."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from opuslive.latencies import latency_place
from opuslive.storage.protocol import OpenRecord
from opuslive.storage.sqlite.key_rows import find_key
from opuslive.storage.sqlite.tables import (
    DAILY,
    HOURLY,
    LATENCY_NAMES,
    PARTS,
    SUM_NAMES,
    TOKEN_NAMES,
    TOTALS,
    USAGE,
    Table,
)
from opuslive.storage.sqlite.values import (
    LARGEST_NUMBER,
    LATEST_TIME,
    bounded_number,
    bounded_time,
    is_text,
)
from opuslive.times import DAY_MS, HOUR_MS
from opuslive.usage import Outcome, TokenCounts, UsagePart, UsageRecord, UsageSum, outcome_of

#: The primary key of a record's row: the number of its key, its time and its seq.
RowKey = tuple[int, int, int]

_COLUMNS = ", ".join(name for name in USAGE.names if name != "key")
_FIELDS = USAGE.fields
#: The parts of a record as JSON, an array for each; NULL if there are none, which is the rule.
_PARTS_OF = (
    f"(SELECT json_group_array(json_array({', '.join(c.name for c in PARTS.fields.values())})) "
    "FROM parts WHERE parts.key = usage.key AND parts.time = usage.time "
    "AND parts.seq = usage.seq HAVING count(*))"
)
#: The columns that ``record_of`` reads of ``usage``.
RECORD_COLUMNS = (
    f"{', '.join(f'usage.{name}' for name in USAGE.names if name != 'key')}, {_PARTS_OF}"
)

#: What a record has for the columns after its key, time and seq.
_record_row: Callable[[UsageRecord], tuple[object, ...]] = attrgetter(*_FIELDS)
#: What a part has for the columns after those that it shares with its record's row.
_part_row: Callable[[UsagePart], tuple[object, ...]] = attrgetter(*PARTS.fields)
#: The counts of each kind, in the order of their columns.
_kinds: Callable[[TokenCounts], tuple[int, ...]] = attrgetter(*TokenCounts.__struct_fields__)
#: Places in ``SUM_NAMES``: of the requests, of the refusals, of the first kind of tokens, and of
#: the first count of an outcome.
_REQUESTS, _REFUSALS, _TOKENS, _OUTCOMES = 0, 1, 2, 2 + len(TOKEN_NAMES)
#: What does not go well → the place of its count.
_TROUBLES: Mapping[Outcome, int] = MappingProxyType(
    {
        "client_error": SUM_NAMES.index("client_errors"),
        "upstream_error": SUM_NAMES.index("upstream_errors"),
        "cut": SUM_NAMES.index("cut"),
    }
)
#: The place of the first count of latencies, which is behind ``SUM_NAMES`` in hours and days.
_LATENCIES = len(SUM_NAMES)

_NEXT_SEQ = "SELECT coalesce(max(seq) + 1, 0) FROM usage WHERE key = ?1 AND time = ?2"
_INSERT_RECORD = (
    f"INSERT INTO usage (key, {_COLUMNS}) VALUES (?1, ?2, ({_NEXT_SEQ}), "
    f"{', '.join(f'?{number}' for number in range(3, 3 + len(_FIELDS)))})"
)
_INSERT_RECORD_AT, _INSERT_PART = USAGE.insert, PARTS.insert
_DELETE_RECORD = "DELETE FROM usage WHERE key = ? AND time = ? AND seq = ?"
_DELETE_PARTS = "DELETE FROM parts WHERE key = ? AND time = ? AND seq = ?"
_UPDATE_RECORD = (
    f"UPDATE usage SET {', '.join(f'{column.name} = ?' for column in _FIELDS.values())} "
    "WHERE key = ? AND time = ? AND seq = ?"
)


def _add_to(table: Table, names: Sequence[str], *more: str) -> str:
    """A statement that adds a row of sums, which have these names, to the one that is there;
    ``more`` sets other columns."""
    sums = (f"{name} = {name} + excluded.{name}" for name in names)
    key = ", ".join(table.primary_key)
    return f"{table.insert} ON CONFLICT ({key}) DO UPDATE SET {', '.join((*more, *sums))}"


_ADD_HOURLY, _ADD_DAILY = (_add_to(table, SUM_NAMES + LATENCY_NAMES) for table in (HOURLY, DAILY))
_ADD_TOTALS = _add_to(TOTALS, SUM_NAMES, "last_used_at = max(last_used_at, excluded.last_used_at)")


class OpenRow(OpenRecord):
    """An open record, and where its row is."""

    __slots__ = ("pending", "row_key")

    def __init__(self, row_key: RowKey | None = None) -> None:
        #: Whether a version of the record is queued.
        self.pending = False
        #: The primary key of the row, once it is in the database.
        self.row_key = row_key


def storable(record: UsageRecord) -> UsageRecord:
    """The record, with every number and model changed to what the database can hold.

    A value beyond would fail each commit that the record is in, and so hold up all behind it.
    """
    numbers = (record.status or 0, record.latency_ms or 0)
    if (
        min(numbers) >= 0
        and max(numbers) <= LARGEST_NUMBER
        and 0 <= record.time <= LATEST_TIME
        and _is_storable(record)
        and all(map(_is_storable, record.parts))
    ):
        return record
    status, latency_ms = map(bounded_number, numbers)
    own, *parts = map(_storable_part, record.by_model)
    return replace(
        record,
        time=bounded_time(record.time),
        model=own.model,
        status=None if record.status is None else status,
        latency_ms=None if record.latency_ms is None else latency_ms,
        tokens=own.tokens,
        parts=tuple(parts),
    )


def _is_storable(part: UsageRecord | UsagePart) -> bool:
    counts = _kinds(part.tokens)
    return (
        min(counts) >= 0
        and max(counts) <= LARGEST_NUMBER
        and (part.model is None or bool(part.model and is_text(part.model)))
    )


def _storable_part(part: UsagePart) -> UsagePart:
    return replace(
        part,
        model=part.model if part.model and is_text(part.model) else None,
        tokens=TokenCounts(*map(bounded_number, _kinds(part.tokens))),
    )


def insert_records(
    connection: sqlite3.Connection,
    records: Sequence[tuple[UsageRecord, OpenRow | None]],
    known: Mapping[OpenRow, RowKey] = MappingProxyType({}),
) -> Mapping[OpenRow, RowKey]:
    """Write storable records, and add them to the sums; drop those whose key is not there.

    A record with an ``OpenRow`` takes the place of what is in that row, also if its time is another
    than it was. Returns open record → primary key for each row that is new or has moved; the
    transaction that did that has to be committed before anyone may rely on it. ``known`` is the
    same for rows that were written earlier in this transaction. A record without a status is in no
    sum yet.
    """
    key_ids = {record.key_id for record, _ in records}
    numbers = {key_id: find_key(connection, key_id) for key_id in key_ids}
    rows = []
    row_keys: dict[OpenRow, RowKey] = {}
    sums = _Sums()
    for record, opened in records:
        key = numbers[record.key_id]
        if key is None:
            continue
        row = _record_row(record)
        if opened is None and not record.parts:
            rows.append((key, record.time, *row))
        else:
            row_key = None
            if opened is not None:
                row_key = row_keys.get(opened) or known.get(opened) or opened.row_key
            if row_key is not None:
                connection.execute(_DELETE_PARTS, row_key)
                if row_key[1] != record.time:
                    connection.execute(_DELETE_RECORD, row_key)
                    row_key = None
            if row_key is not None:
                connection.execute(_UPDATE_RECORD, (*row, *row_key))
            else:
                # Records of one ms stay in their order.
                connection.executemany(_INSERT_RECORD, rows)
                rows.clear()
                (seq,) = connection.execute(_NEXT_SEQ, (key, record.time)).fetchone()
                row_key = key, record.time, seq
                connection.execute(_INSERT_RECORD_AT, (*row_key, *row))
                if opened is not None:
                    row_keys[opened] = row_key
            parts = [(*row_key, at, *_part_row(part)) for at, part in enumerate(record.parts)]
            connection.executemany(_INSERT_PART, parts)
        if record.status is not None:
            sums.add(key, record, record.status)
    connection.executemany(_INSERT_RECORD, rows)
    sums.write(connection)
    return row_keys


class _Sums:
    """What a batch adds to the sums: a statement per key, hour and model, not per record."""

    def __init__(self) -> None:
        self._hourly: defaultdict[tuple[int, int, str, int], list[int]] = defaultdict(_zeros)
        self._daily: defaultdict[tuple[int, int, str, int], list[int]] = defaultdict(_zeros)
        self._totals: defaultdict[int, list[int]] = defaultdict(lambda: [0] * len(SUM_NAMES))
        self._last_used: dict[int, int] = {}

    def add(self, key: int, record: UsageRecord, status: int) -> None:
        """Add a record that has this status."""
        time, model, tier = record.time, record.model or "", record.tier
        latency_ms = record.latency_ms
        hour = self._hourly[key, time // HOUR_MS, model, tier]
        day = self._daily[key, time // DAY_MS, model, tier]
        total = self._totals[key]
        which = _REFUSALS if latency_ms is None else _REQUESTS
        hour[which] += 1
        day[which] += 1
        total[which] += 1
        outcome = outcome_of(status, latency_ms)
        if outcome in _TROUBLES:
            which = _TROUBLES[outcome]
            hour[which] += 1
            day[which] += 1
            total[which] += 1
        elif latency_ms is not None:
            which = _LATENCIES + latency_place(latency_ms)
            hour[which] += 1
            day[which] += 1
        self._last_used[key] = max(time, self._last_used.get(key, time))
        # The record stands for its own part: one that is made for it costs as much as its sums.
        parts: tuple[UsageRecord | UsagePart, ...] = (record, *record.parts)
        for part in parts:
            kinds = _kinds(part.tokens)
            if any(kinds):
                end, named = record.end_time, part.model or ""
                hour = self._hourly[key, end // HOUR_MS, named, part.tier]
                day = self._daily[key, end // DAY_MS, named, part.tier]
                for index, count in enumerate(kinds, _TOKENS):
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


def record_of(key_id: str, row: Sequence[Any]) -> UsageRecord:
    """The record of this key in a row of ``RECORD_COLUMNS``."""
    time, _, model, status, latency_ms, *kinds, parts = row
    record = UsageRecord(key_id, time, model, status, latency_ms, TokenCounts(*kinds))
    if parts is None:
        return record
    return replace(
        record,
        parts=tuple(UsagePart(model, TokenCounts(*counts)) for model, *counts in json.loads(parts)),
    )


def sum_of(row: Sequence[int]) -> UsageSum:
    """The sum in a row of ``SUM_NAMES``."""
    tokens = TokenCounts(*row[_TOKENS:_OUTCOMES])
    return UsageSum(row[_REQUESTS], row[_REFUSALS], tokens, *row[_OUTCOMES:])


def _zeros() -> list[int]:
    return [0] * (len(SUM_NAMES) + len(LATENCY_NAMES))

"""What is wrong with a database, in sentences.

Everything is looked at in one read transaction, so that sums and records are of one moment. The
records are added up by SQLite, a key and a day at a time: what has to be in memory is what differs
and the sums of one key.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from opuslive.latencies import LATENCY_BOUNDS_MS
from opuslive.storage.maintenance import Progress
from opuslive.storage.sqlite.jobs import StopSign
from opuslive.storage.sqlite.key_rows import KEY_COLUMNS, key_of
from opuslive.storage.sqlite.tables import (
    BELONGINGS,
    DAILY,
    HOURLY,
    LATENCY_NAMES,
    PARTS,
    SUM_NAMES,
    TOKEN_NAMES,
    USAGE,
    Table,
)
from opuslive.storage.sqlite.values import LARGEST_NUMBER
from opuslive.times import DAY_MS, HOUR_MS

#: Findings of one kind that are told; of the rest, the number.
MOST = 10
#: The part of the work that reading every page is, roughly.
_PAGES = 0.4

_END = "(usage.time + coalesce(latency_ms, 0))"
_COUNTS = ", ".join(f"sum({{0}}.{name})" for name in TOKEN_NAMES)
_OF_A_DAY = "usage.key = ? AND usage.time >= ? AND usage.time < ? AND status IS NOT NULL"
#: The requests with each of the outcomes that have columns, in the order of those.
_OUTCOMES = (
    "sum(status BETWEEN 400 AND 498 AND status <> 429 AND latency_ms IS NOT NULL), "
    "sum((status NOT BETWEEN 200 AND 299 AND status NOT BETWEEN 400 AND 499 OR status = 429) "
    "AND latency_ms IS NOT NULL), sum(status = 499 AND latency_ms IS NOT NULL)"
)
#: Those that were served in the time between each two bounds, the lower one not included.
_LATENCIES = ", ".join(
    f"sum(status BETWEEN 200 AND 299 AND latency_ms > {above} AND latency_ms <= {most})"
    for above, most in pairwise((-1, *LATENCY_BOUNDS_MS, LARGEST_NUMBER))
)
_NO_TOKENS = ", ".join("0" for _ in TOKEN_NAMES)
_NO_OUTCOMES = ", ".join("0" for _ in (*SUM_NAMES[2 + len(TOKEN_NAMES) :], *LATENCY_NAMES))
#: What the records of a day add to the sums of hours: an hour, a model, and the sums.
_FROM_RECORDS = (
    f"SELECT usage.time / {HOUR_MS}, coalesce(model, ''), sum(latency_ms IS NOT NULL), "
    f"sum(latency_ms IS NULL), {_NO_TOKENS}, {_OUTCOMES}, {_LATENCIES} "
    f"FROM usage WHERE {_OF_A_DAY} GROUP BY 1, 2",
    f"SELECT {_END} / {HOUR_MS}, coalesce(model, ''), 0, 0, {_COUNTS.format('usage')}, "
    f"{_NO_OUTCOMES} FROM usage WHERE {_OF_A_DAY} GROUP BY 1, 2",
    f"SELECT {_END} / {HOUR_MS}, coalesce(parts.model, ''), 0, 0, {_COUNTS.format('parts')}, "
    f"{_NO_OUTCOMES} "
    # CROSS JOIN keeps this order of loops: few requests have parts.
    "FROM parts CROSS JOIN usage USING (key, time, seq) "
    "WHERE parts.key = ? AND parts.time >= ? AND parts.time < ? AND status IS NOT NULL "
    "GROUP BY 1, 2",
)
_SUMS = ", ".join(SUM_NAMES)
_ADDED = ", ".join(f"sum({name})" for name in SUM_NAMES)
#: What the sums of hours and days have.
_ALL_NAMES = SUM_NAMES + LATENCY_NAMES
_ALL_ADDED = ", ".join(f"sum({name})" for name in _ALL_NAMES)

#: Hour and model, or day, model and tier → how much the sums have more than there should be.
_Excess = defaultdict[tuple[Any, ...], list[int]]


def inspect(
    connection: sqlite3.Connection, sign: StopSign, *, quick: bool, progress: Progress
) -> Sequence[str]:
    """What is wrong. Blocks. Raises Interrupted, and sqlite3.Error for a damage that hides all."""
    with sign.heeded_by(connection):
        connection.execute("BEGIN")
        findings = list(_pages(connection, quick=quick))
        progress(1.0 if quick else _PAGES)
        # Whatever is read of pages that are damaged may be wrong as well.
        if not findings and not quick:
            findings += _owners(connection)
            findings += _most(_keys(connection), "keys")
            sums = _sums(connection, lambda part: progress(_PAGES + part * (1 - _PAGES)))
            findings += _most(sums, "sums")
        connection.execute("ROLLBACK")
    progress(1.0)
    return findings


def _pages(connection: sqlite3.Connection, *, quick: bool) -> Iterator[str]:
    check = "quick_check" if quick else "integrity_check"
    found = connection.execute(f"PRAGMA {check}({MOST})").fetchall()
    if found != [("ok",)]:
        for (line,) in found:
            yield f"The file is damaged: {' '.join(str(line).split())}."


def _owners(connection: sqlite3.Connection) -> Iterator[str]:
    """Rows that belong to no key, and parts of no record."""
    for table in BELONGINGS:
        cursor = connection.execute(f"PRAGMA foreign_key_check({table.name})")
        count = sum(1 for _ in cursor)
        if count:
            yield f"{count:,} rows of {table.name!r} belong to no key."
    (count,) = connection.execute(
        f"SELECT count(*) FROM {PARTS.name} AS parts WHERE NOT EXISTS (SELECT 1 FROM {USAGE.name} "
        "AS usage WHERE usage.key = parts.key AND usage.time = parts.time "
        "AND usage.seq = parts.seq) AND key IN (SELECT key FROM keys WHERE NOT erasing)"
    ).fetchone()
    if count:
        yield f"{count:,} parts of requests belong to no request."


def _keys(connection: sqlite3.Connection) -> Iterator[str]:
    """Keys that can't be read as keys, and groups that differ from their last change."""
    for number, *row in connection.execute(
        f"SELECT key, {KEY_COLUMNS} FROM keys WHERE NOT erasing"
    ):
        try:
            key = key_of(row)
        except (ValueError, TypeError):
            yield f"The key with the number {number} can't be read; delete it, or restore a backup."
            continue
        (group,) = connection.execute(
            "SELECT (SELECT group_name FROM group_changes WHERE key = ? "
            "ORDER BY since DESC LIMIT 1)",
            (number,),
        ).fetchone()
        if group != key.group:
            yield f"The key {key.name!r} is in another group than its last change of group says."


def _most(findings: Iterator[str], what: str) -> Sequence[str]:
    """The first findings of a kind, and how many more there are."""
    told = list(itertools.islice(findings, MOST))
    more = sum(1 for _ in findings)
    return [*told, f"The same goes for {more:,} more {what}."] if more else told


def _sums(connection: sqlite3.Connection, progress: Progress) -> Iterator[str]:
    """Sums that differ from what the records, or the sums that they are made of, add up to."""
    keys = connection.execute("SELECT key, name FROM keys WHERE NOT erasing").fetchall()
    for done, (number, name) in enumerate(keys, 1):
        for finding in _sums_of(connection, number):
            yield f"The usage of the key {name!r} {finding}."
        progress(done / len(keys))


def _sums_of(connection: sqlite3.Connection, key: int) -> Iterator[str]:
    hours, last_used = _hours(connection, key)
    yield from _told(hours, "in the hour from", HOUR_MS, "its records")
    yield from _told(_days(connection, key), "on the day from", DAY_MS, "the sums of its hours")
    total = connection.execute(
        f"SELECT last_used_at, {_SUMS} FROM totals WHERE key = ?", (key,)
    ).fetchone()
    added = connection.execute(f"SELECT {_ADDED} FROM hourly WHERE key = ?", (key,)).fetchone()
    expected = (last_used, *(count or 0 for count in added))
    if (total or (None, *([0] * len(SUM_NAMES)))) != expected:
        yield "in all differs from the sums of its hours"


def _hours(connection: sqlite3.Connection, key: int) -> tuple[_Excess, int | None]:
    """How the sums of hours differ from the records, and when the last of these was."""
    excess = _stored(connection, HOURLY, "hour, model", key)
    last_used = None
    first = _next_time(connection, key, 0)
    while first is not None:
        end = (first // DAY_MS + 1) * DAY_MS
        for statement in _FROM_RECORDS:
            for hour, model, *sums in connection.execute(statement, (key, first, end)):
                _subtract(excess[hour, model], sums)
        (latest,) = connection.execute(
            f"SELECT max(time) FROM usage WHERE {_OF_A_DAY}", (key, first, end)
        ).fetchone()
        last_used = last_used if latest is None else latest
        first = _next_time(connection, key, end)
    return excess, last_used


def _next_time(connection: sqlite3.Connection, key: int, since: int) -> int | None:
    found = connection.execute(
        "SELECT time FROM usage WHERE key = ? AND time >= ? ORDER BY time LIMIT 1", (key, since)
    ).fetchone()
    return None if found is None else int(found[0])


def _days(connection: sqlite3.Connection, key: int) -> _Excess:
    """How the sums of days differ from those of their hours."""
    excess = _stored(connection, DAILY, "day, model, tier", key)
    for day, model, tier, *sums in connection.execute(
        f"SELECT hour / 24, model, tier, {_ALL_ADDED} FROM hourly WHERE key = ? GROUP BY 1, 2, 3",
        (key,),
    ):
        _subtract(excess[day, model, tier], sums)
    return excess


def _stored(connection: sqlite3.Connection, table: Table, by: str, key: int) -> _Excess:
    width = by.count(",") + 1
    rows = connection.execute(
        f"SELECT {by}, {_ALL_ADDED} FROM {table.name} WHERE key = ? GROUP BY {by}", (key,)
    )
    excess: _Excess = defaultdict(lambda: [0] * len(_ALL_NAMES))
    for row in rows:
        excess[row[:width]] = list(row[width:])
    return excess


def _subtract(sums: list[int], others: Sequence[int]) -> None:
    for index, other in enumerate(others):
        sums[index] -= other


def _told(excess: _Excess, when: str, unit: int, made_of: str) -> Iterator[str]:
    for (bucket, model, *_), sums in sorted(excess.items()):
        if any(sums):
            start = datetime.fromtimestamp(bucket * unit / 1000, UTC)
            differing = ", ".join(
                f"{name.replace('_', ' ')} by {more:+,}"
                for name, more in zip(_ALL_NAMES, sums, strict=True)
                if more
            )
            yield (
                f"{when} {start:%Y-%m-%d %H:%M} UTC with {model or 'a model that is not kept'} "
                f"differs from {made_of}: {differing}"
            )

"""What must hold of a database whenever its server is dead.

It is looked at in a copy: SQLite recovers what a crash left, and that is for the next start to
do. Nothing of ``opuslive`` is used here but what its records mean.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.ledger import ROW, Ledger, Row

SUMS = (
    "requests",
    "refusals",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "client_errors",
    "upstream_errors",
    "cut",
)
#: Milliseconds in the unit that a rollup's column counts.
_SPANS = {"hour": 3_600_000, "day": 86_400_000}


def classes_of(status: int, latency_ms: int | None) -> list[str]:
    """The sums of classes that count a request, for one that was neither served nor refused."""
    if latency_ms is None or 200 <= status < 300:
        return []
    if status == 499:
        return ["cut"]
    client = 400 <= status < 500 and status != 429
    return ["client_errors" if client else "upstream_errors"]


@dataclass(frozen=True, slots=True)
class Found:
    """What is stored: the records of keys that are not being erased, and those keys."""

    rows: list[Row]
    keys: dict[str, tuple[str, str | None]]  # by id: name and group


@contextlib.contextmanager
def copied(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a copy of the database and its write-ahead log."""
    with tempfile.TemporaryDirectory(prefix="opuslive-dead-") as name:
        copy = Path(name) / database.name
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"{database}{suffix}", f"{copy}{suffix}")
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            yield connection


def left(database: Path) -> bytes:
    """All bytes of the database and its write-ahead log."""
    files = [database, Path(f"{database}-wal")]
    return b"".join(file.read_bytes() for file in files if file.exists())


def examine(database: Path, ledger: Ledger) -> tuple[list[str], Found]:
    """What is wrong with the database of a server that is dead, and what is stored in it."""
    problems = []
    content = left(database)
    for what, trace in ledger.traces():
        if trace in content:
            problems.append(f"{what} is left in the files")
    rows = {content[m.start() - 2 : m.start() + 6] for m in re.finditer(re.escape(ROW), content)}
    for what, trace in ledger.erased_rows():
        if trace in rows:
            problems.append(f"{what} is left in the files")
    with copied(database) as connection:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            return problems, Found([], {})  # dead before it was made
        problems += sound(connection)
        found = _found(connection)
    problems += ledger.settle_keys(found.keys)
    problems += ledger.compare(found.rows)
    return problems, found


def sound(connection: sqlite3.Connection) -> list[str]:
    """What is wrong with a database in itself, whatever anyone saw."""
    problems = [
        str(line) for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"
    ]
    problems += [f"dangling: {row}" for row in connection.execute("PRAGMA foreign_key_check")]
    tables = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    if "parts" not in tables:  # dead before it was brought to the version that has them
        connection.execute(
            f"CREATE TEMP TABLE parts (key, time, seq, model, {', '.join(SUMS[2:])})"
        )
    problems += [
        f"a part without its record: {row}"
        for row in connection.execute(
            "SELECT * FROM parts LEFT JOIN usage USING (key, time, seq) WHERE usage.seq IS NULL "
            "AND key NOT IN (SELECT key FROM keys WHERE erasing)"
        )
    ]
    for table in tables:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        if "key" in columns and set(SUMS) <= set(columns):
            problems += _rollup(connection, table, columns)
    return problems


def _rollup(connection: sqlite3.Connection, table: str, columns: list[str]) -> list[str]:
    """Compare a table of sums with the sums of the records.

    Sums by the tier of a price are added up: a record does not tell its tier. The parts of a record
    are tokens of their own models, at the end of their request, and no requests.
    """
    unit = next((column for column in columns if column in _SPANS), None)
    span = _SPANS.get(unit or "")
    by = ["key", *([unit] if unit else []), *(["model"] if "model" in columns else [])]
    added = ", ".join(f"sum({name})" for name in SUMS)
    stored = {
        tuple(row[: len(by)]): list(row[len(by) :])
        for row in connection.execute(
            f"SELECT {', '.join(by)}, {added} FROM {table} "
            f"WHERE key NOT IN (SELECT key FROM keys WHERE erasing) GROUP BY {', '.join(by)}"
        )
        if any(row[len(by) :])
    }
    expected: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(SUMS))
    last_used: dict[int, int] = {}
    for key, time, model, status, latency_ms, *counts in connection.execute(
        "SELECT key, time, model, status, latency_ms, input_tokens, output_tokens, "
        "cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens FROM usage "
        "WHERE status IS NOT NULL AND key NOT IN (SELECT key FROM keys WHERE erasing)"
    ):
        named = [model or ""] if "model" in columns else []
        times = [[], []] if span is None else [[time // span], [(time + (latency_ms or 0)) // span]]
        begun = expected[key, *times[0], *named]
        begun[1 if latency_ms is None else 0] += 1
        for class_of in classes_of(status, latency_ms):
            begun[SUMS.index(class_of)] += 1
        if any(counts):
            ended = expected[key, *times[1], *named]
            for index, count in enumerate(counts, 2):
                ended[index] += count
        last_used[key] = max(time, last_used.get(key, 0))
    for key, end, model, *counts in connection.execute(
        "SELECT key, time + coalesce(latency_ms, 0), parts.model, parts.input_tokens, "
        "parts.output_tokens, parts.cache_read_tokens, parts.cache_write_5m_tokens, "
        "parts.cache_write_1h_tokens FROM parts JOIN usage USING (key, time, seq) "
        "WHERE status IS NOT NULL AND key NOT IN (SELECT key FROM keys WHERE erasing)"
    ):
        named = [model or ""] if "model" in columns else []
        if any(counts):
            ended = expected[key, *([] if span is None else [end // span]), *named]
            for index, count in enumerate(counts, 2):
                ended[index] += count
    problems = [
        f"{table}: {where} has {stored.get(where)}, its records {expected.get(where)}"
        for where in stored.keys() | expected.keys()
        if stored.get(where) != expected.get(where)
    ]
    if "last_used_at" in columns:
        for key, time in connection.execute(
            f"SELECT key, last_used_at FROM {table} "
            "WHERE key NOT IN (SELECT key FROM keys WHERE erasing)"
        ):
            if last_used.get(key) != time:
                problems.append(
                    f"{table}: key {key} was last used {last_used.get(key)}, not {time}"
                )
    return problems


def _found(connection: sqlite3.Connection) -> Found:
    rows = connection.execute(
        "SELECT keys.id, time, model, status, latency_ms, input_tokens, output_tokens, "
        "cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens "
        "FROM usage JOIN keys USING (key) WHERE NOT erasing"
    )
    keys = connection.execute("SELECT id, name, group_name FROM keys WHERE NOT erasing")
    return Found(
        [
            Row(key, time, model, status, latency_ms, tuple(counts))
            for key, time, model, status, latency_ms, *counts in rows
        ],
        {key_id: (name, group) for key_id, name, group in keys},
    )

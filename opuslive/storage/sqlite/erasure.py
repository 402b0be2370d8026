"""Deleting a key and its usage so that no byte of them is left.

The steps, each a transaction or at least safe to repeat, are:

1. ``mark``: the key's row keeps nothing but its number and ``erasing``; the key is gone.
2. ``delete_batch``, until it finds nothing: all other rows of the key, a bounded number at a time.
3. ``scrub``, from the first page to the last: see below. It truncates the write-ahead log too.
4. ``forget``: the row itself, a number by now.

The row marked in the first step says until the fourth that an erasure is owed, so one that was
cut short is completed when the database is next opened. One that meets a damaged page is given
up until then, loudly: nothing else is to suffer from it.

``deletion`` and ``ending`` are generators that yield the steps after the first, and are sent what
each returned. Whoever drives them decides how a step is run, and what follows if one fails:
``complete`` does it at once when the database is opened, the store between other transactions.

``secure_delete`` overwrites what is deleted, but not every copy of it: when SQLite splits or
merges pages it leaves what it moved away in the unallocated gap of the page it came from, and
a later DELETE does not know about it. Measured with SQLite 3.40: 3 of 100 deleted keys still
had records in the file. Hence the scrub, which writes zeros over the gap of every page.
https://www.sqlite.org/fileformat2.html#b_tree_pages describes the bytes it looks at.

It writes to the file beside SQLite, which is sound because of the following. The bytes of a
gap mean nothing to SQLite. The write-ahead log was truncated and the page cache emptied just
before, in the one thread that writes, so that no other version of a page exists that could be
written later. And a power failure while writing damages no byte outside of what is written:
SQLite assumes that too (SQLITE_IOCAP_POWERSAFE_OVERWRITE).
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import struct
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from opuslive.storage.sqlite.faults import is_damage
from opuslive.storage.sqlite.key_rows import find_key, no_such_key
from opuslive.storage.sqlite.tables import BELONGINGS, KEYS, USAGE, Table

#: Rows deleted in one transaction, at most: 4-8 ms, during which no record is committed.
BATCH_ROWS = 5_000
#: Bytes scrubbed in one go: 9 ms, and 23 at most, where every page has a gap to fill.
SCRUB_BYTES = 4 * 1024 * 1024
#: With at most this many pages, the first byte of a page that is not of a B-tree is 0 or 1 (it
#: belongs to the number of another page, or to zeros) and never one of ``_HEADER_SIZES``; pages of
#: the pointer map are another matter.
MAX_PAGES = 2**25

#: Size of the header by the type of the B-tree page: interior ones also name a right child.
_HEADER_SIZES = MappingProxyType({2: 12, 5: 12, 10: 8, 13: 8})
_PAGE_HEADER = struct.Struct(">BHHH")  # type, first free block, cells, start of the cells
_FILE_HEADER_SIZE = 100
#: SQLite puts its locks on the page at this offset and never uses it.
_LOCK_BYTE = 0x40000000
#: Seconds from a failure of a step to the next attempt, at most.
LONGEST_PAUSE = 60.0

_log = logging.getLogger(__name__)

_CLEARED = ", ".join(
    f"{name} = NULL" for name in KEYS.names if name not in (*KEYS.primary_key, "erasing")
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of an erasure; it may be repeated until it has succeeded once."""

    run: Callable[[sqlite3.Connection], Any]
    #: Whether it runs in a transaction; otherwise outside of any, while nothing is read.
    in_transaction: bool = True


#: Yields steps, is sent what each of them returned, and returns what came of them.
Steps = Generator[Step, Any, T]


class CheckpointBusyError(Exception):
    """Someone is reading the write-ahead log, so it can't be truncated now."""


def mark(connection: sqlite3.Connection, key_id: str) -> int:
    """Take all that names it out of the key's row; return its number. Raises OpusLiveError."""
    key = find_key(connection, key_id)
    if key is None:
        raise no_such_key(key_id)
    connection.execute(f"UPDATE keys SET erasing = 1, {_CLEARED} WHERE key = ?", (key,))
    return key


def deletion(key: int) -> Steps[int]:
    """Delete all rows that belong to the key; returns how many were records."""
    records, last = 0, False
    while not last:
        deleted, last = yield Step(partial(delete_batch, key=key))
        records += deleted
    return records


def ending(keys: Iterable[int], database: int) -> Steps[None]:
    """Scrub what the deletions have left, then forget these keys.

    ``database`` is a descriptor of the file.
    """
    offset: int | None = 0
    while offset is not None:
        offset = yield Step(partial(scrub, database=database, offset=offset), in_transaction=False)
    for key in keys:
        yield Step(partial(forget, key=key))


def delete_batch(connection: sqlite3.Connection, key: int) -> tuple[int, bool]:
    """Delete some of the key's rows: how many were records, and whether that was the last."""
    records, left = 0, BATCH_ROWS
    for table in BELONGINGS:
        deleted = _delete_first(connection, table, key, left)
        if table is USAGE:
            records = deleted
        left -= deleted
        if left == 0:
            return records, False
    return records, True


def _delete_first(connection: sqlite3.Connection, table: Table, key: int, count: int) -> int:
    """Delete this many of the key's rows of a table, or all that there are; return how many."""
    order = [name for name in table.primary_key if name != "key"]
    columns = ", ".join(order or ["key"])
    last = connection.execute(
        f"SELECT {columns} FROM {table.name} WHERE key = ? ORDER BY {columns} LIMIT 1 OFFSET ?",
        (key, count - 1),
    ).fetchone()
    if last is None:
        return connection.execute(f"DELETE FROM {table.name} WHERE key = ?", (key,)).rowcount
    return connection.execute(
        f"DELETE FROM {table.name} WHERE key = ? AND ({columns}) <= ({', '.join('?' * len(last))})",
        (key, *last),
    ).rowcount


def scrub(connection: sqlite3.Connection, database: int, offset: int) -> int | None:
    """Scrub some pages from the offset on; return where to go on, ``None`` at the end.

    ``database`` is a descriptor of the file. Runs outside of a transaction, in the thread that
    writes. Raises CheckpointBusyError, sqlite3.Error and OSError; nothing is lost by that.
    """
    truncate(connection)
    connection.execute("PRAGMA shrink_memory")
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    (has_pointer_maps,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    size = os.fstat(database).st_size
    pages = os.pread(database, min(SCRUB_BYTES, size - offset), offset)
    whole = len(pages) // page_size * page_size
    if not whole:
        raise OSError(errno.EIO, "the database file ends in the middle of a page")
    zeros = bytes(page_size)
    wrote = False
    for start in range(0, whole, page_size):
        if has_pointer_maps and _is_pointer_map(offset + start, page_size):
            continue
        gap_start, gap_end = _gap(pages, start, page_size, offset + start)
        if pages[gap_start:gap_end] != zeros[: gap_end - gap_start]:
            _overwrite(database, zeros[: gap_end - gap_start], offset + gap_start)
            wrote = True
    if wrote:
        os.fsync(database)
    offset += whole
    return offset if offset < size else None


def _overwrite(database: int, data: bytes, offset: int) -> None:
    """Write all of it: a disk may take a part and say no more about it. Raises OSError."""
    while data:
        written = os.pwrite(database, data, offset)
        data, offset = data[written:], offset + written


def _gap(pages: bytes, start: int, page_size: int, offset: int) -> tuple[int, int]:
    """Where the unallocated bytes of the page at ``start`` begin and end; empty if unsure."""
    nothing = (start, start)
    header = start + (_FILE_HEADER_SIZE if offset == 0 else 0)
    kind, free_block, cells, content = _PAGE_HEADER.unpack_from(pages, header)
    header_size = _HEADER_SIZES.get(kind)
    if header_size is None or offset == _LOCK_BYTE:
        return nothing
    gap_start = header + header_size + 2 * cells
    gap_end = start + (content or 65_536)
    if not gap_start <= gap_end <= start + page_size or 0 < free_block < gap_end - start:
        return nothing
    return gap_start, gap_end


def _is_pointer_map(offset: int, page_size: int) -> bool:
    """Whether the page at the offset tells where the pages behind it are referred to.

    There are such pages in a database that can be compacted step by step.
    https://www.sqlite.org/fileformat2.html#pointer_map_or_ptrmap_pages
    """
    number, described = offset // page_size + 1, page_size // 5
    if offset == _LOCK_BYTE + page_size and _is_pointer_map(_LOCK_BYTE, page_size):
        return True  # the lock's page is left out
    return number > 1 and (number - 2) % (described + 1) == 0


def forget(connection: sqlite3.Connection, key: int) -> None:
    connection.execute("DELETE FROM keys WHERE key = ?", (key,))


def truncate(connection: sqlite3.Connection) -> None:
    """Move what the write-ahead log holds into the database and empty it.

    Raises CheckpointBusyError at once rather than wait, for records may be waiting behind.
    """
    (timeout,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {timeout}")
    if busy:
        raise CheckpointBusyError


def complete(connection: sqlite3.Connection, database: int) -> None:
    """Carry through what was cut short, for all keys with one scrub.

    Nothing else uses the database meanwhile. Raises as ``scrub`` does; a key whose rows are in a
    damaged page is given up.
    """
    deleted = []
    for (key,) in connection.execute("SELECT key FROM keys WHERE erasing").fetchall():
        try:
            _carry_out(connection, deletion(key))
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            give_up(key)
        else:
            deleted.append(key)
    if deleted:
        _carry_out(connection, ending(deleted, database))


def _carry_out(connection: sqlite3.Connection, steps: Steps[T]) -> T:
    try:
        step = next(steps)
        while True:
            step = steps.send(_run(connection, step))
    except StopIteration as ended:
        result: T = ended.value
        return result


def _run(connection: sqlite3.Connection, step: Step) -> Any:
    if not step.in_transaction:
        return step.run(connection)
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        return step.run(connection)


def give_up(key: int) -> None:
    """Say that the erasure of the key with this number met a damaged page."""
    _log.error(
        "The usage of a deleted key (number %d) can't be erased, for the database is damaged; "
        "restore a backup, and delete the key again.",
        key,
    )


def pause(failures: int, delay: float) -> float:
    """Seconds to wait before a step that failed so often in a row is tried again.

    None after the first time, for the disk is well again by then; then ``delay`` seconds, and
    about twice as long each time, since what fails may be this step alone.
    """
    return min(delay * (2.0 ** min(failures - 1, 30) - 1), LONGEST_PAUSE)

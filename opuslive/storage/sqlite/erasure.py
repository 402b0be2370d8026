"""Deleting a key and its usage so that no byte of them is left.

The steps, each a transaction or at least safe to repeat, are:

1. ``mark``: the key's row keeps nothing but its number and ``erasing``; the key is gone.
2. ``delete_batch``, until it finds nothing: usage and sums, a bounded number of rows at a time.
3. ``scrub``, from the first page to the last: see below. It truncates the write-ahead log too.
4. ``forget``: the row itself, a number by now.

The row marked in the first step says until the fourth that an erasure is owed, so one that was
cut short is completed when the database is next opened. One that meets a damaged page is given
up until then, loudly: nothing else is to suffer from it.

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
from types import MappingProxyType

from opuslive.storage.sqlite.faults import is_damage
from opuslive.storage.sqlite.rows import find_key, no_such_key

#: Rows deleted in one transaction: 4-8 ms, during which no record is committed.
BATCH_ROWS = 5_000
#: Bytes scrubbed in one go: 9 ms, and 23 at most, where every page has a gap to fill.
SCRUB_BYTES = 4 * 1024 * 1024
#: With at most this many pages, the first byte of a page that is not of a B-tree is 0 or 1 (it
#: belongs to the number of another page, or to zeros) and never one of ``_HEADER_SIZES``.
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


class CheckpointBusyError(Exception):
    """Someone is reading the write-ahead log, so it can't be truncated now."""


def mark(connection: sqlite3.Connection, key_id: str) -> int:
    """Take all that names it out of the key's row; return its number. Raises OpusLiveError."""
    key = find_key(connection, key_id)
    if key is None:
        raise no_such_key(key_id)
    connection.execute(
        "UPDATE keys SET erasing = 1, id = NULL, name = NULL, prefix = NULL, created_at = NULL, "
        "secret_hash = NULL, enabled = NULL, expires_at = NULL, models = NULL, limits = NULL, "
        "group_name = NULL, previous_hash = NULL, previous_expires_at = NULL WHERE key = ?",
        (key,),
    )
    return key


def delete_batch(connection: sqlite3.Connection, key: int) -> tuple[int, bool]:
    """Delete some of the key's rows: how many were records, and whether that was the last."""
    records = _delete_first(connection, "usage", "time, seq", key)
    if records == BATCH_ROWS:
        return records, False
    for table, order in (("hourly", "hour, model, tier"), ("daily", "day, model, tier")):
        if _delete_first(connection, table, order, key) == BATCH_ROWS:
            return records, False
    connection.execute("DELETE FROM totals WHERE key = ?", (key,))
    connection.execute("DELETE FROM group_changes WHERE key = ?", (key,))
    return records, True


def _delete_first(connection: sqlite3.Connection, table: str, order: str, key: int) -> int:
    last = connection.execute(
        f"SELECT {order} FROM {table} WHERE key = ? ORDER BY {order} LIMIT 1 OFFSET ?",
        (key, BATCH_ROWS - 1),
    ).fetchone()
    if last is None:
        return connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,)).rowcount
    return connection.execute(
        f"DELETE FROM {table} WHERE key = ? AND ({order}) <= ({', '.join('?' * len(last))})",
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
    size = os.fstat(database).st_size
    pages = os.pread(database, min(SCRUB_BYTES, size - offset), offset)
    whole = len(pages) // page_size * page_size
    if not whole:
        raise OSError(errno.EIO, "the database file ends in the middle of a page")
    zeros = bytes(page_size)
    wrote = False
    for start in range(0, whole, page_size):
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
    """Carry through what was cut short. Raises as ``scrub`` does, but for a damaged page."""
    owed = [key for (key,) in connection.execute("SELECT key FROM keys WHERE erasing").fetchall()]
    deleted = [key for key in owed if _delete_all(connection, key)]
    offset: int | None = 0 if deleted else None
    while offset is not None:
        offset = scrub(connection, database, offset)
    for key in deleted:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            forget(connection, key)


def _delete_all(connection: sqlite3.Connection, key: int) -> bool:
    """Delete all of the key's rows, batch by batch; false if it has to be given up."""
    last = False
    try:
        while not last:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                _, last = delete_batch(connection, key)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        give_up(key)
    return last


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

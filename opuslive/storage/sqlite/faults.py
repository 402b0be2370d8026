"""What an error says: the disk fails, the database is damaged, or a statement is wrong."""

from __future__ import annotations

import sqlite3

#: Kinds of errors that any other statement might have met as well.
_DISK_FAILURES = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_NOTADB,
    }
)


def error_kind(error: BaseException) -> int:
    """SQLite's number for the kind of an error, without where it happened (its higher bytes)."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def error_name(error: BaseException) -> str:
    """What a log line calls an error. The error's own message might quote a value."""
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


def is_disk_failure(error: BaseException) -> bool:
    """Whether the error lies with the disk or the files, and not with the statement."""
    if isinstance(error, sqlite3.Error):
        return error_kind(error) in _DISK_FAILURES
    return isinstance(error, (OSError, MemoryError))


def is_damage(error: BaseException) -> bool:
    """Whether a page of the database is damaged. What does not need that page goes on."""
    return isinstance(error, sqlite3.Error) and error_kind(error) == sqlite3.SQLITE_CORRUPT

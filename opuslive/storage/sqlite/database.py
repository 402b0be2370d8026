"""Opening the database: the connection that writes, the schema, and what is told when that fails.

There are two connections, and no more: this one writes and checkpoints, that of ``reader.py``
reads. SQLite before 3.51.3 can corrupt a database when one connection checkpoints while another
commits, so the reader never does either.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.storage.sqlite import erasure, files
from opuslive.storage.sqlite.faults import error_kind

#: The least version of SQLite: 3.27 has VACUUM INTO. All else that is needed is older:
#: INSERT … ON CONFLICT DO UPDATE (3.24), row values (3.15), WITHOUT ROWID (3.8.2).
LEAST_SQLITE = (3, 27)
#: How long to wait for a lock of SQLite's, in ms. No other process of ours takes one; an
#: administrator's sqlite3 might.
_BUSY_MS = 1_000
#: The settings of each connection. What a sort spills would otherwise be a file elsewhere, with
#: names and usage in it. The cache has 8,192 KiB.
PRAGMAS = "PRAGMA temp_store = MEMORY; PRAGMA cache_size = -8192;"
#: The value of ``PRAGMA auto_vacuum`` with which free pages can be given back step by step. It
#: costs a page in 800, and some 5 % of the time that writing takes.
INCREMENTAL = 2
_APPLICATION_ID = 0x4F704C76
_CHECKSUM_KEY_SIZE = 32

_log = logging.getLogger(__name__)


def _migrations() -> Iterator[str]:
    folder = resources.files("opuslive.storage.sqlite.migrations")
    scripts = (file for file in folder.iterdir() if file.name.endswith(".sql"))
    for script in sorted(scripts, key=lambda file: file.name):
        yield script.read_text(encoding="utf-8")


#: The SQL of each migration; the first one leads to version 1. It is read with the program, which
#: the user that opens the database may not be allowed to read.
_MIGRATIONS = tuple(_migrations())


@dataclass(frozen=True, slots=True)
class Database:
    """A database that is open for writing. The connection is for one thread at a time."""

    writer: sqlite3.Connection
    #: A descriptor of the database file, to lock and to scrub the file by. It is open as long as
    #: SQLite has the file open: see files.py.
    descriptor: int
    checksum_key: bytes = field(repr=False)
    _identities: files.Identities
    _resources: contextlib.ExitStack

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open it, make it if there is none, migrate it, complete erasures that were cut short.

        Needs SQLite 3.27 (``LEAST_SQLITE`` says what for). Blocks. Raises DatabaseInUse, and
        OpusLiveError with the remedy; nothing stays open then.
        """
        with contextlib.ExitStack() as stack, explained(path):
            descriptor = stack.enter_context(held(path))
            writer = stack.enter_context(prepared(path, descriptor))
            checksum_key = _checksum_key(writer)
            identities = files.Identities(path)
            return cls(writer, descriptor, checksum_key, identities, stack.pop_all())

    def check(self) -> None:
        """Raise MovedError, an OSError, if what is written now might be lost. Blocks.

        What is in the write-ahead log goes into the database file then: apart, both may be of
        no use, and the log of one database would damage another that was put in its place.
        """
        try:
            self._identities.check()
        except files.MovedError:
            with contextlib.suppress(sqlite3.Error, erasure.CheckpointBusyError):
                erasure.truncate(self.writer)
            raise

    def close(self) -> None:
        """Truncate the write-ahead log, close the connection, let go of the lock. Blocks.

        The reader should be closed before, lest it keep the log from being truncated.
        """
        with self._resources, contextlib.suppress(sqlite3.Error, erasure.CheckpointBusyError):
            erasure.truncate(self.writer)


@contextlib.contextmanager
def held(path: Path) -> Iterator[int]:
    """Hold the locks of the database, which exists inside. Yields a descriptor of its file.

    Raises DatabaseInUse, OpusLiveError and OSError.
    """
    check_engine()
    with contextlib.ExitStack() as stack:
        stack.enter_context(files.owned(path))
        descriptor = os.open(path, os.O_RDWR)
        stack.callback(os.close, descriptor)
        files.lock_database(path, descriptor)
        yield descriptor


@contextlib.contextmanager
def prepared(path: Path, descriptor: int) -> Iterator[sqlite3.Connection]:
    """A connection for writing to a database that is held: migrated, and with nothing half erased.

    Raises OpusLiveError, sqlite3.Error, OSError and CheckpointBusyError.
    """
    with connected(path) as writer:
        check_is_ours(writer, path)
        _prepare_writer(writer, path)
        migrate(writer)
        erasure.complete(writer, descriptor)
        yield writer


def connection_arguments(path: Path, *, mode: Literal["rw", "ro"]) -> dict[str, Any]:
    """How to open a connection to an existing file; ``PRAGMAS`` go with it."""
    return {
        "database": f"{path.as_uri()}?mode={mode}",
        "uri": True,
        "isolation_level": None,
        "check_same_thread": False,
        "timeout": _BUSY_MS / 1000,
    }


@contextlib.contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for writing to an existing file, as it is."""
    connection = sqlite3.connect(**connection_arguments(path, mode="rw"))
    with contextlib.closing(connection):
        connection.executescript(PRAGMAS)
        yield connection


def engine() -> str:
    """What keeps the data, with its version."""
    return f"SQLite {sqlite3.sqlite_version}"


def check_engine() -> None:
    """Raise OpusLiveError, with the remedy, if the engine's version is too old."""
    if sqlite3.sqlite_version_info < LEAST_SQLITE:
        raise OpusLiveError(
            Code.INTERNAL,
            f"This Python has {engine()}, and OpusLive needs "
            f"{'.'.join(map(str, LEAST_SQLITE))} or later; use a Python with a newer one.",
        )


def check_is_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Raise OpusLiveError for a file that can't be used, before anything is changed in it."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != _APPLICATION_ID and (application or version or tables):
        raise UsageError(
            f"{path} is a database of another program; give OpusLive one of its own in "
            "[storage] url."
        )
    known = known_schema()
    if version > known:
        raise OpusLiveError(
            Code.CONFLICT,
            f"The database {path} has schema version {version}, and this OpusLive knows versions "
            f"up to {known}; upgrade OpusLive, or restore a backup made before the upgrade.",
        )


def _prepare_writer(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA page_count").fetchone() == (0,):
        # Once something is in it, nothing but writing all of it anew changes this.
        connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise UsageError(
            f"The file system of {path} has no shared memory for SQLite's write-ahead log; set "
            "a path on a local disk in [storage] url."
        )
    connection.execute("PRAGMA synchronous = FULL")
    set_up_writing(connection)


def set_up_writing(connection: sqlite3.Connection) -> None:
    """The settings of a connection that writes, whatever kind of log it writes by."""
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA max_page_count = {erasure.MAX_PAGES}")


def known_schema() -> int:
    """The version of the schema that this program works with."""
    return len(_MIGRATIONS)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to the newest version."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    has_data = 0 < version < len(_MIGRATIONS)
    began = time.monotonic()
    if has_data:
        _log.info(
            "The database is being brought from version %d to %d; this may take minutes, and as "
            "much free space as it is large.",
            version,
            len(_MIGRATIONS),
        )
    for number, script in enumerate(_MIGRATIONS, 1):
        if number > version:
            # All or nothing: a failure closes the connection, which rolls back.
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;"
            )
    if has_data:
        _log.info(
            "The database is at version %d now; that took %.0f s.",
            len(_MIGRATIONS),
            time.monotonic() - began,
        )


def _checksum_key(connection: sqlite3.Connection) -> bytes:
    connection.execute(
        "INSERT INTO meta (name, value) VALUES ('checksum_key', ?) ON CONFLICT DO NOTHING",
        (secrets.token_bytes(_CHECKSUM_KEY_SIZE),),
    )
    (value,) = connection.execute("SELECT value FROM meta WHERE name = 'checksum_key'").fetchone()
    return bytes(value)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise OpusLiveError with the remedy for whatever kept the database from being opened."""
    try:
        yield
    except sqlite3.Error as error:
        raise OpusLiveError(Code.INTERNAL, _explanation(path, error)) from error
    except erasure.CheckpointBusyError as error:
        raise OpusLiveError(
            Code.CONFLICT,
            f"Another program is reading the database {path}, so a deletion can't be completed; "
            "close that program.",
        ) from error
    except OSError as error:
        raise OpusLiveError(
            Code.INTERNAL,
            f"The database {path} can't be used ({error.strerror}); check the disk and the "
            "owner of the file.",
        ) from error


def _explanation(path: Path, error: sqlite3.Error) -> str:
    match error_kind(error):
        case sqlite3.SQLITE_NOTADB:
            return (
                f"{path} is not a database; move that file away, or set another path in "
                "[storage] url."
            )
        case sqlite3.SQLITE_CORRUPT:
            return (
                f"The database {path} is damaged; restore a backup with 'opuslive database restore "
                "FILE'."
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"The database {path} is locked by another program; close that program."
        case sqlite3.SQLITE_FULL:
            return f"The database {path} can't be written, the disk is full; free some space."
        case _:
            return f"The database {path} can't be used ({error}); check the disk and the file."

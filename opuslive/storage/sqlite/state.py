"""Looking at a database without changing it: its schema, its keys, and whether SQLite finds damage.

Nothing is made, migrated or checkpointed. Where no server runs, the locks say so; then a database
whose log is empty is opened as one that nobody changes, for SQLite would make files beside it else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from opuslive.keys import Key
from opuslive.storage.protocol import DatabaseInUse
from opuslive.storage.sqlite import queries
from opuslive.storage.sqlite.database import check_is_ours, explained, known_schema
from opuslive.storage.sqlite.faults import error_kind
from opuslive.storage.sqlite.files import lock_database

#: Steps of SQLite's between two looks at the time.
_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """What was found. ``size`` is in bytes, with the log.

    ``schema`` is the version of the schema, ``known`` that of this program. ``keys`` is None where
    the schema is an older one. ``damage`` is what SQLite says of damage, None if the time did not
    suffice to look at everything.
    """

    size: int
    schema: int
    known: int
    keys: Sequence[Key] | None
    damage: Sequence[str] | None


def inspect(path: Path, *, in_use_here: bool, seconds: float) -> DatabaseState | None:
    """Look at a database for so many seconds at most; None if there is none. Blocks.

    ``in_use_here``: this process has it open. Else raises DatabaseInUse if another process does;
    and OpusLiveError with the remedy if it can't be used.
    """
    if not path.exists():
        return None
    with explained(path), contextlib.ExitStack() as stack:
        if not in_use_here:
            stack.enter_context(_locked(path))
        connection = stack.enter_context(_connection(path, unchanging=not in_use_here))
        check_is_ours(connection, path)
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        known = known_schema()
        keys = None
        if schema == known:
            query = queries.keys()
            rows = connection.execute(query.statement, query.parameters)
            keys = [query.made_of(row) for row in rows]
        return DatabaseState(
            sum(file.stat().st_size for file in (path, _log(path)) if file.exists()),
            schema,
            known,
            keys,
            _damage(connection, seconds),
        )


def _damage(connection: sqlite3.Connection, seconds: float) -> Sequence[str] | None:
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(10)")]
    except sqlite3.OperationalError as error:
        if error_kind(error) != sqlite3.SQLITE_INTERRUPT:
            raise
        return None
    return [] if found == ["ok"] else found


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep servers and commands out. Raises DatabaseInUse if one is there."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_NOFOLLOW)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DatabaseInUse(str(path)) from None
        descriptor = os.open(path, os.O_RDWR)
        stack.callback(os.close, descriptor)
        lock_database(path, descriptor)
        yield


@contextlib.contextmanager
def _connection(path: Path, *, unchanging: bool) -> Iterator[sqlite3.Connection]:
    log = _log(path)
    still = unchanging and not (log.exists() and log.stat().st_size)
    options = "mode=ro&immutable=1" if still else "mode=ro"
    connection = sqlite3.connect(f"{path.as_uri()}?{options}", uri=True, isolation_level=None)
    with contextlib.closing(connection):
        connection.executescript("PRAGMA query_only = ON; PRAGMA wal_autocheckpoint = 0;")
        yield connection


def _log(path: Path) -> Path:
    return Path(f"{path}-wal")

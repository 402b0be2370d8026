"""Where keys and usage are kept. Nothing outside this package knows SQL.

``protocol.py`` says what a store does. ``sqlite/store.py`` does it, with the help of

- ``files.py``: the path, its modes, and the lock file
- ``database.py``: opening the database and migrating the schema
- ``tables.py``: every table and column, and what the privacy page says of each
- ``key_rows.py``, ``record_rows.py``: keys and records as rows
- ``writer.py``: the one thread that writes, and the group commits
- ``batch.py``: one transaction of records, and the records that can't be written
- ``backlog.py``: whether the disk keeps up with the records
- ``reader.py``: the one connection that reads
- ``queries.py``: the statements that read
- ``erasure.py``: deleting so that no byte is left
- ``faults.py``: what an error says
"""

from __future__ import annotations

from opuslive.storage.protocol import (
    CommitFigures,
    Cursor,
    DatabaseDamaged,
    DatabaseInUse,
    KeptColumn,
    KeptTable,
    KeyUsage,
    OpenRecord,
    Storage,
    StorageUnavailable,
    SumsBy,
    Unwritten,
)
from opuslive.storage.sqlite.database import engine
from opuslive.storage.sqlite.files import database_path
from opuslive.storage.sqlite.store import SQLiteStorage

__all__ = [
    "CommitFigures",
    "Cursor",
    "DatabaseDamaged",
    "DatabaseInUse",
    "KeptColumn",
    "KeptTable",
    "KeyUsage",
    "OpenRecord",
    "Storage",
    "StorageUnavailable",
    "SumsBy",
    "Unwritten",
    "database_path",
    "engine",
    "open_storage",
]


async def open_storage(url: str, *, retry_delay: float = 1.0) -> Storage:
    """Open the store at ``sqlite://`` + an absolute path, and make it if there is none.

    ``retry_delay`` is in seconds: how long after a commit that failed the next is tried.
    Raises DatabaseInUse when another process has it open, and OpusLiveError with the remedy
    when the URL, the folder or the file can't be used, or a newer OpusLive wrote it.
    """
    return await SQLiteStorage.open(database_path(url), retry_delay=retry_delay)

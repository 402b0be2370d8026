"""Where keys and usage are kept. Nothing outside this package knows SQL.

``protocol.py`` says what a store does, and ``opening.py`` opens one. ``sqlite/store.py`` does it,
with the help of

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
- ``state.py``: looking at a database without changing it
- ``maintenance.py``: what is done to an open database beside its records: ``jobs.py`` runs what
  takes long, which is ``backup.py``, ``inspection.py`` (the check) and ``compaction.py``
- ``restore.py``, ``replacement.py``: going back to a backup while nothing has the database open
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from opuslive.storage.maintenance import (
    Backup,
    Compaction,
    Contents,
    Maintenance,
    OpenBackup,
    Progress,
    Restoration,
)
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
from opuslive.storage.sqlite.files import database_path

if TYPE_CHECKING:
    from opuslive.storage.opening import (
        DatabaseState,
        check_engine,
        compact_closed,
        engine,
        inspect_database,
        open_backup,
        open_storage,
        prepare_restoration,
    )

__all__ = [
    "Backup",
    "CommitFigures",
    "Compaction",
    "Contents",
    "Cursor",
    "DatabaseDamaged",
    "DatabaseInUse",
    "DatabaseState",
    "KeptColumn",
    "KeptTable",
    "KeyUsage",
    "Maintenance",
    "OpenBackup",
    "OpenRecord",
    "Progress",
    "Restoration",
    "Storage",
    "StorageUnavailable",
    "SumsBy",
    "Unwritten",
    "check_engine",
    "compact_closed",
    "database_path",
    "engine",
    "inspect_database",
    "open_backup",
    "open_storage",
    "prepare_restoration",
]


def __getattr__(name: str) -> object:
    """What opens a database loads its engine with it, which takes longer than many a command."""
    if name in __all__:
        return getattr(importlib.import_module("opuslive.storage.opening"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Putting another file in the place of a database that nobody has open.

The caller holds the database's locks (``database.held``) and has no connection to it. What happens
when the process is killed in between: until the last step, which is the renaming, the database is
the old one, and from then on the new one. A write-ahead log would be the matter of both: so there
must be none with anything in it. ``settle`` sees to that; what it can't settle is no database that
works, and its log is moved away with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from opuslive.storage.sqlite import erasure, files
from opuslive.storage.sqlite.backup import new_file, sync_folder
from opuslive.storage.sqlite.database import connected

#: What a database begins with.
_MAGIC = b"SQLite format 3\0"


def settle(path: Path) -> bool:
    """Move all that is in the log into the database; whether it can be opened for that.

    What makes a database unreadable is no error here: somebody is about to replace it. Raises
    OSError and CheckpointBusyError.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return False  # SQLite would empty the log all the same, for nothing
    try:
        with connected(path) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            erasure.truncate(connection)
    except sqlite3.DatabaseError:
        return False
    return True


def replace(path: Path, new: Path, kept: Path | None) -> None:
    """Put the new file in the place of the database, whose file is kept under another name.

    The new one has to be in the same folder, and on disk. Raises OSError.
    """
    log = Path(f"{path}-wal")
    if kept is not None:
        _keep(path, kept)
        if log.exists() and log.stat().st_size:
            _keep(log, Path(f"{kept}-wal"))
        sync_folder(path.parent)
    for suffix in files.BESIDE:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").unlink()
    new.replace(path)
    sync_folder(path.parent)


def _keep(file: Path, kept: Path) -> None:
    """Give a file a second name; where there is no such thing, make a copy of it."""
    try:
        os.link(file, kept)
    except OSError:
        if kept.exists():
            raise
        with file.open("rb") as source, os.fdopen(new_file(kept), "wb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())

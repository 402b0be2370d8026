"""A store is opened, looked at, compacted and restored: the scheme of its URL names the engine."""

from __future__ import annotations

from pathlib import Path

from opuslive.storage.maintenance import Compaction, OpenBackup, Progress, Restoration
from opuslive.storage.protocol import Storage
from opuslive.storage.sqlite import compaction, restore
from opuslive.storage.sqlite.database import check_engine, engine
from opuslive.storage.sqlite.files import database_path
from opuslive.storage.sqlite.jobs import StopSign, in_thread
from opuslive.storage.sqlite.state import DatabaseState, inspect
from opuslive.storage.sqlite.store import SQLiteStorage

__all__ = [
    "DatabaseState",
    "check_engine",
    "compact_closed",
    "engine",
    "inspect_database",
    "open_backup",
    "open_storage",
    "prepare_restoration",
]


def inspect_database(url: str, *, in_use_here: bool, seconds: float) -> DatabaseState | None:
    """What a database is like, without a change to it; see ``DatabaseState``. Blocks.

    None if there is none. It takes little more than ``seconds``. ``in_use_here``: this process has
    it open. Else raises DatabaseInUse if another one does; and OpusLiveError with the remedy.
    """
    return inspect(database_path(url), in_use_here=in_use_here, seconds=seconds)


async def open_storage(url: str, *, retry_delay: float = 1.0) -> Storage:
    """Open the store at ``sqlite://`` + an absolute path, and make it if there is none.

    ``retry_delay`` is in seconds: how long after a commit that failed the next is tried.
    Raises DatabaseInUse when another process has it open, and OpusLiveError with the remedy
    when the URL, the folder or the file can't be used, or a newer OpusLive wrote it.
    """
    return await SQLiteStorage.open(database_path(url), retry_delay=retry_delay)


async def compact_closed(url: str, progress: Progress) -> Compaction:
    """Give unused space of a store that nobody has open back to the system.

    Raises DatabaseInUse, and OpusLiveError with the remedy.
    """
    path = database_path(url)
    return await in_thread(lambda sign: compaction.write_anew(path, sign, progress))


def open_backup(path: Path) -> OpenBackup:
    """Open the file of a backup for reading, for ``prepare_restoration``.

    Raises UsageError for what is no file or may be another user's, and OSError.
    """
    return restore.BackupFile(path)


async def prepare_restoration(url: str, backup: OpenBackup, progress: Progress) -> Restoration:
    """Check a backup and bring it to this version, to put it in the place of the store at the URL.

    The store is held until the result is closed. Raises DatabaseInUse, and OpusLiveError with the
    remedy.
    """
    path = database_path(url)
    if not isinstance(backup, restore.BackupFile):
        raise TypeError("A backup is opened by open_backup.")
    found: list[Restoration] = []

    def prepare(sign: StopSign) -> None:
        found.append(restore.prepare(path, backup, sign, progress))

    try:
        await in_thread(prepare)
    except BaseException:
        for restoration in found:  # cancelled when it was ready
            restoration.close()
        raise
    return found[0]

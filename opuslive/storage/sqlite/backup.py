"""Backups: a file that appears under its name when it is complete, and not before.

It is written under another name in the same folder, by one statement (``VACUUM INTO``) that sees
one state of the database while commits go on. It is locked meanwhile, as a database is; what a
process that was killed has left is not locked any more, and the next backup into that folder
removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.ownership import check_place
from opuslive.storage.maintenance import Backup, Contents, Progress
from opuslive.storage.protocol import DatabaseDamaged
from opuslive.storage.sqlite import files
from opuslive.storage.sqlite.database import INCREMENTAL, connected
from opuslive.storage.sqlite.faults import error_kind, is_damage
from opuslive.storage.sqlite.jobs import StopSign

#: What the name of a backup ends in until the backup is complete.
UNFINISHED = ".opuslive-unfinished"
#: Bytes that are written before they are synced: a disk that has to take all of a large file at
#: once would let the commits wait.
_SYNC_BYTES = 8 * 1024 * 1024
#: How much more room there has to be than the copy takes: what fills the disk to the last byte
#: stops the server, too.
_SPARE = 1.05
#: What a file system without hard links answers to one.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def check_target(target: Path, database: Path, *, replace: bool) -> None:
    """Raise OpusLiveError for a place where no backup can be made; ``database`` is the original."""
    if not target.is_absolute() or "\0" in str(target):
        raise UsageError("The file of a backup needs an absolute path.")
    with _explained(target, database):
        check_place(target, "The backup", "name another file")
        if not target.parent.is_dir():
            raise UsageError(f"There is no folder {target.parent}; make it, or name another file.")
        if _is_of(target, database):
            raise UsageError(f"{target} is a file of the database itself; name another file.")
        try:
            mode = target.lstat().st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            raise UsageError(f"{target} is a folder; add the name of a file.")
        if not replace:
            raise _exists(target)
        if not stat.S_ISREG(mode):
            raise UsageError(f"{target} is not a file that can be replaced; name another one.")


def _is_of(target: Path, database: Path) -> bool:
    names = {file.name for file in files.files_of(database)} | {f"{database.name}.sock"}
    if target.name in names and target.parent.samefile(database.parent):
        return True
    return target.exists() and any(
        file.exists() and target.samefile(file) for file in files.files_of(database)
    )


def _exists(target: Path) -> OpusLiveError:
    return OpusLiveError(
        Code.CONFLICT, f"{target} exists; name another file, or replace it with --force."
    )


def back_up(
    connection: sqlite3.Connection,
    sign: StopSign,
    target: Path,
    database: Path,
    *,
    replace: bool,
    progress: Progress,
) -> Backup:
    """Make a backup, with a connection that reads. Blocks. Raises OpusLiveError, Interrupted."""
    check_target(target, database, replace=replace)
    with _explained(target, database), _unfinished(target) as (path, descriptor):
        copy(connection, sign, path, descriptor, progress)
        with connected(path) as copied:
            found = contents(copied)
            if copied.execute("SELECT count(*) FROM keys WHERE erasing").fetchone() != (0,):
                raise DatabaseDamaged  # an erasure that was given up has left something
        size = os.fstat(descriptor).st_size
        sign.check()
        _publish(path, target, replace=replace)
    return Backup(size, found)


def copy(
    connection: sqlite3.Connection,
    sign: StopSign,
    path: Path,
    descriptor: int,
    progress: Progress,
) -> None:
    """Copy the database of the connection into an empty file, and sync that.

    The copy can be compacted step by step, whether the original can or not. Raises Interrupted,
    sqlite3.Error and OSError.
    """
    expected = _live_bytes(connection)
    system = os.statvfs(path)
    if system.f_bavail * system.f_frsize < expected * _SPARE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    synced = 0

    def tick() -> None:
        nonlocal synced
        size = os.fstat(descriptor).st_size
        progress(min(size / expected, 1.0))
        if size - synced > _SYNC_BYTES:
            os.fsync(descriptor)
            synced = size

    if connection.execute("PRAGMA auto_vacuum").fetchone() != (INCREMENTAL,):
        connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")  # of the copy
    with sign.heeded_by(connection, tick):
        connection.execute("VACUUM INTO ?", (str(path),))
    os.fsync(descriptor)


def _live_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def contents(connection: sqlite3.Connection) -> Contents:
    """What a database holds, of whatever version its schema is. Raises sqlite3.Error."""
    keys = connection.execute("SELECT id, name FROM keys WHERE NOT erasing").fetchall()
    (newest,) = connection.execute(
        "SELECT max(last_used_at) FROM totals JOIN keys USING (key) WHERE NOT erasing"
    ).fetchone()
    return Contents(dict(keys), newest)


@contextlib.contextmanager
def _unfinished(target: Path) -> Iterator[tuple[Path, int]]:
    """An empty file for the backup, and a descriptor of it. Its name is gone in the end."""
    _remove_leftovers(target.parent)
    path = target.with_name(target.name + UNFINISHED)
    try:
        descriptor = new_file(path)
    except FileExistsError:
        raise OpusLiveError(
            Code.CONFLICT,
            f"A backup to {target} is being made already; wait for its end, or if there is none, "
            f"remove {path}.",
        ) from None
    try:
        if not files.lock_file(descriptor) or not _is_at(path, descriptor):
            raise OpusLiveError(Code.CONFLICT, f"Another backup took {path} away; try again.")
        yield path, descriptor
    finally:
        with contextlib.suppress(OSError):  # the next backup tries again
            files.remove(path)
        os.close(descriptor)


def new_file(path: Path) -> int:
    """Make a file for this user only; return a descriptor of it. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, files.FILE_MODE)
    try:
        os.fchmod(descriptor, files.FILE_MODE)  # whatever the umask is
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_leftovers(folder: Path) -> None:
    """Remove what backups that were killed have left, where locks tell that nobody writes it."""
    if sys.platform != "linux":
        return
    for path in folder.glob("*" + UNFINISHED):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                own = os.fstat(descriptor).st_uid == os.geteuid()
                if own and files.lock_file(descriptor):
                    files.remove(path)
            finally:
                os.close(descriptor)


def _publish(path: Path, target: Path, *, replace: bool) -> None:
    """Give the complete file its name."""
    if replace:
        path.rename(target)
    else:
        try:
            os.link(path, target, follow_symlinks=False)
        except FileExistsError:
            raise _exists(target) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(target):
                raise _exists(target) from None
            path.rename(target)
    try:
        sync_folder(target.parent)
    except OSError:
        if not replace:
            target.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Let names of files survive a power failure. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that knows no such thing
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(target: Path, database: Path) -> Iterator[None]:
    """Raise OpusLiveError with the remedy for what keeps the backup from being written."""
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            raise DatabaseDamaged from error
        reason = "the disk is full" if error_kind(error) == sqlite3.SQLITE_FULL else str(error)
        raise _unwritable(target, reason) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise OpusLiveError(
                Code.CONFLICT,
                f"The user {_user_name()}, who has the database, can't write {target} "
                f"({error.strerror}); name a file in {database.parent}, or in another folder in "
                "which that user may write.",
            ) from error
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else error.strerror or str(error)
        raise _unwritable(target, reason) from error


def _unwritable(target: Path, reason: str) -> OpusLiveError:
    return OpusLiveError(
        Code.CONFLICT,
        f"The backup {target} can't be written ({reason}); free some space, or name a file on "
        "another disk.",
    )


def _user_name() -> str:
    """The name of the user who this process acts as, or the number of one without a name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())

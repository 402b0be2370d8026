"""The database's path, the modes of its files, and the lock that says who owns it.

The lock is a file of its own, held with ``flock`` for the life of the store. A command that asks
whether a server runs tries this lock and never opens the database file: SQLite's own locks on that
file are POSIX locks, which vanish as soon as the process closes any descriptor of the file. For
the same reason nothing here closes the database file while SQLite has it open.

Someone may take the lock file for a leftover and remove it. A second process would then make a new
one and find it free. So the database file is locked, too: see ``lock_database``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from opuslive.errors import UsageError
from opuslive.ownership import check_file, check_owner, check_place
from opuslive.storage.protocol import DatabaseInUse

_SCHEME = "sqlite://"
#: What may be done about a folder that another user could change.
_INSTEAD = "set another path in [storage] url"
FILE_MODE = 0o600
#: The ends of the names of what SQLite may have beside a database.
BESIDE = ("-wal", "-shm", "-journal")
_FOLDER_MODE = 0o700
#: The byte that is locked, by its offset: SQLite's files have at most 2**48 bytes.
_BYTE = 2**62
#: Linux's struct flock: type, whence, start, length, process.
_FLOCK = struct.Struct("@hhqqi")


def database_path(url: str) -> Path:
    """The path in a storage URL: all that follows ``sqlite://``. Raises UsageError."""
    path = url.removeprefix(_SCHEME)
    if path == url or not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise UsageError(
            f"The storage url {url!r} is not one that OpusLive can use; write sqlite:// and the "
            'absolute path of a file, as in "sqlite:///var/lib/opuslive/opuslive.db".'
        )
    # Other programs write four slashes before an absolute path; POSIX gives two a meaning apart.
    return Path("/" + path.lstrip("/"))


@contextlib.contextmanager
def owned(path: Path) -> Iterator[None]:
    """Hold the lock of the database; its folder and the file exist inside, for their owner only.

    Raises DatabaseInUse, or UsageError when the file system does not allow it, or when another user
    could change the files or owns one of them.
    """
    with contextlib.ExitStack() as stack:
        with _explained(path):
            _make_folder(path.parent)
            check_file(path.parent, "The folder of the database", _INSTEAD)
            for file in files_of(path):
                with contextlib.suppress(FileNotFoundError):
                    check_owner(file, file.lstat(), "The database's file", _INSTEAD)
            _lock(path, stack)
            _make_private(path)
        yield


def files_of(path: Path) -> Sequence[Path]:
    """The files of a database: it, its write-ahead log, its shared memory and its lock."""
    return [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm", ".lock")]


def remove(path: Path) -> None:
    """Remove a database that nobody has open, and all that SQLite has beside it. Raises OSError."""
    for suffix in ("", *BESIDE):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").unlink()


def _make_folder(folder: Path) -> None:
    check_place(folder, "The folder of the database", _INSTEAD)
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        with contextlib.suppress(FileExistsError):  # made meanwhile: not ours to change
            parent.mkdir(_FOLDER_MODE)
            parent.chmod(_FOLDER_MODE)  # whatever the umask is


def _lock(path: Path, stack: contextlib.ExitStack) -> None:
    file = f"{path}.lock"
    try:
        # Through a link, the mode of what it leads to would change.
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, FILE_MODE)
    except OSError as error:
        if not Path(file).is_symlink():
            raise
        raise UsageError(f"The lock file {file} is a symbolic link; remove it.") from error
    stack.callback(os.close, lock)
    os.fchmod(lock, FILE_MODE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DatabaseInUse(str(path)) from None


def lock_database(path: Path, descriptor: int) -> None:
    """Lock the database file until this descriptor of it is closed. Raises DatabaseInUse."""
    if not lock_file(descriptor):
        raise DatabaseInUse(str(path))


def lock_file(descriptor: int) -> bool:
    """Lock a database file until this descriptor of it is closed; whether that was possible.

    The lock belongs to the descriptor ("open file description lock") and is on one byte, far
    beyond the end of any database and SQLite's own locks. So it neither meets nor releases a lock
    of SQLite's, on any file system. Linux alone has such locks. Elsewhere the lock file has to do,
    for ``flock`` and POSIX locks on one file exclude each other there.
    """
    if sys.platform == "linux":
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, _BYTE, 1, 0))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
    return True


def _refuse_orphaned_log(path: Path) -> None:
    """Raise UsageError if there is a write-ahead log and no database.

    SQLite would take the log for a leftover of another database and delete it, with the latest
    records in it.
    """
    log = Path(f"{path}-wal")
    if _size(log) and not _size(path):
        raise UsageError(
            f"{log} holds records of a database that is missing at {path}; put that back, or move "
            "the log away to begin with a new database."
        )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _make_private(path: Path) -> None:
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, not a database; add the name of a file to [storage] url."
        )
    # Made here and not by SQLite, which would follow the umask. SQLite gives the write-ahead log
    # and the shared memory the mode of the database.
    with contextlib.suppress(FileExistsError):
        _refuse_orphaned_log(path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE))
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with contextlib.suppress(FileNotFoundError):
            file.chmod(FILE_MODE)


class MovedError(OSError):
    """A file of the database is not at its path any more, so what is written may be lost."""


class Identities:
    """The files of an open database, and whether they are still at their paths.

    A file that was moved, replaced or removed is still open and goes on taking what is written to
    it, but nobody who opens the path would ever see that again. So the database must not be
    written then; nor without its lock file, for another process may not know that it is in use.
    """

    def __init__(self, path: Path) -> None:
        """SQLite has to have the database open, with its log and its shared memory."""
        self._path = path
        self._files = files_of(path)
        self._opened = [_identity(file) for file in self._files]

    def check(self) -> None:
        """Raise MovedError unless each file is the one that was opened. Costs some µs."""
        for file, opened in zip(self._files, self._opened, strict=True):
            if _identity(file) != opened:
                raise MovedError(
                    f"{file} was moved, replaced or removed; put it back, or restart OpusLive"
                )


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"OpusLive can't keep its database at {path} ({error.strerror}); let the user that "
            f"runs it own {path.parent} and the files in it, or set another path in [storage] url."
        ) from error

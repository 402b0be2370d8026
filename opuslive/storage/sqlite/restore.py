"""Going back to a backup, while nothing has the database open.

The backup is copied into the folder of the database first: what can be read there, is checked and
brought to this version may then take the database's place by a renaming (``replacement.py``).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.ownership import check_file
from opuslive.storage.maintenance import Contents, Progress
from opuslive.storage.sqlite import erasure, files, replacement
from opuslive.storage.sqlite.backup import contents, new_file, sync_folder
from opuslive.storage.sqlite.database import (
    check_is_ours,
    connected,
    explained,
    held,
    migrate,
    set_up_writing,
)
from opuslive.storage.sqlite.faults import error_kind
from opuslive.storage.sqlite.jobs import StopSign

#: What is at the end of the name of a backup that is being brought to this version.
_PREPARING = ".restoring"
#: Bytes that are copied at a time.
_CHUNK = 4 * 1024 * 1024
#: The part of the work that copying is, roughly.
_COPYING = 0.5


class BackupFile:
    """A backup that is open for reading, with the log that may belong to it."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError for what is no file, or may be another user's, and OSError."""
        self.path = path
        check_file(path, "The backup", "copy it to a place where nobody else can")
        #: The end of a file's name → a descriptor of it.
        self.descriptors: dict[str, int] = {"": _opened(path)}
        # Whoever copies the files of a server that was killed has a log as well.
        with contextlib.suppress(FileNotFoundError):
            self.descriptors["-wal"] = _opened(Path(f"{path}-wal"))

    def close(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])

    @property
    def size(self) -> int:
        return sum(os.fstat(descriptor).st_size for descriptor in self.descriptors.values())


def _opened(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{path} is not a file; name the file of a backup.")
    return descriptor


class SQLiteRestoration:
    """Implements ``opuslive.storage.Restoration``."""

    def __init__(self, path: Path, new: Path, stack: contextlib.ExitStack) -> None:
        """``stack`` lets go of what is held until the restoration is closed."""
        self._path = path
        self._new = new
        self._stack = stack
        self.backup = Contents({}, None)
        self.present: Contents | None = None
        self.changed = 0

    def compare(self, backup: _State, present: _State | None) -> None:
        """Take note of what will be another."""
        self.backup = backup.contents
        if present is not None:
            self.present = present.contents
            self.changed = sum(
                _differ(row, present.keys[key_id])
                for key_id, row in backup.keys.items()
                if key_id in present.keys
            )

    def carry_out(self, name: str) -> Path | None:
        with explained(self._path):
            kept = self._free_name(name) if self._path.stat().st_size else None
            replacement.replace(self._path, self._new, kept)
        return kept

    def _free_name(self, name: str) -> Path:
        """A path beside the database that nothing has: two restorations may fall into a second."""
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        paths = (Path(f"{self._path}.{each}") for each in names)
        return next(path for path in paths if not os.path.lexists(path))

    def close(self) -> None:
        self._stack.close()


@dataclass(frozen=True, slots=True)
class _State:
    """What a database holds, and its keys: id → column → value."""

    contents: Contents
    keys: Mapping[str, Mapping[str, object]]


def prepare(
    path: Path, source: BackupFile, sign: StopSign, progress: Progress
) -> SQLiteRestoration:
    """Prepare a backup, and hold the database at the path until the result is closed. Blocks.

    Raises DatabaseInUse, Interrupted, and OpusLiveError with the remedy. Nothing is changed
    before ``carry_out``.
    """
    new = Path(f"{path}{_PREPARING}")
    with contextlib.ExitStack() as stack, explained(path):
        if not path.exists():
            stack.callback(_remove_empty, path)  # which holding it makes
        stack.enter_context(held(path))
        files.remove(new)  # of one that was killed
        stack.callback(files.remove, new)
        if os.path.samestat(path.stat(), os.fstat(source.descriptors[""])):
            raise UsageError(f"{source.path} is the database itself; name a backup.")
        with _accused(source.path):
            _copy(source, new, sign, progress)
            coming = _bring_to_this_version(new, source.path, sign)
        present = _present(path)
        progress(1.0)
        restoration = SQLiteRestoration(path, new, stack.pop_all())
        restoration.compare(coming, present)
        return restoration


def _remove_empty(path: Path) -> None:
    if not path.stat().st_size:
        path.unlink()


def _copy(source: BackupFile, new: Path, sign: StopSign, progress: Progress) -> None:
    size, copied = source.size, 0
    for suffix, descriptor in source.descriptors.items():
        with os.fdopen(new_file(Path(f"{new}{suffix}")), "wb") as target:
            while chunk := os.pread(descriptor, _CHUNK, target.tell()):
                target.write(chunk)
                copied += len(chunk)
                progress(_COPYING * min(copied / size, 1.0))
                sign.check()


def _bring_to_this_version(new: Path, backup: Path, sign: StopSign) -> _State:
    """Check the copy of a backup, bring it to this version, and let it survive a power failure."""
    descriptor = os.open(new, os.O_RDWR)
    try:
        with connected(new) as connection, sign.heeded_by(connection):
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not tables:
                raise _not_a_backup(backup)
            check_is_ours(connection, backup)
            # One file without a log: what takes the database's place has to be in one piece.
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()
            problems = connection.execute("PRAGMA integrity_check(1)").fetchall()
            if problems != [("ok",)]:
                raise _damaged(backup, str(problems[0][0]))
            set_up_writing(connection)
            migrate(connection)
            erasure.complete(connection, descriptor)
            found = _state(connection)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(new.parent)
    return found


def _present(path: Path) -> _State | None:
    """What the database holds that is to be replaced, if that can be read."""
    if not path.stat().st_size or not replacement.settle(path):
        return None
    try:
        with connected(path) as connection:
            return _state(connection)
    except sqlite3.DatabaseError:
        return None


def _state(connection: sqlite3.Connection) -> _State:
    cursor = connection.execute("SELECT * FROM keys WHERE NOT erasing")
    names = [description[0] for description in cursor.description]
    keys = [dict(zip(names, row, strict=True)) for row in cursor]
    return _State(contents(connection), {str(key["id"]): key for key in keys})


def _differ(row: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Whether rows of one key differ in what both have. (Its number may be another.)"""
    return any(row[name] != other[name] for name in row.keys() & other.keys() - {"key"})


@contextlib.contextmanager
def _accused(backup: Path) -> Iterator[None]:
    """Raise OpusLiveError for what is wrong with the backup, or with the disk it is copied to."""
    try:
        yield
    except sqlite3.Error as error:
        match error_kind(error):
            case sqlite3.SQLITE_NOTADB:
                raise _not_a_backup(backup) from error
            case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            case _:
                raise _damaged(backup, str(error)) from error


def _not_a_backup(backup: Path) -> OpusLiveError:
    return UsageError(f"{backup} is not a backup of OpusLive; name another file.")


def _damaged(backup: Path, how: str) -> OpusLiveError:
    return OpusLiveError(
        Code.CONFLICT,
        f"The backup {backup} is damaged ({' '.join(how.split())}); restore another one.",
    )

"""What a store does for its administrator, whatever engine keeps it.

An engine with tools of its own for something here (as PostgreSQL has ``pg_dump``) does not do it
again: its method raises OpusLiveError (conflict), whose sentence names those tools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

#: Is told which part of the whole is done, from 0 to 1. It is called in any thread.
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup or a database holds, as far as people want to know before they go back to it.

    ``keys`` are the keys' ids → their names. ``newest`` is when the latest request was let in or
    refused, in ms since the epoch; ``None`` if there was none.
    """

    keys: Mapping[str, str]
    newest: int | None


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made, of ``size`` bytes."""

    size: int
    contents: Contents


@dataclass(frozen=True, slots=True)
class Compaction:
    """Bytes that the database took, and takes now."""

    before: int
    after: int


class Maintenance(Protocol):
    """What is done to a store that is open, while it serves.

    Each method may be cancelled, and leaves nothing behind then. One runs at a time; another one
    waits for it. Raises OpusLiveError with the remedy.
    """

    async def back_up(self, target: Path, *, replace: bool, progress: Progress) -> Backup:
        """Write a copy of everything to a new file, for this user only.

        The file has its name only once it is complete and on disk. It holds every record that was
        on disk before this was called, and nothing of a key that was deleted before it is
        complete. ``replace``: a file of that name may be there, and is replaced.
        """

    async def check(self, *, quick: bool, progress: Progress) -> Sequence[str]:
        """What is wrong, in sentences; nothing is changed.

        ``quick``: whether the pages can be read, and no more; else the sums too are compared with
        the records, and everything that belongs to keys with them.
        """

    async def compact(self, progress: Progress) -> Compaction:
        """Give space that is not used any more back to the system, in steps of some ms.

        Raises OpusLiveError (conflict) where that can only be done while nothing else uses the
        database: ``storage.compact_closed`` does it then.
        """


class Restoration(Protocol):
    """A backup that was checked and brought to this version, and waits to be put in place.

    Nobody can open the database meanwhile.
    ``changed`` is how many keys are in both and differ, such as in their secret or their limits.
    ``present`` is ``None`` if there is no database, or none that can be read.
    """

    @property
    def backup(self) -> Contents: ...

    @property
    def present(self) -> Contents | None: ...

    @property
    def changed(self) -> int: ...

    def carry_out(self, name: str) -> Path | None:
        """Put it in the place of the database, at once or not at all.

        What was there is kept beside it, with this at the end of its name: returns where, or
        ``None`` if there was nothing. Blocks. Raises OpusLiveError.
        """

    def close(self) -> None:
        """Let go of the database, and remove what was prepared."""


class OpenBackup(Protocol):
    """A backup's file that was opened: whoever may read it need not be who restores it."""

    def close(self) -> None: ...

"""Giving free pages back to the system: step by step, or by writing everything anew.

While others use the database, SQLite moves pages from the end of the file into free ones, then
cuts the file off. A page is moved as it is, so where the gaps of all pages are scrubbed
(``erasure.py``) they stay so; what is freed was overwritten by ``secure_delete`` before. While a
key is being erased no page may be moved, for it could go from where the scrub has not been to
where it has.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from opuslive.errors import Code, OpusLiveError
from opuslive.storage.maintenance import Compaction, Progress
from opuslive.storage.sqlite import files, replacement
from opuslive.storage.sqlite.backup import copy, new_file
from opuslive.storage.sqlite.database import INCREMENTAL, explained, held, prepared
from opuslive.storage.sqlite.jobs import StopSign

#: What is at the end of the name of a database that is being written anew.
_COMPACTING = ".compacting"
#: Pages that are freed in one transaction, at most: some 10 ms, during which no record is
#: committed.
STEP_PAGES = 256


def check_possible(connection: sqlite3.Connection) -> None:
    """Raise OpusLiveError for a database that can't be compacted step by step."""
    if connection.execute("PRAGMA auto_vacuum").fetchone() != (INCREMENTAL,):
        raise OpusLiveError(
            Code.CONFLICT,
            "An older OpusLive made this database, so it can be compacted only while no server "
            "runs, this first time: stop the server, run 'opuslive database compact', and start "
            "the server again.",
        )


def free_pages(connection: sqlite3.Connection) -> int:
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(free)


def step(connection: sqlite3.Connection) -> int:
    """Give some pages back; return how many are still free. Runs outside of a transaction."""
    # As a script: of a statement without columns Python runs the first step only.
    connection.executescript(f"PRAGMA incremental_vacuum({STEP_PAGES})")
    return free_pages(connection)


def write_anew(path: Path, sign: StopSign, progress: Progress) -> Compaction:
    """Write the database that nobody has open anew, without free pages. Blocks.

    From then on it can be compacted step by step. If the process is killed, the database is the
    one from before. Raises DatabaseInUse, OpusLiveError and Interrupted.
    """
    new = Path(f"{path}{_COMPACTING}")
    with explained(path), held(path) as descriptor:
        files.remove(new)  # of one that was killed
        try:
            with prepared(path, descriptor) as connection:
                target = new_file(new)
                try:
                    copy(connection, sign, new, target, progress)
                finally:
                    os.close(target)
            before, after = path.stat().st_size, new.stat().st_size
            if not replacement.settle(path):
                raise OSError("its log can't be written into it")
            replacement.replace(path, new, None)
        finally:
            files.remove(new)
    return Compaction(before, after)

"""What tests of a store do to it and to its disk."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from opuslive.keys import Invitation
from opuslive.storage import Storage
from opuslive.usage import UsagePart, UsageRecord
from tests.support.clock import NOW
from tests.support.keys import TOKENS, a_key, a_record

#: Opens the store of a test, again and again.
Open = Callable[[], Awaitable[Storage]]


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow: writes fail as on a full disk, for the whole process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def traced(connection: sqlite3.Connection) -> Iterator[list[str]]:
    """The statements that the connection runs, values filled in."""
    statements: list[str] = []
    connection.set_trace_callback(lambda statement: statements.append(statement.strip()))
    yield statements
    connection.set_trace_callback(None)


def query(database: Path, sql: str) -> list[Any]:
    """The rows of a statement, in a SQLite database that no store has open."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(sql).fetchall()
        connection.commit()
        return rows


def traces(number: int) -> list[bytes]:
    """The bytes that only a key of ``add_marked_key`` and its records put into a file."""
    return [
        a_key(number).id.encode(),
        f"name of {number} ".encode(),
        f"model of {number} ".encode(),
        f"group of {number} ".encode(),
        f"part of {number} ".encode(),
        f"code of {number} ".encode(),
    ]


async def add_marked_key(store: Storage, number: int) -> None:
    name, group = f"name of {number} " + "x" * (number % 40), f"group of {number} "
    invitation = Invitation(f"code of {number} ".encode(), NOW)
    await store.add_key(a_key(number, name=name, group=group, invitation=invitation))


async def add_marked_records(store: Storage, number: int, count: int) -> None:
    await asyncio.gather(
        *(
            store.add_record(a_marked_record(number, NOW + i, parted=i % 9 == 0))
            for i in range(count)
        )
    )


def a_marked_record(number: int, time: int, *, parted: bool) -> UsageRecord:
    """A record of a marked key; one that is ``parted`` has a part with a trace of its own."""
    parts = (UsagePart(f"part of {number} ", TOKENS),) if parted else ()
    return a_record(number, time=time, model=f"model of {number} ", parts=parts)

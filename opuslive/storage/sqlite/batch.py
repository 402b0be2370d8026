"""A batch of records in one transaction, and what becomes of it when it can't be written.

If the disk is why, all of it is tried again. If a record is why (the database does not allow
what is in it, or a statement is wrong), trying again would only hold up everything behind it:
then the batch falls apart, and each record is written that can be.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opuslive.storage.sqlite.faults import is_of_the_disk
from opuslive.storage.sqlite.record_rows import OpenRow, RowKey, insert_records
from opuslive.usage import UsageRecord


@dataclass(frozen=True, slots=True)
class Written:
    """What a transaction did, once it is committed: the keys of new rows of open records, and the
    positions in the batch of records that can't be written, each with the error that says so."""

    row_keys: Mapping[OpenRow, RowKey] = field(default_factory=dict)
    dropped: Mapping[int, Exception] = field(default_factory=dict)


def write_whole(
    connection: sqlite3.Connection, records: Sequence[tuple[UsageRecord, OpenRow | None]]
) -> Written:
    """Write all of them, or raise what is in the way of one."""
    return Written(insert_records(connection, records))


def write_apart(
    connection: sqlite3.Connection, records: Sequence[tuple[UsageRecord, OpenRow | None]]
) -> Written:
    """Write each by itself, but for those that can't be. Raises only errors of the disk."""
    row_keys: dict[OpenRow, RowKey] = {}
    dropped: dict[int, Exception] = {}
    for position, record in enumerate(records):
        connection.execute("SAVEPOINT record")
        try:
            new = insert_records(connection, [record], known=row_keys)
        except Exception as error:
            if is_of_the_disk(error):
                raise
            connection.execute("ROLLBACK TO record")
            dropped[position] = error
        else:
            row_keys.update(new)
        connection.execute("RELEASE record")
    return Written(row_keys, dropped)

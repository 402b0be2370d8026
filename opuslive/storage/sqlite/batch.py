"""A batch of records in one transaction, and what becomes of a record that can't be written.

When the disk fails a batch, the writer keeps all of it and tries again. When the database refuses
a record (for what is in it, or because a statement is wrong), trying again would fail for ever and
hold up every record behind it. Then ``write_one_by_one`` takes the place of ``write_together``: it
leaves out the records that are refused and writes the rest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opuslive.storage.sqlite.faults import is_disk_failure
from opuslive.storage.sqlite.record_rows import OpenRow, RowKey, insert_records
from opuslive.usage import UsageRecord

Batch = Sequence[tuple[UsageRecord, OpenRow | None]]


@dataclass(frozen=True, slots=True)
class Written:
    """What a transaction did, once it is committed."""

    #: Open record → the primary key of its row, for each row that is new.
    row_keys: Mapping[OpenRow, RowKey] = field(default_factory=dict)
    #: Position in the batch → why the database refused the record there.
    refused: Mapping[int, Exception] = field(default_factory=dict)


def write_together(connection: sqlite3.Connection, batch: Batch) -> Written:
    """Write all records. Raises the first error, whatever caused it."""
    return Written(insert_records(connection, batch))


def write_one_by_one(connection: sqlite3.Connection, batch: Batch) -> Written:
    """Write each record that the database does not refuse. Raises only failures of the disk."""
    row_keys: dict[OpenRow, RowKey] = {}
    refused: dict[int, Exception] = {}
    for position, record in enumerate(batch):
        connection.execute("SAVEPOINT record")
        try:
            new = insert_records(connection, [record], known=row_keys)
        except Exception as error:
            if is_disk_failure(error):
                raise
            connection.execute("ROLLBACK TO record")
            refused[position] = error
        else:
            row_keys.update(new)
        connection.execute("RELEASE record")
    return Written(row_keys, refused)

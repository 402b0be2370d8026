"""When the privacy policy last changed.

Its text is a template and, for the database, what the store says of each table and column that it
keeps (``Storage.kept_tables``). ``REVISION`` names the text by its digest: when the text changes,
a test fails until the day and the digest of the new text stand here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from opuslive.storage import KeptTable


@dataclass(frozen=True, slots=True)
class Revision:
    """A text of the policy: the day from which it holds, and its digest."""

    day: str
    digest: str


REVISION = Revision("2026-11-27", "1fd4505152edabad")


def digest_of(template: bytes, kept: Iterable[KeptTable]) -> str:
    """The digest of the policy that the template makes of what the store keeps."""
    tables = [
        (table.name, table.holds, [(column.name, column.holds) for column in table.columns])
        for table in kept
    ]
    return hashlib.blake2b(template + repr(tables).encode(), digest_size=8).hexdigest()

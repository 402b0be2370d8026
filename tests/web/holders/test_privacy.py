"""The date of the policy's last change."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

from opuslive.storage import open_storage
from opuslive.web.holders import privacy

#: The date, and the digest of the text that bears it.
DATE, DIGEST = "2026-11-26", "def0ace64b9c1df0"


async def test_the_date_goes_with_the_text(tmp_path: Path) -> None:
    """When the text changes, set the day in ``privacy.CHANGED``, and here both."""
    template = (
        resources.files("opuslive.web.pages").joinpath("templates", "privacy.html").read_bytes()
    )
    storage = await open_storage(f"sqlite://{tmp_path}/opuslive.db")
    kept = [
        (table.name, table.holds, [(column.name, column.holds) for column in table.columns])
        for table in storage.kept_tables
    ]
    await storage.close()
    digest = hashlib.blake2b(template + repr(kept).encode(), digest_size=8).hexdigest()
    assert (privacy.CHANGED, digest) == (DATE, DIGEST)

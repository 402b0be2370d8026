"""The date of the policy's last change."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from opuslive.storage import open_storage
from opuslive.web.holders import privacy


async def test_the_privacy_policys_date_goes_with_its_text(tmp_path: Path) -> None:
    """When the text changes, set both the day and the digest of ``privacy.REVISION``."""
    template = (
        resources.files("opuslive.web.pages").joinpath("templates", "privacy.html").read_bytes()
    )
    storage = await open_storage(f"sqlite://{tmp_path}/opuslive.db")
    kept = storage.kept_tables
    await storage.close()
    assert privacy.REVISION.digest == privacy.digest_of(template, kept)

"""The date of the policy's last change."""

from __future__ import annotations

import hashlib
from importlib import resources

from opuslive.web.holders import privacy

#: Of the text that bears the date.
DATE, DIGEST = "2026-11-25", "caf697422ad84045"


def test_the_date_goes_with_the_text() -> None:
    """When the text changes, set the day in ``privacy.CHANGED``, and here both."""
    template = (
        resources.files("opuslive.web.pages").joinpath("templates", "privacy.html").read_bytes()
    )
    kept = repr([(table, what, dict(columns)) for table, (what, columns) in privacy.KEPT.items()])
    digest = hashlib.blake2b(template + kept.encode(), digest_size=8).hexdigest()
    assert (privacy.CHANGED, digest) == (DATE, DIGEST)

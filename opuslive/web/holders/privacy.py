"""When the privacy policy last changed.

Its text is a template and, of the database, what the store says of each table and column that it
keeps (``Storage.kept_tables``). A test fails when either changes and this day does not.
"""

from __future__ import annotations

#: The day on which the policy's text last changed.
CHANGED = "2026-11-26"

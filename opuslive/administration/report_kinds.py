"""Which reports of usage there are."""

from __future__ import annotations

from typing import get_args

from opuslive.storage import SumsBy

#: The report with one row for each key.
BY_KEY = "key"
#: What a row of a report may be for.
REPORTS = get_args(SumsBy)

"""Which reports of usage there are, for whoever asks for one and has nothing else loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from opuslive.storage import SumsBy

#: What a report may have a row for each of. ``status`` is the class of how requests ended
#: (``Outcome``): of those there are numbers of requests alone, for tokens are not summed by it.
ReportBy = Literal[SumsBy, "status"]
#: The report with one row for each key.
BY_KEY = "key"
REPORTS: Sequence[str] = get_args(ReportBy)
#: The header of an export that has about how many records there will be.
EXPECTED = "x-expected-records"

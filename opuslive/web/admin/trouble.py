"""The latest requests that were not served, of all keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opuslive.gateway.holder import Holders
from opuslive.storage import Storage
from opuslive.usage import UsageRecord, outcome_of
from opuslive.web.pages.outcomes import ONE

#: How many are listed.
LATEST = 12


@dataclass(frozen=True, slots=True)
class Trouble:
    """A request that was not served: its key's name, and how it ended."""

    record: UsageRecord
    name: str
    outcome: str


class TroubleReader:
    """Reads the latest trouble."""

    def __init__(self, storage: Storage, holders: Holders) -> None:
        self._storage = storage
        self._holders = holders

    async def read(self) -> Sequence[Trouble]:
        """Newest first. Raises StorageUnavailable."""
        troubles = []
        for record in await self._storage.latest_trouble(limit=LATEST):
            holder = self._holders.get(record.key_id)
            # A key that was deleted while this was read has no name any more.
            if holder is not None and record.status is not None:
                outcome = ONE[outcome_of(record.status, record.latency_ms)]
                troubles.append(Trouble(record, holder.key.name, outcome))
        return troubles

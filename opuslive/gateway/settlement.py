"""What one request leaves behind: its reservation settled, and one record.

An exchange notes here what it learns as it goes on (the model, the admission, that it was sent,
the meter), and ends with ``record`` or ``settle``, however it ends. The first call counts,
further ones do nothing. A request that goes on for long has its record from early on, with no
status: were the process killed, the next one would complete it. It is renewed as soon as
anything was counted (of a stream that is the input, all of it), and now and then after that.
"""

from __future__ import annotations

import asyncio
import logging

from opuslive.dialects import Meter, NoUsage
from opuslive.gateway.admission.admission import Admitted
from opuslive.gateway.services import Services
from opuslive.storage import OpenRecord
from opuslive.usage import TokenCounts, UsageRecord, export_row

#: One line a request, where the configuration asks for it: what is recorded, nothing more.
access_log = logging.getLogger("opuslive.access")

#: A request that runs for longer than this many ms is kept in a record from then on, which is
#: renewed after so many if not earlier.
KEEP_AFTER_MS = 1_000
KEEP_EVERY_MS = 10_000


class Settlement:
    """Of one request of a key. An unmetered one leaves nothing behind."""

    __slots__ = (
        "_admitted",
        "_counted",
        "_keep_at",
        "_key_id",
        "_metered",
        "_opened",
        "_recording",
        "_services",
        "_settled",
        "_time",
        "meter",
        "model",
        "sent",
    )

    def __init__(self, services: Services, key_id: str, *, metered: bool) -> None:
        #: What was asked for, its alias resolved.
        self.model: str | None = None
        self.meter: Meter = NoUsage()
        #: Whether any of it went to an upstream.
        self.sent = False
        self._services = services
        self._key_id = key_id
        self._metered = metered
        #: Of the admission; until then, and if it is refused, of the arrival. ms since the epoch.
        self._time = services.now_ms()
        self._admitted: Admitted | None = None
        self._settled = False
        self._recording: asyncio.Future[None] | None = None
        self._opened: OpenRecord | None = None
        self._keep_at = self._time + KEEP_AFTER_MS
        #: Whether the open record holds any tokens.
        self._counted = False

    def admitted(self, admitted: Admitted) -> None:
        self._admitted = admitted
        self._time = admitted.time

    async def settle(self, status: int) -> None:
        """Record the request and wait until that is on disk. Raises StorageUnavailable."""
        self.record(status)
        if self._recording is not None:
            # The future is the store's: others wait for it as well.
            await asyncio.shield(self._recording)

    def record(self, status: int) -> None:
        """Settle with what was used, and queue the one record of it.

        Of refusals that come thick and fast not each is recorded, and none of a key that is
        being deleted. (Of such a key the store drops all other records; should deleting fail,
        what its requests used is not lost.)
        """
        if self._settled or not self._metered:
            return
        self._settled = True
        end = self._services.now_ms()
        tokens = self.meter.counts()
        if self._admitted is not None:
            whole = 200 <= status < 300
            end = self._admitted.settle(tokens if self.sent else None, end, whole=whole)
        services, key_id = self._services, self._key_id
        known = services.admission.knows(key_id)
        if not self.sent and not (known and services.refusals.to_be_recorded(key_id, self._time)):
            return
        record = self._record_of(status, tokens, end if self.sent else None)
        self._recording = services.storage.add_record(record, self._opened)
        if known and access_log.isEnabledFor(logging.INFO):
            access_log.info("request", extra={"fields": {"key": key_id, **export_row(record)}})

    def keep_open(self, now: int) -> None:
        """Keep what is known of a request that goes on for long; ``now`` is in ms since the epoch.

        Called now and then.
        """
        storage = self._services.storage
        if not (self._metered and self.sent and storage.healthy) or self._settled:
            return
        due = now >= self._keep_at
        if not due and (self._opened is None or self._counted):
            return
        tokens = self.meter.counts()
        counted = tokens != TokenCounts()
        if due or counted:
            self._keep_at = now + KEEP_EVERY_MS
            self._counted = counted
            self._opened = storage.keep_open(self._record_of(None, tokens, now), self._opened)

    def _record_of(self, status: int | None, tokens: TokenCounts, end: int | None) -> UsageRecord:
        services = self._services
        return UsageRecord(
            key_id=self._key_id,
            time=self._time,
            model=services.router.kept_name(self.model),
            status=status,
            latency_ms=None if end is None else max(0, end - self._time),
            tokens=tokens,
            tier=services.prices.tier_of(self.model, tokens, self._time),
        )

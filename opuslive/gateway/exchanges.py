"""All exchanges that run: begun here, counted, and cut from here."""

from __future__ import annotations

import asyncio
import logging

from opuslive.dialects import Dialect, Operation
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.admission.bulkheads import Bulkhead
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.client import Client
from opuslive.gateway.exchange import Exchange, restarting
from opuslive.gateway.forwarding import Forwarder
from opuslive.gateway.holder import Cut
from opuslive.gateway.settlement import Recorder
from opuslive.gateway.upstreams.router import Router
from opuslive.storage import StorageUnavailable
from opuslive.thinning import THINNED

log = logging.getLogger(__name__)

#: Seconds between two looks for requests that have been running for long.
CHECK_SECONDS = 0.5


class Exchanges:
    """All exchanges that run, so that all can be cut. (Those of a key: ``Holder.cut``.)"""

    def __init__(
        self,
        authenticator: Authenticator,
        router: Router,
        admission: Admission,
        forwarder: Forwarder,
        recorder: Recorder,
        counting: Bulkhead,
    ) -> None:
        """``counting`` bounds the requests that are not metered."""
        self._authenticator = authenticator
        self._router = router
        self._admission = admission
        self._forwarder = forwarder
        self._recorder = recorder
        self._counting = counting
        self._running: dict[Exchange, None] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: asyncio.TimerHandle | None = None
        #: Whether the process was told to end: load balancers should send requests elsewhere.
        self.stopping = False
        #: Whether nothing new is accepted any more; requests that come all the same are denied.
        self.draining = False
        #: Whether a successor gets the connections that this process does not accept. Its clients
        #: need not be denied: what has been accepted here is served.
        self.handing_over = False

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def unrecorded_denials(self) -> int:
        """Denied requests since the start that left no record, because there were too many."""
        return self._recorder.unrecorded_denials

    async def serve(self, dialect: Dialect, operation: Operation, client: Client) -> None:
        """Take one request through its life.

        Raises OpusLiveError, to be answered, or ExchangeCut.
        """
        came = self._recorder.passed_ns()
        holder = await self._authenticator.authenticate(client.credentials)
        client.authenticated(holder)
        if operation.metered and not self._recorder.storage.healthy:
            # This request leaves no record: what can't be written piles up in memory.
            raise StorageUnavailable
        exchange = Exchange(
            self._router,
            self._admission,
            self._forwarder,
            self._recorder.settlement(holder, client.request_id, operation, came),
            dialect,
            operation,
            client,
            holder,
        )
        self._running[exchange] = None
        holder.begin(exchange)
        self._idle.clear()
        try:
            if self.draining and not self.handing_over:
                await exchange.deny(restarting())
            if operation.metered:
                await exchange.run()
            else:
                with self._counting.place(holder) as turn:
                    await exchange.run(turn)
        finally:
            holder.end(exchange)
            del self._running[exchange]
            if not self._running:
                self._idle.set()

    def start(self) -> None:
        """Keep open records of requests that go on for long, until ``stop``."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(CHECK_SECONDS, self._check)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def keep_open(self, now: int) -> None:
        """Keep what is known of the requests; ``now`` is in ms since the epoch."""
        for exchange in self._running:
            try:
                exchange.keep_open(now)
            except Exception as error:
                # A defect, of which the others must not suffer. Its text may hold content.
                name = type(error).__name__
                log.error("a running request could not be kept (%s)", name, extra=THINNED)

    def shift(self, delta: int) -> None:
        """Move all exchanges that run along with the date, by ``delta`` ms."""
        for exchange in self._running:
            exchange.shift(delta)

    def _check(self) -> None:
        self.start()
        self.keep_open(self._recorder.now_ms())

    def cut_all(self) -> None:
        """Break off everything, and let nothing else in, because the process ends."""
        self.handing_over = False
        for exchange in tuple(self._running):
            exchange.cut(Cut.SHUTDOWN)

    async def wait_idle(self) -> None:
        await self._idle.wait()

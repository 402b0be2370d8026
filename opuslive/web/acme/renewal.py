"""Keeps a certificate: gets one where there is none, renews it in time, goes on after failures.

``step`` does what is due and says how long nothing else will be. Everything that waits for the
network runs in a thread, one thing at a time; that thread never keeps the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from opuslive.administration.certificate import CertificateStatus
from opuslive.web.acme.schedule import (
    SHORTEST_LIFE,
    Advice,
    Pause,
    Window,
    pause_after,
    renewal_at,
)
from opuslive.web.acme.store import Store
from opuslive.web.http.tls import ServerCertificate, validity

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two looks at the clock, at most: it may be set, and machines sleep.
LOOK_SECONDS = 300.0
#: Seconds between two steps, at least.
_SHORTEST_REST = 1.0


class AuthorityFailure(Exception):
    """There is no certificate. ``words`` say why, to the administrator, without a full stop.

    ``detail`` is what the authority says of it, which may differ each time. ``wish`` is how long
    the authority wants a pause, in seconds.
    """

    def __init__(self, words: str, detail: str = "", wish: float | None = None) -> None:
        super().__init__(words + detail)
        self.words = words
        self.wish = wish


class CertificateAuthority(Protocol):
    """Issues certificates. Its methods block, and raise AuthorityFailure; PEM in and out."""

    def advice(self, certificate: bytes) -> Advice:
        """When to renew a certificate."""

    def obtain(self, name: str, replaced: bytes | None) -> bytes:
        """A new private key and the chain of certificates for it."""

    def close(self) -> None:
        """End what is under way, in whatever thread it runs."""


class Renewal:
    """Keeps the certificate of one name.

    ``now`` is the wall clock, in seconds since the epoch; ``chance`` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        name: str,
        authority: CertificateAuthority,
        store: Store,
        certificate: ServerCertificate,
        now: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._name = name
        self._authority = authority
        self._store = store
        self._certificate = certificate
        self._now = now
        self._chance = chance
        self._hurried = asyncio.Event()
        self._held: bytes | None = None
        #: Where in a window the renewal falls.
        self._moment = chance()
        self._window: Window | None = None
        #: How long not to ask for advice.
        self._quiet: Pause | None = None
        #: What was issued and could not be written.
        self._unwritten: bytes | None = None
        self._failures = 0
        #: Since the last attempt.
        self._pause: Pause | None = None
        self._wished = False
        self._last: AuthorityFailure | None = None
        self._last_at = 0.0

    async def run(self) -> None:
        """Keep the certificate until cancelled."""
        if self._certificate.stands_in:
            log.warning(
                "There is no certificate for %s yet. Until its authority has issued one, clients "
                "refuse the one that stands in for it.",
                self._name,
            )
        try:
            while True:
                rest = await self.step()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(max(rest, _SHORTEST_REST), LOOK_SECONDS)):
                        await self._hurried.wait()
                self._hurried.clear()
        finally:
            self._authority.close()

    def hurry(self) -> None:
        """Try again now what failed, unless the authority wants a pause."""
        if not self._wished:
            self._pause = None
        self._hurried.set()

    async def step(self) -> float:
        """Do what is due. Returns the seconds until the next thing is."""
        self._look()
        if self._held is not None and self._asks_at() <= self._now() < self._renews_at():
            await self._ask(self._held)
        if self._renews_at() <= self._now():
            await self._renew()
        return max(0.0, min(self._renews_at(), self._asks_at()) - self._now())

    def status(self) -> CertificateStatus:
        return replace(
            self._certificate.status(),
            name=self._name,
            next_attempt=int(self._renews_at() * 1000),
            failures_in_a_row=self._failures,
            last_failure=None if self._last is None else str(self._last),
            last_failure_at=None if self._last is None else int(self._last_at * 1000),
        )

    def _look(self) -> None:
        """See what is held: the file may have been removed so that a new one is got."""
        try:
            held = self._store.read_certificate()
        except OSError:
            held = None
        usable = held is not None and not self._certificate.stands_in
        self._held = held if usable else None

    def _renews_at(self) -> float:
        """When the next attempt to get a certificate is."""
        now = self._now()
        held = None if self._held is None else validity(self._held)
        due = now if held is None else renewal_at(held, self._window, self._moment)
        return due if self._pause is None else max(due, self._pause.ends(now))

    def _asks_at(self) -> float:
        """When the authority is asked for advice next: never about what is not or no more good
        (RFC 9773, 4.3)."""
        now = self._now()
        held = None if self._held is None else validity(self._held)
        if held is None or held.ends <= now:
            return math.inf
        return now if self._quiet is None else self._quiet.ends(now)

    async def _ask(self, held: bytes) -> None:
        try:
            advice = await self._in_thread(lambda: self._authority.advice(held))
        except AuthorityFailure as failure:
            # It has its old advice, or its own rule; what matters is told when a renewal fails.
            log.debug("there is no advice on when to renew: %s", failure)
            advice = Advice(self._window)
        self._window = advice.window
        self._quiet = Pause(self._now(), advice.span)

    async def _renew(self) -> None:
        try:
            await self._in_thread(self._obtain)
        except AuthorityFailure as failure:
            self._failed(failure)
            return
        self._certificate.check()
        self._look()
        issued = None if self._held is None else validity(self._held)
        if issued is None or issued != self._certificate.validity:
            self._failed(AuthorityFailure("the new certificate can't be used"))
            return
        self._moment = self._chance()
        self._window = self._quiet = self._last = None
        self._failures, self._wished = 0, False
        self._pause = Pause(self._now(), SHORTEST_LIFE)
        log.info("%s has a new certificate, good until %s", self._name, _shown(issued.ends))

    def _obtain(self) -> None:
        """Raises AuthorityFailure."""
        pem = self._unwritten or self._authority.obtain(self._name, self._held)
        try:
            self._store.write_certificate(pem)
        except OSError as error:
            self._unwritten = pem
            raise AuthorityFailure(
                f"the new certificate can't be written to {self._store.folder} "
                f"({error.strerror or error})"
            ) from None
        self._unwritten = None

    def _failed(self, failure: AuthorityFailure) -> None:
        now = self._now()
        self._failures += 1
        span = pause_after(self._failures, self._chance(), failure.wish)
        self._pause = Pause(now, span)
        self._wished = failure.wish is not None
        known = self._last is not None and self._last.words == failure.words
        self._last, self._last_at = failure, now
        if known:
            return
        held = self._certificate.validity
        log.log(
            logging.ERROR if held is None or held.ends <= now else logging.WARNING,
            "There is no new certificate for %s: %s. The next attempt is at %s; later ones are "
            "told when something changes.",
            self._name,
            failure,
            _shown(now + span),
        )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """What comes of it, in a thread that the end of the process does not wait for.

        Raises AuthorityFailure.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: AuthorityFailure | None) -> None:
            if done.cancelled():
                return
            if error is None:
                done.set_result(result)  # type: ignore[arg-type]  # no error: there is one
            else:
                done.set_exception(error)

        def run() -> None:
            result, error = None, None
            try:
                result = work()
            except AuthorityFailure as failure:
                error = failure
            # Whatever else goes wrong, the next attempt may do better.
            except Exception as unexpected:
                error = AuthorityFailure(f"an unexpected problem ({type(unexpected).__name__})")
            with contextlib.suppress(RuntimeError):  # The loop may be closed by now.
                loop.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=run, name="acme", daemon=True).start()
        return await done


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")

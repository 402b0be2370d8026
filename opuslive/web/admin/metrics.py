"""``/metrics``: what monitoring asks for every few seconds, and who may see it.

A token of its own opens it and nothing else; so does the administrator's password. Whoever guesses
tokens is slowed down as whoever guesses passwords is, in the same line (``guesses``); the token
itself always passes, however many guess, and is too long to be guessed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable

from aiohttp import web
from prometheus_client import exposition as plain
from prometheus_client.openmetrics import exposition as openmetrics

from opuslive.administration.status import StatusReader
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.holder import Holders
from opuslive.gateway.metrics import Metrics
from opuslive.storage import Storage
from opuslive.times import Clock
from opuslive.web.admin.exposition import Exposition, KeyCounts, Scrape
from opuslive.web.admin.gate import BASIC_CHALLENGE, AccessDenied, AdminGate, authorization
from opuslive.web.answers import NOSNIFF, request_id_headers

PATH = "/metrics"
_BEARER = 'Bearer realm="OpusLive metrics"'


class MetricsGate:
    """Lets in whoever has the token, and the administrator. ``token`` is None if there is none."""

    def __init__(self, admin: AdminGate, token: str | None) -> None:
        self._admin = admin
        self._digest_key = secrets.token_bytes(32)
        self._token = None if token is None else self._digest(token)

    async def admit(self, request: web.Request) -> None:
        """Let the request pass if it may see the metrics. Raises AccessDenied for any other."""
        sent = authorization(request, "bearer")
        if self._token is None or (sent is None and authorization(request, "basic") is not None):
            await self._admit_admin(request)
        elif sent is None:
            raise AccessDenied(401, "The metrics need a bearer token.", self._challenge())
        elif not hmac.compare_digest(self._token, self._digest(sent)):
            # A wrong one; how often may somebody be wrong?
            guess = b"Bearer " + sent.encode("utf-8", "surrogateescape")
            await self._admin.judge(request, guess, lambda: False)
            raise AccessDenied(401, "The token is wrong.", self._challenge())

    async def _admit_admin(self, request: web.Request) -> None:
        if self._admin.opens:
            await self._admin.admit(request)
        elif self._token is None:
            raise AccessDenied(
                404,
                "Nobody may see the metrics, since neither [metrics] token_env nor an admin "
                "password is set: set one, then restart the server.",
            )
        else:
            raise AccessDenied(401, "The metrics need a bearer token.", self._challenge())

    def _challenge(self) -> dict[str, str]:
        basic = [BASIC_CHALLENGE["www-authenticate"]] if self._admin.opens else []
        return {"www-authenticate": ", ".join([_BEARER, *basic])}

    def _digest(self, token: str) -> bytes:
        sent = token.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(sent, key=self._digest_key, digest_size=32).digest()


class MetricsHandler:
    """Answers a scrape."""

    def __init__(
        self,
        gate: MetricsGate,
        metrics: Metrics,
        status: StatusReader,
        admission: Admission,
        holders: Holders,
        storage: Storage,
        clock: Clock,
    ) -> None:
        self._gate = gate
        self._metrics = metrics
        self._status = status
        self._admission = admission
        self._holders = holders
        self._storage = storage
        self._clock = clock
        #: One is written at a time: each takes a thread, and the interpreter.
        self._writing = asyncio.Lock()

    async def scrape(self, request: web.Request) -> web.StreamResponse:
        await self._gate.admit(request)
        accepted = ",".join(request.headers.getall("Accept", ()))
        write, content_type = _format(accepted)
        async with self._writing:
            body = await asyncio.to_thread(write, Exposition(self._read()))
        headers = {**request_id_headers(request), **NOSNIFF}
        headers |= {"content-type": content_type, "cache-control": "no-store"}
        return web.Response(body=body, headers=headers)

    def _read(self) -> Scrape:
        """Everything as it is now: what goes on meanwhile changes none of it."""
        metrics = self._metrics
        keys = None
        if metrics.by_key:
            keys = {
                holder.key.id: KeyCounts(
                    holder.requests_by_status.copy(),
                    holder.tokens_by_kind.copy(),
                    holder.requests_by_outcome.copy(),
                )
                for holder in self._holders
            }
        return Scrape(
            now=self._clock.wall_ms() / 1000,
            process=self._status.read(),
            waiting=self._admission.waiting,
            requests=metrics.requests.copy(),
            outcomes=metrics.outcomes.copy(),
            tokens={model: counts.copy() for model, counts in metrics.tokens.items()},
            refusals=metrics.refusals.copy(),
            upstreams={labels: times.copy() for labels, times in metrics.upstreams.items()},
            added=metrics.added.copy(),
            keys=keys,
            commits=self._storage.commits.copy(),
            unwritten=self._storage.unwritten,
        )


def _format(accepted: str) -> tuple[Callable[[Exposition], bytes], str]:
    """How to write for a client that accepts these media types, and what to call that.

    (The library's own choice takes a version that a client makes up for a number.)
    """
    if "application/openmetrics-text" in accepted:
        return openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST
    return plain.generate_latest, plain.CONTENT_TYPE_PLAIN_0_0_4

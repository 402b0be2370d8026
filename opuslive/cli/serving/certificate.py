"""The certificate that a server shows: from files, or one that the gateway gets by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import Callable, Sequence

from opuslive.administration.certificate import CertificateStatus
from opuslive.config.files import Settings, certificates_path, database_url
from opuslive.config.sections import Config
from opuslive.reloading import Step
from opuslive.web.acme.opening import KeptCertificate, keep_certificate
from opuslive.web.http.tls import ServerCertificate
from opuslive.web.server import WebServer


class Shown:
    """A certificate, and what keeps it if the gateway does that by itself."""

    def __init__(self, certificate: ServerCertificate, kept: KeptCertificate | None) -> None:
        self._certificate = certificate
        self._kept = kept
        self.context = certificate.context
        self.status: Callable[[], CertificateStatus] = (
            certificate.status if kept is None else kept.renewal.status
        )

    def prepare(self, _: Config) -> Step:
        """The part of a reload that the certificate is: its files are read again, and what keeps
        one by itself tries again now what failed. Raises UsageError."""
        changed = ("server.tls.certificate",) if self._certificate.changed else ()
        use = self._certificate.prepare()

        def apply() -> None:
            use()
            if self._kept is not None:
                self._kept.renewal.hurry()

        return Step(apply, changed)

    async def start(
        self,
        web: WebServer,
        hosts: Sequence[str],
        held: Sequence[socket.socket],
        stack: contextlib.AsyncExitStack,
    ) -> None:
        """Watch the files; keep the certificate, and answer its authority on sockets that are
        ``held`` or on the hosts. It ends with ``stack``. Raises UsageError."""
        stack.callback(asyncio.create_task(self._certificate.watch()).cancel)
        if self._kept is not None:
            await web.start_forwarding(hosts, self._kept.http_port, self._kept.forwarding, held)
            stack.push_async_callback(_ended, asyncio.create_task(self._kept.renewal.run()))


def shown_certificate(settings: Settings) -> Shown | None:
    """The certificate of a configuration; None without TLS of the gateway's own.

    Raises UsageError if it can't be used. Files that are kept stay where they are in the sandbox,
    too: authorities issue only so many a week.
    """
    server = settings.config.server
    if server.tls is None:
        return None
    if server.tls.acme is not None:
        state = certificates_path(database_url(settings.config, os.environ))
        chance = random.random  # no secret depends on it
        kept = keep_certificate(server, settings.folder, state, time.time, chance)
        return Shown(kept.certificate, kept)
    assert server.tls.certificate is not None
    assert server.tls.private_key is not None
    chain, key = (
        settings.folder / name for name in (server.tls.certificate, server.tls.private_key)
    )
    return Shown(ServerCertificate(chain, key, time.time), None)


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel the task, and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

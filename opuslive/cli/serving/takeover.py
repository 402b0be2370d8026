"""How a server takes the port and the database over from the one before it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Sequence

from opuslive.bootstrap import Gateway, open_gateway
from opuslive.cli.control import finishing
from opuslive.cli.service import ServiceManager
from opuslive.cli.waiting import POLL_SECONDS, Patience
from opuslive.config.files import Settings
from opuslive.storage import DatabaseInUse
from opuslive.web.http.listening import PortTaken, open_sockets

log = logging.getLogger(__name__)

#: How long a server waits, at its start, for a command that has the database.
PATIENCE_SECONDS = 5.0


async def take_over(
    settings: Settings,
    url: str,
    held: Sequence[socket.socket],
    patience: float | None,
    simulated_model: str | None,
    manager: ServiceManager,
    stop: asyncio.Event,
    stack: contextlib.AsyncExitStack,
) -> tuple[Sequence[socket.socket], Gateway] | None:
    """Listen, on sockets that somebody holds or on new ones, and open the gateway.

    While another process has the port or the database, wait for it to end: for ``patience`` in
    seconds; without that for as long as it takes a server that was told to end, and for a command
    ``PATIENCE_SECONDS``. None if ``stop`` is set meanwhile. Raises DatabaseInUse if it takes
    longer, and UsageError. Sockets and gateway are closed when ``stack`` is.
    """
    sockets = held
    waiting = Patience(PATIENCE_SECONDS if patience is None else patience)
    told = False
    while not stop.is_set():
        try:
            # Before the database is free: who connects meanwhile waits.
            config = settings.config.server
            if not sockets:
                sockets = await open_sockets(config.host, config.port)
                for each in sockets:
                    stack.callback(each.close)
            gateway = await open_gateway(
                settings, url, environ=os.environ, simulated_model=simulated_model
            )
            stack.push_async_callback(gateway.close)
            return sockets, gateway
        except (DatabaseInUse, PortTaken) as error:
            running = await finishing(url)
            if running is not None and not told:
                told = True
                sentence = (
                    f"the server before this one is finishing its last {running} answers; this "
                    "one serves when it has ended"
                )
                log.warning(sentence)
                manager.waiting(sentence)
            if running is not None and patience is None:
                await asyncio.sleep(POLL_SECONDS)
            elif running is None and isinstance(error, PortTaken):
                raise
            else:
                await waiting.wait(error)
    return None

"""What the process of a server is asked by signals."""

from __future__ import annotations

import asyncio
import logging
import signal

from opuslive.errors import OpusLiveError
from opuslive.reloading import Reload

log = logging.getLogger(__name__)


class Signals:
    """The first SIGTERM or SIGINT sets ``stop``, the second one ``cut``. SIGHUP calls
    ``on_hangup``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stop = asyncio.Event()
        self.cut = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._hear)
        self.on_hangup: Reload | None = None
        self._reloads: set[asyncio.Task[None]] = set()
        # A terminal that is closed sends SIGHUP, too: the streams of others must not end by that.
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _hang_up(self) -> None:
        if self.on_hangup is None:
            log.warning("SIGHUP is ignored while the gateway starts.")
            return
        task = asyncio.ensure_future(_reload(self.on_hangup))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    def _hear(self) -> None:
        (self.cut if self.stop.is_set() else self.stop).set()


async def _reload(reload: Reload) -> None:
    """Reload the configuration; the log has what came of it."""
    try:
        await reload()
    except OpusLiveError:
        pass
    except Exception as error:
        log.error("the configuration could not be reloaded (%s)", type(error).__name__)

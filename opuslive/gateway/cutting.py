"""Breaking an exchange off, at whatever step it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from opuslive.gateway.holder import Cut

T = TypeVar("T")


class ExchangeCut(Exception):
    """The exchange was broken off; the client's connection is, or has to be, reset."""

    def __init__(self, why: Cut) -> None:
        super().__init__(why.name)
        self.why = why


class Cutter:
    """Ends what an exchange waits for before its request is sent."""

    __slots__ = ("_waiting_for", "why")

    def __init__(self) -> None:
        #: Why the exchange was cut first, if it was.
        self.why: Cut | None = None
        self._waiting_for: asyncio.Future[Any] | None = None

    def cut(self, why: Cut) -> bool:
        """End the wait that is under way. Returns whether there was one."""
        if self.why is None:
            self.why = why
        if self._waiting_for is None:
            return False
        self._waiting_for.cancel()
        return True

    def check(self) -> None:
        """Raise ExchangeCut if the exchange was cut."""
        if self.why is not None:
            raise ExchangeCut(self.why)

    async def wait(self, coming: Awaitable[T], give_back: Callable[[T], object]) -> T:
        """Wait for the result of ``coming``. Raises ExchangeCut if the exchange is cut meanwhile.

        ``give_back`` is called with the result if the exchange was cut, or its task cancelled, at
        the moment at which the result came: nobody else can release what the result holds.
        """
        self._waiting_for = task = asyncio.ensure_future(coming)
        try:
            result = await task
        except asyncio.CancelledError:
            if not task.cancelled() and task.exception() is None:
                give_back(task.result())
            self.check()
            raise
        finally:
            self._waiting_for = None
            # A failure of the task keeps this frame, which must not keep the task: with the
            # failure's other frames the body would stay until a garbage collection.
            del task
        if self.why is not None:
            give_back(result)
            raise ExchangeCut(self.why)
        return result

"""How far a request has come when something happens to it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

from tests.support.listener import Listener, Peer, answer
from tests.support.provider import STREAM_HEAD, chunk
from tests.support.rig import EVENTS, MESSAGE, STREAM, Caller, Rig
from tests.support.waiting import eventually, turns


class Phase:
    """A request, and the upstream's end of its connection, if it has one."""

    def __init__(
        self, caller: Caller, serving: asyncio.Task[None], connected: Peer | None = None
    ) -> None:
        self.caller, self.serving, self.connected = caller, serving, connected

    @property
    def peer(self) -> Peer:
        assert self.connected is not None
        return self.connected


Reach = Callable[[Rig, Listener], Coroutine[Any, Any, Phase]]


async def body(rig: Rig, listener: Listener) -> Phase:
    """The client has not sent its body yet."""
    rig.upstream(listener.port)
    caller = rig.caller(None)
    phase = Phase(caller, rig.serve(caller))
    await eventually(lambda: caller.exchange)
    await turns()
    return phase


async def connecting(rig: Rig, listener: Listener) -> Phase:
    """The upstream does not shake hands yet."""
    rig.upstream(listener.port, tls=ssl.create_default_context())
    caller = rig.caller()
    phase = Phase(caller, rig.serve(caller), await listener.accept())
    await turns()
    return phase


async def waiting(rig: Rig, listener: Listener) -> Phase:
    """The upstream has the request, and has not answered."""
    rig.upstream(listener.port)
    caller = rig.caller()
    return Phase(caller, rig.serve(caller), await rig.arrived(listener))


async def reading(rig: Rig, listener: Listener) -> Phase:
    """The upstream's answer has begun; it may be one that the client must not see."""
    phase = await waiting(rig, listener)
    await phase.peer.send_apart(answer(MESSAGE, status=400)[:-1])
    return phase


async def streaming(rig: Rig, listener: Listener) -> Phase:
    """The client has a part of the answer."""
    phase = await waiting(rig, listener)
    phase.peer.send(STREAM_HEAD, chunk(EVENTS[0]))
    await eventually(lambda: phase.caller.writes)
    return phase


async def ending(rig: Rig, listener: Listener) -> Phase:
    """The client has the last event, and the upstream has not ended its answer."""
    phase = await streaming(rig, listener)
    phase.peer.send(*map(chunk, EVENTS[1:]))
    await eventually(lambda: phase.caller.written == STREAM)
    return phase


UNSENT, UNANSWERED = (body, connecting), (waiting, reading)
PHASES = (*UNSENT, *UNANSWERED, streaming, ending)

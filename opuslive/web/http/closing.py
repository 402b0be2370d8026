"""How connections end with the process: each answer is sent whole, or visibly cut.

An answer that the gateway has written is not sent yet. What the client's kernel has no room
for waits in the transport, up to WRITE_HIGH_WATER bytes that nobody waits for: not the exchange,
which is over, and not aiohttp, which takes the connection for idle. Closing the transport
would send them, but only for as long as the event loop runs; when the process ends before, the
kernel ends the connection as if all had been sent. So an answer counts as under way until its
bytes have left this process, and one whose time is over is reset.
"""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import web

from opuslive.web.http.accepting import ConnectionFactory
from opuslive.web.http.connection import ClientConnection

#: Seconds between two looks at what is left to be sent.
LOOK_SECONDS = 0.01
#: Seconds that a client has for its first request after its connection was accepted, when the
#: process is about to end and another one takes over.
FIRST_REQUEST_SECONDS = 1.0


async def hand_over(factory: ConnectionFactory) -> None:
    """Close idle connections at once, and each other one after its answer, for a successor to
    serve their clients; but who has just connected gets an answer to its first request here."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + FIRST_REQUEST_SECONDS
    while loop.time() < deadline:
        fresh = factory.handshakes
        for connection in _connections(factory.manager):
            if connection.fresh:
                fresh += 1
            else:
                connection.close_after_answer()
        if not fresh:
            return
        await asyncio.sleep(LOOK_SECONDS)
    for connection in _connections(factory.manager):
        connection.close_after_answer()


async def close_when_sent(server: web.Server) -> None:
    """Close idle connections at once and each other one after its answer; return when nothing
    is left to be sent."""
    looks = 0
    # One look could meet a moment between the kernel's taking all and the event loop's giving
    # it more, where TLS hides what waits.
    while looks < 2:
        for connection in _connections(server):
            connection.close_after_answer()
        looks = 0 if any(connection.sending for connection in _connections(server)) else looks + 1
        await asyncio.sleep(LOOK_SECONDS)


def reset_unsent(server: web.Server) -> None:
    """Reset the connections whose answer is not sent: it can't be completed any more."""
    for connection in _connections(server):
        if connection.sending:
            connection.reset()


def _connections(server: web.Server) -> list[ClientConnection]:
    return cast(list[ClientConnection], server.connections)

"""What a hostile holder does to a gateway, as hard as one core can.

``python -m tests.bench.attacks KIND PORT KEY``, until it is terminated. Whatever the gateway does
about it (refuse, close, wait), the attack goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import uvloop

#: The largest body that a gateway takes by default, in bytes.
MAX_BODY = 32 << 20
#: Seconds after which one that was refused, cut off or served tries again.
BREATH = 0.05

_LARGE = b'{"model":"claude-test-1","max_tokens":1,"x":"'
_SMALL = b'{"model":"claude-test-1","max_tokens":1,"messages":[]}'


def _head(key: str, target: str, length: int | None = None) -> bytes:
    method = "GET" if length is None else "POST"
    lines = [f"{method} {target} HTTP/1.1", "host: 127.0.0.1", f"x-api-key: {key}"]
    if length is not None:
        lines.append(f"content-length: {length}")
    return "\r\n".join((*lines, "", "")).encode()


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 20):
        pass


async def _bodies(port: int, key: str) -> None:
    """All of a large body but its last byte; then wait for the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_head(key, "/v1/messages", MAX_BODY - 1) + _LARGE)
        left = MAX_BODY - 2 - len(_LARGE)
        while left:
            piece = min(left, 1 << 20)
            writer.write(b"x" * piece)
            await writer.drain()
            left -= piece
        await _drain(reader)
    finally:
        writer.transport.abort()


async def _requests(port: int, key: str) -> None:
    """Small requests on one connection, each as soon as the one before is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = _head(key, "/v1/messages", len(_SMALL)) + _SMALL
    try:
        while True:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length: ")[2].split(b"\r")[0]
            if not length:
                return
            await reader.readexactly(int(length))
    finally:
        writer.transport.abort()


async def _defects(port: int, key: str) -> None:
    """Bytes that are no HTTP, and a body that is no JSON."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        no_json = _head(key, "/v1/messages", 1) + b"{"
        writer.write(secrets.choice((b"\x16\x03\x01\0\r\n\r\n", no_json)))
        await asyncio.wait_for(_drain(reader), 0.1)
    finally:
        writer.transport.abort()


async def _connections(port: int, key: str) -> None:
    """Nothing, an unfinished head, or an idle connection after a request; and it stays."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            secrets.choice(
                (
                    b"",
                    b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"x" * 30_000,
                    _head(key, "/healthz"),
                )
            )
        )
        await _drain(reader)
    finally:
        writer.transport.abort()


async def _reads(port: int, key: str) -> None:
    """Everything that is held about the key, and then by hour."""
    for target in ("/v1/usage/export?format=csv", "/v1/usage?since=31d&by=hour"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(_head(key, target).replace(b"host", b"connection: close\r\nhost"))
            await _drain(reader)
        finally:
            writer.transport.abort()


#: Kind → how many do it at a time, and what.
ATTACKS: Mapping[str, tuple[int, Callable[[int, str], Awaitable[None]]]] = MappingProxyType(
    {
        "bodies": (8, _bodies),
        "queue": (40, _requests),
        "connections": (500, _connections),
        "reads": (20, _reads),
        "log": (20, _defects),
    }
)


async def _for_ever(attack: Callable[[int, str], Awaitable[None]], port: int, key: str) -> None:
    while True:
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            await attack(port, key)
        await asyncio.sleep(BREATH)


async def _run(kind: str, port: int, key: str) -> None:
    number, attack = ATTACKS[kind]
    await asyncio.gather(*(_for_ever(attack, port, key) for _ in range(number)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(sys.argv[1], int(sys.argv[2]), sys.argv[3]))

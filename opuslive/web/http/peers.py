"""Where a connection comes from, as far as one client can be told from another.

A client with IPv6 has a whole network of addresses (a /64, RFC 6177), so that network counts as
one. Nothing here is logged or stored; it is compared in memory while it is needed.
"""

from __future__ import annotations

import asyncio
import socket

#: Bytes of an address that tell an IPv6 network from another one.
_NETWORK = 8
#: What an IPv6 address begins with that stands for one of IPv4 (RFC 4291, 2.5.5.2).
_MAPPED = bytes(10) + b"\xff\xff"
#: ``::1`` is in this network, and nobody else.
_LOOPBACK_6 = bytes(_NETWORK)
#: IPv4 loopback is 127.0.0.0/8.
_LOOPBACK_4 = 127


def origin_of(transport: asyncio.BaseTransport | None) -> bytes | None:
    """The client's IPv4 address, or the network of its IPv6 address, packed.

    None where a connection has no address, as on a Unix socket.
    """
    peer = None if transport is None else transport.get_extra_info("peername")
    return packed_origin(peer[0]) if isinstance(peer, tuple) else None


def packed_origin(address: str) -> bytes | None:
    """The same of an address in text."""
    try:
        if ":" not in address:
            return socket.inet_pton(socket.AF_INET, address)
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return None
    if packed.startswith(_MAPPED):
        return packed[len(_MAPPED) :]
    return packed[:_NETWORK]


def is_local(origin: bytes) -> bool:
    """Whether it is this machine: a reverse proxy's, for example, for many clients."""
    return origin[0] == _LOOPBACK_4 if len(origin) < _NETWORK else origin == _LOOPBACK_6

"""The sockets of the public listener: every address that is configured, both families, one port.

- ``::`` is every address of both families. Systems differ in whether one socket can have both, so
  ``0.0.0.0`` gets a socket of its own.
- ``localhost`` is both loopbacks, whatever the system's list of hosts says; 127.0.0.1 alone where
  the machine has no IPv6.
- An address within another one, such as 127.0.0.1 within 0.0.0.0, needs no socket.
- Port 0 is a port that is free on all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any

from opuslive.config.sections import ServerConfig
from opuslive.errors import UsageError

#: All addresses of a family → the loopback of that family.
_LOOPBACK_OF = MappingProxyType({"0.0.0.0": "127.0.0.1", "::": "::1"})
#: What the system says of an IPv6 address where there is no IPv6.
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
#: Connections that wait in the kernel to be accepted, at most.
BACKLOG = 1024
#: Attempts at port 0: a port that is free on the first address may be taken on another.
_ATTEMPTS = 20


class PortTaken(UsageError):
    """Somebody else has the port on one of the addresses."""


async def open_sockets(
    hosts: Iterable[str],
    port: int,
    *,
    remedy: str = "choose another with --host and --port, or in [server]",
) -> Sequence[socket.socket]:
    """Sockets that listen on the hosts, all on one port. The caller closes them.

    Raises UsageError, which names the host that can't be listened on, and the remedy: PortTaken, if
    somebody else listens there.
    """
    hosts = tuple(hosts)
    for _ in range(_ATTEMPTS if port == 0 else 1):
        try:
            return await _open(hosts, port, remedy)
        except PortTaken as error:
            taken = error
    raise taken


async def check_listening(hosts: Iterable[str], port: int) -> None:
    """Raise UsageError, as ``open_sockets`` does, unless one could listen there now."""
    for opened in await open_sockets(hosts, port):
        opened.close()


def listen_everywhere(hosts: Iterable[str]) -> bool:
    """Whether all addresses of a family are among the hosts."""
    return not _LOOPBACK_OF.keys().isdisjoint(hosts)


def client_urls(hosts: Iterable[str], port: int, scheme: str) -> Sequence[str]:
    """Where a client on this machine reaches the hosts."""
    named = (_LOOPBACK_OF.get(host, host) for host in _with_both_families(hosts))
    return [
        f"{scheme}://[{host.replace('%', '%25')}]:{port}"
        if ":" in host
        else f"{scheme}://{host}:{port}"
        for host in dict.fromkeys(named)
    ]


def base_url(server: ServerConfig) -> str | None:
    """Where clients reach the gateway: at its public address, else from this machine. None if its
    port is whichever was free."""
    if server.public_url is not None:
        return server.public_url.rstrip("/")
    scheme = "http" if server.tls is None else "https"
    return client_urls(server.host, server.port, scheme)[0] if server.port else None


async def _open(hosts: Sequence[str], port: int, remedy: str) -> Sequence[socket.socket]:
    loop = asyncio.get_running_loop()
    wanted = _with_both_families(hosts)
    resolved = [host for host in wanted if not _is_localhost(host)]
    if len(resolved) < len(wanted):
        resolved += _LOOPBACK_OF.values()
    opened: dict[tuple[int, str], socket.socket] = {}
    with contextlib.ExitStack() as stack:
        # All addresses of a family come first: the others of the family are within them.
        for host in sorted(dict.fromkeys(resolved), key=lambda host: host not in _LOOPBACK_OF):
            try:
                for family, _, _, _, address in await loop.getaddrinfo(
                    host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                ):
                    everywhere = "::" if family == socket.AF_INET6 else "0.0.0.0"
                    place = (int(family), str(address[0]))
                    if opened.keys() & {(int(family), everywhere), place}:
                        continue
                    listener = _listener(family, (address[0], port, *address[2:]))
                    stack.callback(listener.close)
                    opened[place] = listener
                    port = listener.getsockname()[1]
            except OSError as error:
                if host == "::1" and host not in hosts and error.errno in _NO_IPV6:
                    continue
                reason = (
                    os.strerror(error.errno) if error.errno and error.errno > 0 else "no such host"
                )
                sentence = f"Can't listen on {host}, port {port}: {reason}; {remedy}."
                if error.errno == errno.EADDRINUSE:
                    raise PortTaken(sentence) from None
                raise UsageError(sentence) from None
        stack.pop_all()
    return list(opened.values())


def _listener(family: int, address: Any) -> socket.socket:
    """Raises OSError."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        # A port that connections of an earlier process still linger on is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _with_both_families(hosts: Iterable[str]) -> Sequence[str]:
    """The hosts, each once; ``::`` is joined by its counterpart."""
    both = (("0.0.0.0", "::") if host == "::" else (host,) for host in hosts)
    return list(dict.fromkeys(host for each in both for host in each))


def _is_localhost(host: str) -> bool:
    return host.lower().rstrip(".") == "localhost"

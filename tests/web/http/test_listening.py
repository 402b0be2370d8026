"""Which sockets a configuration of addresses means.

A fault of this kind is any address that leaves out a family (``::``, ``localhost``), any list of
addresses (several, one within another, the same twice), any port for all of them (0, one that is
taken on one address alone), and an address that can't be listened on.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from opuslive.errors import UsageError
from opuslive.web.http.listening import client_urls, listen_everywhere, open_sockets
from tests.support.ipv6 import NEEDS_IPV6


async def listened_on(*hosts: str, port: int = 0) -> tuple[list[str], int]:
    """The addresses of the sockets, and their one port; nothing listens any more."""
    sockets = await open_sockets(hosts, port)
    try:
        places = [each.getsockname() for each in sockets]
        await asyncio.gather(*(_reached(str(place[0]), place[1]) for place in places))
    finally:
        for each in sockets:
            each.close()
    (common,) = {place[1] for place in places}
    return sorted(place[0] for place in places), common


async def _reached(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()


@pytest.mark.parametrize(
    ("hosts", "addresses"),
    [
        (["127.0.0.1"], ["127.0.0.1"]),
        (["0.0.0.0"], ["0.0.0.0"]),
        pytest.param(["::"], ["0.0.0.0", "::"], marks=NEEDS_IPV6),
        pytest.param(["::", "0.0.0.0"], ["0.0.0.0", "::"], marks=NEEDS_IPV6),
        pytest.param(["::1"], ["::1"], marks=NEEDS_IPV6),
        pytest.param(["localhost"], ["127.0.0.1", "::1"], marks=NEEDS_IPV6),
        pytest.param(["LOCALHOST.", "::1"], ["127.0.0.1", "::1"], marks=NEEDS_IPV6),
        pytest.param(["127.0.0.1", "::1"], ["127.0.0.1", "::1"], marks=NEEDS_IPV6),
        (["127.0.0.1", "127.0.0.1", "127.0.0.2"], ["127.0.0.1", "127.0.0.2"]),
        (["127.0.0.1", "0.0.0.0"], ["0.0.0.0"]),
        pytest.param(["127.0.0.1", "::1", "::"], ["0.0.0.0", "::"], marks=NEEDS_IPV6),
    ],
)
async def test_every_host_is_listened_on_at_one_port(
    hosts: Sequence[str], addresses: list[str]
) -> None:
    found, port = await listened_on(*hosts)
    assert (found, port > 0) == (addresses, True)
    # The port is free again, and may be asked for.
    assert await listened_on(*hosts, port=port) == (addresses, port)


async def test_a_port_taken_on_one_address_is_named_with_it() -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError) as raised:
            await open_sockets(["127.0.0.1", "127.0.0.2"], port)
        assert raised.value.message.startswith(
            f"Can't listen on 127.0.0.2, port {port}: Address already in use; choose another"
        )
    # And the other address was let go.
    assert await listened_on("127.0.0.1", port=port) == (["127.0.0.1"], port)


async def test_a_free_port_is_free_on_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        taken = other.getsockname()[1]
        free = iter([taken, taken])
        bind = socket.socket.bind

        def guided(self: socket.socket, address: tuple[str, int]) -> None:
            """As a kernel that gives the port that another address has already."""
            host, port = address
            bind(self, (host, next(free, 0) if port == 0 else port))

        monkeypatch.setattr(socket.socket, "bind", guided)
        sockets = await open_sockets(["127.0.0.1", "127.0.0.2"], 0)
        ports = {each.getsockname()[1] for each in sockets}
        for each in sockets:
            each.close()
    assert len(ports) == 1
    assert taken not in ports
    assert next(free, None) is None


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "Cannot assign requested address"),
        ("2001:db8::1", ""),
        ("nowhere.invalid", "no such host"),
    ],
)
async def test_the_address_that_can_not_be_listened_on_is_named(host: str, reason: str) -> None:
    with pytest.raises(UsageError) as raised:
        await open_sockets(["127.0.0.1", host], 0)
    assert raised.value.message.startswith(f"Can't listen on {host}, port ")
    assert reason in raised.value.message
    assert "--host" in raised.value.message


@pytest.mark.parametrize(
    ("hosts", "urls", "everywhere"),
    [
        (["127.0.0.1"], ["http://127.0.0.1:80"], False),
        (["::1"], ["http://[::1]:80"], False),
        (["localhost"], ["http://localhost:80"], False),
        (["0.0.0.0"], ["http://127.0.0.1:80"], True),
        (["::"], ["http://127.0.0.1:80", "http://[::1]:80"], True),
        (["::", "127.0.0.1"], ["http://127.0.0.1:80", "http://[::1]:80"], True),
        (["ai.example.com", "::1"], ["http://ai.example.com:80", "http://[::1]:80"], False),
        (["fe80::1%eth0"], ["http://[fe80::1%25eth0]:80"], False),
    ],
)
def test_the_announced_address_can_be_asked(
    hosts: list[str], urls: list[str], everywhere: bool
) -> None:
    assert client_urls(hosts, 80, "http") == urls
    assert listen_everywhere(hosts) is everywhere

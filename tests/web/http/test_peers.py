"""Where a connection comes from."""

from __future__ import annotations

import pytest

from opuslive.web.http.peers import is_local, packed_origin

#: Addresses of one origin, and one of another.
ORIGINS = [
    (["192.0.2.1"], "192.0.2.2"),
    (["2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:db8:1:2::1%eth0"], "2001:db8:1:3::1"),
    (["::ffff:192.0.2.1", "192.0.2.1"], "::ffff:192.0.2.2"),
    (["127.0.0.1"], "127.0.0.2"),
]


@pytest.mark.parametrize(("same", "other"), ORIGINS)
def test_a_network_of_ipv6_is_one_origin_and_so_is_an_address_of_ipv4(
    same: list[str], other: str
) -> None:
    (origin,) = {packed_origin(address) for address in same}
    assert origin is not None
    assert origin != packed_origin(other)


@pytest.mark.parametrize("address", ["", "localhost", "1.2.3", "::1::", "/run/opuslive.sock"])
def test_what_is_no_address_has_no_origin(address: str) -> None:
    assert packed_origin(address) is None


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("128.0.0.1", False),
        ("10.0.0.1", False),
        ("fe80::1", False),
        ("2001:db8::1", False),
    ],
)
def test_loopback_is_this_machine(address: str, local: bool) -> None:
    origin = packed_origin(address)
    assert origin is not None
    assert is_local(origin) == local

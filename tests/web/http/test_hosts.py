"""The hosts by which browsers may know the gateway, for each way to listen.

The fault's kind: a name that somebody else's DNS lets point here. Each name with a dot in it is
one, whatever port it bears, unless the configuration says it.
"""

from __future__ import annotations

import pytest

from opuslive.config.sections import ServerConfig
from opuslive.web.http.hosts import is_this_machine, known_hosts

#: What no page of somebody else's is at.
ALWAYS = [
    "127.0.0.1",
    "127.0.0.1:8080",
    "[::1]",
    "[::1]:8080",
    "localhost",
    "LOCALHOST.:9",
    "gateway.localhost:8080",
    "192.0.2.7:8080",
    "[2001:db8::1]:443",
]
STRANGE = [
    "evil.example",
    "evil.example:8080",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil-localhost",
    "ai.example.com.evil.example",
    "1.evil",
    "evil.example:127.0.0.1",
    "",
]
PUBLIC = ["ai.example.com", "AI.example.com.", "ai.example.com:8443"]
LISTENING = [
    ServerConfig(),
    ServerConfig(host=("127.0.0.1", "::1", "localhost")),
    ServerConfig(public_url="https://ai.example.com/gateway"),
    ServerConfig(host=("::",), public_url="https://ai.example.com:8443"),
    ServerConfig(host=("gateway.example.net",), public_url="https://ai.example.com"),
]


@pytest.mark.parametrize("server", LISTENING)
def test_addresses_and_names_of_this_machine_are_known_and_strangers_are_not(
    server: ServerConfig,
) -> None:
    hosts = known_hosts(server)
    assert hosts is not None
    assert [host for host in ALWAYS if not hosts.knows(host)] == []
    assert [host for host in STRANGE if hosts.knows(host)] == []
    assert {hosts.knows(host) for host in PUBLIC} == {server.public_url is not None}
    assert hosts.knows("gateway.example.net:8080") == ("gateway.example.net" in server.host)


@pytest.mark.parametrize(
    "server",
    [
        ServerConfig(host=("0.0.0.0",)),
        ServerConfig(host=("127.0.0.1", "192.0.2.7")),
        ServerConfig(behind_proxy=True),
        ServerConfig(behind_proxy=True, public_url="https://ai.example.com"),
    ],
)
def test_where_the_configuration_does_not_tell_any_host_is_served(server: ServerConfig) -> None:
    assert known_hosts(server) is None


def test_this_machine_has_one_name() -> None:
    for host in ("localhost", "localhost:1", "a.LocalHost."):
        assert is_this_machine(host)
    for host in ("127.0.0.1", "localhost.example", "alocalhost", ""):
        assert not is_this_machine(host)

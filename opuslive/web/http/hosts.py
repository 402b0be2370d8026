"""The hosts by which browsers may know this gateway.

A page of somebody else's can let its own name resolve to the gateway's address (DNS rebinding).
To the browser the gateway then belongs to that page, which reads what needs no password. Only the
``Host`` header tells: it names the page's host. Addresses can't be rebound, nor ``localhost``.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from opuslive.config.reader import is_loopback
from opuslive.config.sections import ServerConfig

#: An address: in brackets, or with a last label of digits, which no domain has.
_ADDRESS = re.compile(r"\[[0-9a-f:.]+\]|(?:[^:]*\.)?[0-9]+")
_PORT = re.compile(r":[0-9]*\Z")


class KnownHosts:
    """Addresses, this machine's own name, and ``names``."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def knows(self, host: str) -> bool:
        """Whether a ``Host`` header, of any port, names the gateway."""
        name = _name(host)
        return _ADDRESS.fullmatch(name) is not None or is_this_machine(host) or name in self._names


def known_hosts(server: ServerConfig) -> KnownHosts | None:
    """The hosts by which it is known; None where the configuration does not tell.

    That is behind a reverse proxy, which may name any host, and on addresses beyond this machine
    without a ``public_url``.
    """
    beyond = not all(is_loopback(host) for host in server.host)
    if server.behind_proxy or (beyond and server.public_url is None):
        return None
    public = urlsplit(server.public_url or "").hostname
    return KnownHosts(frozenset(_name(host) for host in (*server.host, public or "localhost")))


def is_this_machine(host: str) -> bool:
    """Whether a ``Host`` header names ``localhost``, or a name below it (RFC 6761, 6.3)."""
    name = _name(host)
    return name == "localhost" or name.endswith(".localhost")


def _name(host: str) -> str:
    """A host without its port, as all who spell it differently mean it."""
    return _PORT.sub("", host).lower().rstrip(".")

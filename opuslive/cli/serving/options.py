"""The options of ``serve``, which hold whatever the configuration says, also after a reload."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from opuslive.config.files import Settings, load_settings, unreadable
from opuslive.config.reader import Place, host_name
from opuslive.config.sections import DEFAULT_CREDENTIAL_VARIABLE, ServerConfig, check_listen
from opuslive.errors import UsageError
from opuslive.ownership import check_at_hand


@dataclass(frozen=True, slots=True)
class Options:
    """What the command was given; and the sockets that somebody holds for it to listen on.
    ``patience`` is in seconds: see ``take_over``."""

    hosts: tuple[str, ...]
    port: int | None
    sandbox: bool
    patience: float | None
    held: Sequence[socket.socket]

    def over(self, settings: Settings) -> Settings:
        """The settings with the options. Raises UsageError if nothing can be served with them."""
        server = settings.config.server
        server = replace(
            server,
            host=tuple(host_name(host, Place("--host")) for host in self.hosts) or server.host,
            port=server.port if self.port is None else self.port,
        )
        held = self.held_for_clients(server)
        if held:
            addresses = dict.fromkeys(each.getsockname()[0] for each in held)
            server = replace(server, host=tuple(addresses))
        check_listen(server)
        if not settings.config.upstreams and not self.sandbox:
            raise UsageError(
                "There is no upstream: the configuration has no [[upstreams]], and the environment "
                f"variable {DEFAULT_CREDENTIAL_VARIABLE} is not set; set it, or write "
                "[[upstreams]], or try 'opuslive serve --sandbox', which needs no account."
            )
        return replace(settings, config=replace(settings.config, server=server))

    def held_for_clients(self, server: ServerConfig) -> Sequence[socket.socket]:
        """The held sockets on which clients come."""
        others = self.held_for_forwarding(server)
        return [each for each in self.held if each not in others]

    def held_for_forwarding(self, server: ServerConfig) -> Sequence[socket.socket]:
        """Those of plain HTTP beside TLS, which are told by their port."""
        if server.tls is None or server.tls.acme is None:
            return ()
        port = server.tls.acme_http_port
        return [each for each in self.held if each.getsockname()[1] == port]


class Again:
    """Reads the configuration again: the file that was found first, whatever others there are.

    A pipe, which a server may start with, can't be read twice.
    """

    def __init__(self, load: Callable[[], Settings], file: Path | None) -> None:
        self._load = load
        self._file = file

    def __call__(self) -> Settings:
        """Raises UsageError as ``load_settings`` does."""
        if self._file is not None:
            try:
                check_at_hand(self._file)
            except OSError as error:
                raise unreadable(self._file, error) from None
            return load_settings(str(self._file), os.environ)
        settings = self._load()
        self._file = settings.file
        return settings

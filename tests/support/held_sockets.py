"""Sockets that listen all the time, as a service manager holds them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from tests.support.server import Server

#: What the process does before it becomes the program; its arguments are the numbers of the
#: sockets with commas between them, and the program.
_BECOME = """
import fcntl, os, sys
numbers = [int(number) for number in sys.argv[1].split(",")]
for at, number in enumerate([fcntl.fcntl(number, fcntl.F_DUPFD, 100) for number in numbers]):
    os.dup2(number, 3 + at)
    os.close(number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(numbers))
os.execv(sys.argv[2], sys.argv[2:])
"""


class Held:
    """Sockets on ports that were free, on an address each."""

    def __init__(self, addresses: Sequence[str] = ("127.0.0.1",)) -> None:
        self._sockets = [socket.create_server((each, 0), backlog=1024) for each in addresses]
        self.ports: list[int] = [each.getsockname()[1] for each in self._sockets]

    @property
    def port(self) -> int:
        return self.ports[0]

    def give_to(self, server: Server) -> None:
        """The server gets them as its file descriptors from 3 on."""
        numbers = [each.fileno() for each in self._sockets]
        server.inherited = tuple(numbers)
        named = ",".join(map(str, numbers))
        server.program = [sys.executable, "-c", _BECOME, named, *server.program]

    def close(self) -> None:
        for each in self._sockets:
            each.close()

"""What a service manager and this process tell each other: systemd's protocols, which others speak.

- Listening sockets that the manager holds come in as file descriptors (``LISTEN_FDS``). They stay
  open between one process and the next, so no client is refused meanwhile.
- The manager hears of the process's state through a datagram socket (``NOTIFY_SOCKET``).
- It may want a sign of life every so often (``WATCHDOG_USEC``).

Each is described in the manual pages sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Iterator, Mapping, Sequence

from opuslive.errors import UsageError

log = logging.getLogger(__name__)

#: The first file descriptor that is handed over, by the protocol.
FIRST = 3
#: More than anybody listens on.
_MOST = 100
#: Seconds that a start may take.
LONGEST_START = 3600


def inherited_sockets(
    environ: Mapping[str, str], pid: int, first: int = FIRST
) -> Sequence[socket.socket]:
    """The listening sockets that were handed to the process ``pid``; none if there are none.

    ``first`` is the file descriptor of the first one; the others follow.
    Raises UsageError for what is no listening stream socket.
    """
    number = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not number.isdecimal():
        return ()
    return [_listener(first + index) for index in range(min(int(number), _MOST))]


def _listener(descriptor: int) -> socket.socket:
    refusal = UsageError(
        f"LISTEN_FDS names file descriptor {descriptor}, which is no TCP socket that listens; "
        "give a socket unit ListenStream with an address and a port, and Accept=no."
    )
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError:
        raise refusal from None
    tcp = listener.type == socket.SOCK_STREAM and listener.family != socket.AF_UNIX
    if not tcp or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.close()
        raise refusal
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


class ServiceManager:
    """Tells the service manager how the process is doing; nobody, if nobody wants to know."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        #: A name that begins with @ is in Linux' abstract namespace.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        #: Seconds between two signs of life: half of what the manager allows.
        self._pause = int(watchdog) / 2_000_000 if meant and watchdog.isdecimal() else 0.0
        self._timer: asyncio.TimerHandle | None = None

    def starting(self) -> None:
        """It opens its database, which takes minutes if an older version left a large one: a start
        that was cut short would begin again from the beginning, and never end."""
        self._tell(
            f"EXTEND_TIMEOUT_USEC={LONGEST_START * 1_000_000}", "STATUS=Opening the database"
        )

    def ready(self, status: str) -> None:
        """It serves; ``status`` is shown to people."""
        self._tell("READY=1", f"STATUS={status}")

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """It reads its configuration anew, and then is ready again."""
        monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic}")
        try:
            yield
        finally:
            self._tell("READY=1")

    def stopping(self, status: str) -> None:
        """It was told to end."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def waiting(self, status: str) -> None:
        """It can't start yet."""
        self._tell(f"STATUS={status}")

    def start_watchdog(self) -> None:
        """Give signs of life, if they are wanted, for as long as the event loop runs."""
        if self._pause > 0:
            self._tell("WATCHDOG=1")
            self._timer = asyncio.get_running_loop().call_later(self._pause, self.start_watchdog)

    def close(self) -> None:
        """Give no more signs of life."""
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
                manager.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.warning(
                "the service manager can't be told %s (%s)", lines[0], error.strerror or error
            )

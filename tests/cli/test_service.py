"""What a service manager hands over, and what it is told."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from opuslive.cli.service import ServiceManager, inherited_sockets
from opuslive.errors import UsageError

PID = 4711


class Told:
    """The service manager's end of its socket."""

    def __init__(self, address: str) -> None:
        self.environ = {"NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def next(self) -> list[str]:
        return self._socket.recv(4096).decode().split("\n")

    async def later(self) -> list[str]:
        data = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
        return data.decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["a file", "an abstract name"])
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Told]:
    abstract = f"@opuslive-{os.getpid()}"
    told = Told(str(tmp_path / "notify") if request.param == "a file" else abstract)
    yield told
    told.close()


def test_the_manager_is_told_of_each_state(told: Told) -> None:
    manager = ServiceManager(told.environ, PID)
    manager.starting()
    manager.waiting("waits")
    manager.ready("Listening on http://127.0.0.1:8080")
    with manager.reloading():
        pass
    manager.stopping("Finishing 3 requests")
    assert told.next() == ["EXTEND_TIMEOUT_USEC=3600000000", "STATUS=Opening the database"]
    assert told.next() == ["STATUS=waits"]
    assert told.next() == ["READY=1", "STATUS=Listening on http://127.0.0.1:8080"]
    reloading, monotonic = told.next()
    assert (reloading, monotonic.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    assert int(monotonic.partition("=")[2]) > 0
    assert told.next() == ["READY=1"]
    assert told.next() == ["STOPPING=1", "STATUS=Finishing 3 requests"]


async def test_signs_of_life_go_on_where_they_are_wanted(told: Told) -> None:
    manager = ServiceManager({**told.environ, "WATCHDOG_USEC": "2000"}, PID)
    manager.start_watchdog()
    assert [await told.later() for _ in range(3)] == [["WATCHDOG=1"]] * 3
    manager.close()


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "2000", "WATCHDOG_PID": "1"}])
async def test_signs_of_life_that_nobody_wants_are_not_given(
    told: Told, environ: dict[str, str]
) -> None:
    manager = ServiceManager({**told.environ, **environ}, PID)
    manager.start_watchdog()
    with pytest.raises(BlockingIOError):
        told.next()


def test_without_a_manager_nobody_is_told() -> None:
    ServiceManager({}, PID).ready("")


def test_a_manager_that_does_not_listen_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, PID).ready("")
    assert "the service manager can't be told READY=1 (No such file" in caplog.text


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "x", "LISTEN_PID": str(PID)},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(PID)},
    ],
)
def test_sockets_of_another_process_are_not_taken(environ: dict[str, str]) -> None:
    assert not inherited_sockets(environ, PID)


@pytest.mark.parametrize("kind", ["bound", "datagram", "unix"])
def test_what_does_not_listen_for_clients_is_refused(kind: str, tmp_path: Path) -> None:
    if kind == "unix":
        given = socket.socket(socket.AF_UNIX)
        given.bind(str(tmp_path / "socket"))
        given.listen()
    else:
        given = socket.socket(type=socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM)
        given.bind(("127.0.0.1", 0))
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": str(PID)}
    with pytest.raises(UsageError) as raised:
        inherited_sockets(environ, PID, first=given.detach())
    assert "ListenStream" in raised.value.message


def test_what_listens_is_taken_and_not_handed_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        given = listening.dup()
        os.set_inheritable(given.fileno(), True)
        environ = {"LISTEN_FDS": "1", "LISTEN_PID": str(PID)}
        (taken,) = inherited_sockets(environ, PID, first=given.detach())
    with taken, socket.create_connection(taken.getsockname()) as client:
        assert not taken.get_inheritable()
        accepted, peer = taken.accept()
        with accepted:
            assert peer == client.getsockname()

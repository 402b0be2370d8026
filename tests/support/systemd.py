"""Does with units what systemd would, as far as a service sees it: users, sockets, restarts.

There is a ``systemctl`` for guides to call. What the kernel confines (``Protect…`` and its like) is
left to systemd; that itself judges the units with ``systemd-analyze verify``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.box import Box
from tests.support.waiting import PATIENCE

_UNITS = Path("/etc/systemd/system")
_STATE = Path("/var/lib")
_NOTIFY = "@opuslive-systemd"
_SYSTEMCTL = """#!/bin/sh
echo "$@" > {0}/systemctl.asked
read -r status < {0}/systemctl.answer
test "$status" = 0 || cat {0}/service.log >&2
exit "$status"
"""
#: It writes into /tmp, and nowhere else.
_VERIFY = 'mount -t tmpfs systemd /tmp; exec systemd-analyze verify "$@"'
#: Becomes the service, with a /tmp of its own: what it is told of itself is for its own process.
_BECOME = 'mount -t tmpfs -o mode=1777 private /tmp; export LISTEN_PID=$$; exec "$@"'


class Unit:
    """``unit["Type"]`` is a list of what was written there, one a line."""

    def __init__(self, path: Path) -> None:
        self._values: defaultdict[str, list[str]] = defaultdict(list)
        for line in path.read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                self._values[name].append(value)

    def __getitem__(self, name: str) -> list[str]:
        return self._values[name]

    def one(self, name: str) -> str:
        (value,) = self._values[name]
        return value


class Systemd:
    """Runs ``opuslive.service``."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._sockets: list[socket.socket] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._supervising: asyncio.Task[None] | None = None
        self._told = asyncio.Condition()
        self._ready = 0
        self._stopping = False
        self.log = box.folder / "service.log"
        #: How often it was started.
        self.starts = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Obey ``systemctl`` in the box."""
        script = self._box.folder / "bin" / "systemctl"
        script.write_text(_SYSTEMCTL.format(self._box.folder))
        script.chmod(0o755)
        for name in ("asked", "answer"):
            os.mkfifo(self._box.folder / f"systemctl.{name}")
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        notify.bind(_NOTIFY.replace("@", "\0"))
        tasks = [asyncio.create_task(self._hear(notify)), asyncio.create_task(self._obey())]
        try:
            yield
        except BaseException as problem:
            if self.log.exists():
                problem.add_note(self.log.read_text())
            raise
        finally:
            await self.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            notify.close()
            self._close_sockets()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def _hear(self, notify: socket.socket) -> None:
        while True:
            data = await asyncio.get_running_loop().sock_recv(notify, 4096)
            if "READY=1" in data.decode().split("\n"):
                async with self._told:
                    self._ready += 1
                    self._told.notify_all()

    async def _obey(self) -> None:
        asked, answer = (
            os.open(self._box.folder / f"systemctl.{name}", os.O_RDWR | os.O_NONBLOCK)
            for name in ("asked", "answer")
        )
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(asked, "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while True:
                words = (await reader.readline()).decode().split()
                try:
                    await self._do(words[0], [word for word in words[1:] if word != "--now"])
                    status = 0
                except (AssertionError, OSError, TimeoutError) as problem:
                    status = 1
                    with self.log.open("a") as log:
                        log.write(f"{words}: {problem!r}\n")
                os.write(answer, f"{status}\n".encode())
        finally:
            transport.close()
            os.close(answer)

    async def _do(self, verb: str, units: list[str]) -> None:
        if verb == "daemon-reload":
            await self._verify()
        for unit in units:
            name, _, kind = unit.partition(".")
            path = _UNITS / f"{name}.{kind or 'service'}"
            if path.suffix == ".socket":
                self._close_sockets()
                if verb in ("enable", "start", "restart"):
                    self._listen(Unit(path))
            elif verb in ("enable", "start"):
                await self._start(Unit(path))
            elif verb == "restart":
                await self.stop()
                await self._start(Unit(path))
            elif verb in ("disable", "stop"):
                await self.stop()
            else:
                raise AssertionError(verb)

    async def _verify(self) -> None:
        if shutil.which("systemd-analyze"):
            units = [str(path) for path in _UNITS.glob("opuslive.*")]
            done = await asyncio.to_thread(
                subprocess.run,
                ["unshare", "--mount", "sh", "-euc", _VERIFY, "sh", *units],
                capture_output=True,
            )
            said = done.stdout + done.stderr
            assert (done.returncode, b"opuslive" in said) == (0, False), said

    def _listen(self, unit: Unit) -> None:
        for address in unit["ListenStream"]:
            host, _, port = address.rpartition(":")
            host = host.strip("[]")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, int(port)), family=family, backlog=100)
            self._sockets.append(listener)

    def _close_sockets(self) -> None:
        for listener in self._sockets:
            listener.close()
        self._sockets.clear()

    async def _start(self, unit: Unit) -> None:
        seen = self._ready
        self._supervising = asyncio.create_task(self._supervise(unit))
        await self.ready_after(seen)

    async def ready_after(self, seen: int) -> None:
        """Wait until the service has said more often than this that it is ready."""
        async with asyncio.timeout(PATIENCE), self._told:
            await self._told.wait_for(lambda: self._ready > seen)

    async def _supervise(self, unit: Unit) -> None:
        """Keep it running, for as long as it does not end by itself and well."""
        restarts = unit.one("Restart")
        assert restarts == "on-failure"
        while True:
            self._process = self._spawn(unit)
            self.starts += 1
            ended_well = await asyncio.to_thread(self._process.wait) == 0
            if ended_well or self._stopping:
                return

    def _spawn(self, unit: Unit) -> subprocess.Popen[bytes]:
        assert unit.one("PrivateTmp") == "yes"
        user = unit.one("User")
        for name in unit["StateDirectory"]:
            folder = _STATE / name
            folder.mkdir(exist_ok=True)
            shutil.chown(folder, user, unit.one("Group"))
            folder.chmod(int(unit.one("StateDirectoryMode"), 8))
        kept = unit.one("AmbientCapabilities").removeprefix("CAP_").lower()
        capabilities = f"-all,+{kept}" if kept else "-all"
        words = ["setpriv", "--reuid", user, "--regid", unit.one("Group"), "--clear-groups"]
        words += [f"--{each}={capabilities}" for each in ("bounding-set", "inh-caps")]
        words += [f"--ambient-caps={capabilities}", "--no-new-privs"]
        environ = {
            "PATH": "/usr/local/bin:/usr/bin",
            "NOTIFY_SOCKET": _NOTIFY,
            "WATCHDOG_USEC": str(int(unit.one("WatchdogSec")) * 1_000_000),
            "LISTEN_FDS": str(len(self._sockets)),
            **{name: self._box.environ[name] for name in self._box.environ if name == "LANG"},
        }
        given = [listener.fileno() for listener in self._sockets]

        def hand_over() -> None:
            os.umask(int(unit.one("UMask"), 8))
            for number, each in enumerate(given, 3):
                os.dup2(each, number)

        with self.log.open("ab") as log:
            return subprocess.Popen(
                [
                    "unshare",
                    "--mount",
                    "sh",
                    "-euc",
                    _BECOME,
                    "sh",
                    *words,
                    *shlex.split(unit.one("ExecStart")),
                ],
                env=environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=range(3, 3 + len(given)),
                preexec_fn=hand_over,
            )

    async def stop(self) -> None:
        """End the service, as at the machine's end."""
        if self._process is not None and self._supervising is not None:
            self._stopping = True
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                await self._supervising
            self._process = None
            self._stopping = False

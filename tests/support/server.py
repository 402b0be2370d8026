"""The real program as a process of its own, with a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar
from urllib.parse import quote

import opuslive
from tests.support.waiting import PATIENCE, eventually
from tests.support.wire import Answer, Headers, Wire, request_bytes

#: What the gateway proves itself with to the upstream.
CREDENTIAL = "upstream-credential-Zq7"

Config = Mapping[str, Any]
T = TypeVar("T")


def gateway_config(upstream_url: str | None, **sections: Any) -> dict[str, Any]:
    """A configuration with one upstream; ``upstream`` holds more members of it."""
    upstream = {"name": "provider", "base_url": upstream_url, "api_key": CREDENTIAL}
    upstream |= {"models": ["claude-*"]} | sections.pop("upstream", {})
    config: dict[str, Any] = {"log": {"level": "debug", "access": True}}
    if upstream_url is not None:
        config["upstreams"] = [upstream]
    return config | sections


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one sentence on standard error of a command that failed."""
        assert self.status == 1, (self.status, self.out, self.err)
        assert self.out == ""
        assert self.err.startswith("Error: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("Error: ").rstrip("\n")


class Server:
    """``opuslive`` on one configuration. ``start`` it, ``stop`` or ``kill`` it, start it again."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        for name in ("home", "tmp", "run", "state", "xdg"):
            (folder / name).mkdir(mode=0o700)
        self.config_file = folder / "config.toml"
        self.database = folder / "state" / "opuslive.db"
        storage = {"storage": {"url": f"sqlite://{self.database}"}}
        self.write_config(storage | dict(config))
        self.environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "xdg"),
            "LANG": "C.UTF-8",
            # What runs is the package that the tests import, wherever they run.
            "PYTHONPATH": str(Path(opuslive.__file__).parents[1]),
        }
        self.program = [sys.executable, "-m", "opuslive"]
        #: File descriptors that the server inherits.
        self.inherited: tuple[int, ...] = ()
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._out: _Collected | None = None
        self._err: _Collected | None = None
        self._names = (f"holder {number}" for number in itertools.count(1))

    def write_config(self, config: Config) -> None:
        self.config_file.write_text(_toml(config))
        self.config_file.chmod(0o600)

    def command(self, *arguments: str) -> list[str]:
        """The words of a command on its configuration."""
        return [*self.program, "--config", str(self.config_file), *arguments]

    # The server.

    async def start(self, *options: str) -> None:
        """Start it and wait until it listens."""
        assert self.process is None
        self.process = subprocess.Popen(
            self.command("serve", "--port", "0", *options),
            env=self.environ,
            cwd=self.folder / "home",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=self.inherited,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._out, self._err = _Collected(self.process.stdout), _Collected(self.process.stderr)
        listens = await self.printed(r"listens on https?://127\.0\.0\.1:(\d+)\b.*\n")
        self.port = int(listens[1])

    async def printed(self, pattern: str) -> re.Match[str]:
        """Wait for this on standard output."""
        return await self._said(self._out, pattern)

    async def logged(self, pattern: str) -> re.Match[str]:
        """Wait for this on standard error."""
        return await self._said(self._err, pattern)

    async def _said(self, where: _Collected | None, pattern: str) -> re.Match[str]:
        assert where is not None
        found: re.Match[str] | None = None

        def looked_for() -> bool:
            nonlocal found
            ended = where.ended
            found = re.search(pattern, where.text)
            if found is None and ended:
                raise AssertionError(f"it ended without {pattern!r}: {self.out}\n{self.log}")
            return found is not None

        await eventually(looked_for)
        assert found is not None
        return found

    @property
    def out(self) -> str:
        return self._out.text if self._out is not None else ""

    @property
    def log(self) -> str:
        """All that was written to standard error so far."""
        return self._err.text if self._err is not None else ""

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def wait(self) -> int:
        """Wait for its end; return the exit status."""
        process = self.process
        assert process is not None
        status = await asyncio.to_thread(process.wait, PATIENCE)
        for collected in (self._out, self._err):
            assert collected is not None
            await asyncio.to_thread(collected.join)
        self.process = None
        return status

    async def stop(self) -> int:
        """Ask it to end, by SIGTERM; return the exit status."""
        assert self.process is not None
        self.process.terminate()
        return await self.wait()

    async def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            await self.wait()

    # Its commands.

    async def run(self, *arguments: str, input_: str = "", **environ: str) -> Outcome:
        """Run a command on the same configuration."""
        done = await asyncio.to_thread(
            subprocess.run,
            self.command(*arguments),
            env=self.environ | environ,
            cwd=self.folder / "home",
            input=input_.encode(),
            capture_output=True,
            timeout=3 * PATIENCE,
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    async def json(self, *arguments: str) -> Any:
        """Run a command that has to succeed, with ``--json``; return what it printed."""
        outcome = await self.run(*arguments, "--json")
        assert outcome.status == 0, outcome
        assert outcome.err == ""
        return outcome.json()

    async def create_key(self, name: str, *options: str) -> Any:
        """Make a key with ``keys create``: its members, ``key`` among them."""
        return await self.json("keys", "create", name, *options)

    async def admin(self, method: str, *path: str, **members: object) -> Any:
        """What the commands do, without the half second that a process takes to start."""
        socket = Path(f"{self.database}.sock")
        target = "/".join(("/admin/api", *(quote(part, safe="") for part in path)))
        body = None if method in ("GET", "DELETE") else json.dumps(members).encode()
        async with await Wire.connect_unix(socket) as wire:
            await wire.send(request_bytes(method, target, body=body))
            answer = await wire.answer()
        assert answer.status < 300, answer
        return answer.json()

    async def holder(self, **members: object) -> str:
        """A new key's credential, made without a process."""
        key = await self.admin("POST", "keys", **{"name": next(self._names), **members})
        credential: str = key["key"]
        return credential

    # As a client.

    async def connect(self, source: str | None = None, *, narrow: bool = False) -> Wire:
        return await Wire.connect(self.port, source, narrow=narrow)

    async def request(
        self,
        method: str,
        target: str,
        *,
        key: str | None = None,
        headers: Headers = (),
        body: bytes | None = None,
    ) -> Answer:
        """Ask on a connection of its own."""
        async with await self.connect() as wire:
            await wire.send(request_bytes(method, target, key=key, headers=headers, body=body))
            return await wire.answer(head_only=method == "HEAD")

    async def messages(self, key: str, body: bytes, headers: Headers = ()) -> Answer:
        return await self.request("POST", "/v1/messages", key=key, headers=headers, body=body)

    @contextlib.asynccontextmanager
    async def asking(self, key: str, body: bytes) -> AsyncIterator[Wire]:
        """A connection on which a message has been asked for."""
        async with await self.connect() as wire:
            await wire.send(request_bytes("POST", "/v1/messages", key=key, body=body))
            yield wire

    async def records(self, key: str, number: int | None = None) -> list[Any]:
        """Everything recorded of the key; if a number is given, once there are so many."""
        found: list[Any] = []
        async with asyncio.timeout(PATIENCE):
            while True:
                answer = await self.request("GET", "/v1/usage/export?format=jsonl", key=key)
                assert answer.status == 200, answer
                found = [json.loads(line) for line in answer.body.splitlines()]
                if number is None or len(found) >= number:
                    break
                await asyncio.sleep(0.01)
        assert number is None or len(found) == number
        return found

    def files(self) -> dict[Path, bytes]:
        """Every file in its folder, and what is in it."""
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    def database_files(self) -> bytes:
        """The database, its write-ahead log and its shared memory, as they are on disk."""
        return b"".join(
            content
            for path, content in self.files().items()
            if path.name.startswith(self.database.name)
        )


class _Collected:
    """What comes out of a pipe, read by a thread of its own."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._data = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe as pipe:
            while data := pipe.read1(65536):  # type: ignore[attr-defined]
                self._data += data

    @property
    def text(self) -> str:
        return bytes(self._data).decode()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(PATIENCE)


def _toml(config: Config) -> str:
    lines: list[str] = []
    for section, members in config.items():
        for table in members if isinstance(members, list) else [members]:
            lines.append(f"[[{section}]]" if isinstance(members, list) else f"[{section}]")
            lines += [f"{json.dumps(name)} = {_value(value)}" for name, value in table.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        members = (f"{json.dumps(name)} = {_value(member)}" for name, member in value.items())
        return "{" + ", ".join(members) + "}"
    return json.dumps(value)


S = TypeVar("S", bound=Server)


class Made(Generic[S]):
    """Gateways of one test's own; they end with it."""

    def __init__(self, kind: type[S]) -> None:
        self._kind = kind
        self._made: list[tuple[S, tempfile.TemporaryDirectory[str]]] = []

    def make(self, upstream_url: str | None, **sections: Any) -> S:
        """A gateway that does not run yet."""
        # A short path, as the paths of sockets have to be.
        folder = tempfile.TemporaryDirectory(prefix="opuslive-")
        server = self._kind(Path(folder.name), gateway_config(upstream_url, **sections))
        self._made.append((server, folder))
        return server

    async def start(self, upstream_url: str | None, **sections: Any) -> S:
        server = self.make(upstream_url, **sections)
        await server.start()
        return server

    async def close(self) -> None:
        for server, folder in self._made:
            await server.kill()
            folder.cleanup()


class Servers(Made[Server]):
    """Processes of one test's own; they end with it."""

    def __init__(self) -> None:
        super().__init__(Server)


def descriptors(server: Server) -> int:
    """How many files and sockets its process has open."""
    assert server.process is not None
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def log_is_truncated(server: Server) -> bool:
    wal = server.database.with_name(server.database.name + "-wal")
    return not wal.exists() or wal.stat().st_size == 0

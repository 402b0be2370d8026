"""What the relay costs: CPU per request and per streamed chunk, beside nginx in the same run.

``python -m tests.bench [ROUNDS]``. The gateway and nginx take turns on the first core, the
provider and the clients share the second. CPU is what the kernel accounts to the process
(user and system), so the figures hold on a busy machine better than times would; quote the
ratio to nginx, and the median.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from tests.bench.origin import EVENTS

REQUESTS = 6_000
CONNECTIONS = 20
STREAMS = 40
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Subject:
    """A proxy under test: where it listens, and the processes whose CPU counts."""

    name: str
    port: int
    pids: tuple[int, ...]

    def cpu_seconds(self) -> float:
        total = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / _TICK


class _Client(asyncio.Protocol):
    """Sends one request after the other; counts answers by the bytes that end them."""

    def __init__(self, request: bytes, end: bytes, times: int) -> None:
        self._request = request
        self._end = end
        self._left = times
        self._tail = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-64:]
        if not self._tail.endswith(self._end):
            return
        self._tail = b""
        self._left -= 1
        if self._left:
            self._transport.write(self._request)
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the proxy closed the connection"))


async def _load(port: int, key: str, *, stream: bool) -> int:
    """Put load on a proxy; return how many units (requests or chunks) it was."""
    body = json.dumps(
        {
            "model": "claude-test-1",
            "max_tokens": 100,
            "stream": stream,
            "messages": [{"role": "user", "content": "x" * 1000}],
        }
    ).encode()
    request = (
        b"POST /v1/messages HTTP/1.1\r\nhost: bench\r\nx-api-key: %b\r\n"
        b"anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (key.encode(), len(body), body)
    )
    connections, times = (STREAMS, 1) if stream else (CONNECTIONS, REQUESTS // CONNECTIONS)
    end = b"0\r\n\r\n" if stream else b'"output_tokens": 9}}'
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: _Client(request, end, times), "127.0.0.1", port
        )
        clients.append(client.done)
    await asyncio.gather(*clients)
    return STREAMS * EVENTS if stream else REQUESTS


def _measure(subject: Subject, key: str, *, stream: bool) -> float:
    """CPU per unit in µs."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        before = subject.cpu_seconds()
        units = runner.run(_load(subject.port, key, stream=stream))
        return (subject.cpu_seconds() - before) / units * 1e6


@contextlib.contextmanager
def _process(core: int, *command: str, ready: str | None = None) -> Iterator[tuple[int, str]]:
    """Run a command on one core; yields its pid and the line that ``ready`` begins."""
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        stdout=subprocess.PIPE if ready else None,
        text=True,
    )
    try:
        line = ""
        while ready and ready not in line:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line or process.poll() is None, f"{command[0]} did not start"
        yield process.pid, line
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _nginx(folder: Path, origin: int) -> Iterator[Subject]:
    port = _free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"""
        worker_processes 1; daemon off; error_log {folder}/error.log; pid {folder}/nginx.pid;
        events {{ worker_connections 1024; }}
        http {{
          access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
          fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
          upstream origin {{ server 127.0.0.1:{origin}; keepalive 100; }}
          server {{
            listen 127.0.0.1:{port};
            location / {{
              proxy_pass http://origin; proxy_http_version 1.1;
              proxy_set_header Connection ""; proxy_buffering off;
            }}
          }}
        }}"""
    )
    with _process(0, "nginx", "-c", str(config)) as (pid, _):
        _wait_for(port)
        children: list[str] = []
        while not children:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        yield Subject("nginx", port, (pid, *map(int, children)))


@contextlib.contextmanager
def _gateway(folder: Path, origin: int) -> Iterator[tuple[Subject, str]]:
    config = folder / "config.toml"
    config.write_text(
        f"""
        [server]
        port = 0
        [storage]
        url = "sqlite://{folder}/bench.db"
        [[upstreams]]
        name = "origin"
        base_url = "http://127.0.0.1:{origin}"
        """
    )
    opuslive = (sys.executable, "-m", "opuslive", "--config", str(config))
    with _process(0, *opuslive, "serve", ready="listens on") as (pid, line):
        port = int(line.partition("http://127.0.0.1:")[2].split()[0])
        created = subprocess.run(
            [*opuslive, "keys", "create", "bench", "--json"],
            capture_output=True,
            check=True,
        )
        yield Subject("OpusLive", port, (pid,)), json.loads(created.stdout)["key"]


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    while True:
        with (
            contextlib.suppress(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", port)),
        ):
            return


def _report(name: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    ratios = [mine / nginx for mine, nginx in zip(ours, theirs, strict=True)]
    print(
        f"{name:24} {statistics.median(ours):8.1f} µs   nginx {statistics.median(theirs):6.1f} µs"
        f"   ratio {statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    if shutil.which("nginx") is None:
        sys.exit("The benchmark measures beside nginx; install it (apt-get install nginx-light).")
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        origin = _free_port()
        stack.enter_context(_process(1, sys.executable, "-m", "tests.bench.origin", str(origin)))
        _wait_for(origin)
        nginx = stack.enter_context(_nginx(folder, origin))
        gateway, key = stack.enter_context(_gateway(folder, origin))
        for stream in (False, True):
            for subject in (gateway, nginx):
                _measure(subject, key, stream=stream)  # to warm up
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(_measure(gateway, key, stream=stream))
                theirs.append(_measure(nginx, key, stream=stream))
            _report("per streamed chunk" if stream else "per JSON request", ours, theirs)


if __name__ == "__main__":
    main()

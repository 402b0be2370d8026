"""A model provider for tests: real bytes over a real socket, and every fault.

It answers each request with a *script*: a sequence of steps that are bytes to send, an
event to wait for, or one of ``CLOSE``, ``RESET``, ``CUT`` and ``STALL``. Scripts are queued with
``will``; without one it answers as the provider would. What it received is in ``requests``,
byte for byte.
"""

from __future__ import annotations

import asyncio
import enum
import json
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


class Step(enum.Enum):
    """What a script can do besides sending bytes and waiting for an event."""

    CLOSE = enum.auto()
    RESET = enum.auto()
    #: End the TCP connection in order, without telling TLS.
    CUT = enum.auto()
    STALL = enum.auto()


CLOSE, RESET, CUT, STALL = Step.CLOSE, Step.RESET, Step.CUT, Step.STALL
Script = Iterable[bytes | asyncio.Event | Step]


@dataclass(slots=True)
class Request:
    """A request as it arrived. ``headers`` keeps the order; names are lower-cased."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int
    #: Set when the client's side of the connection is seen to be gone.
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


class ScriptedUpstream:
    """Listens on loopback from ``start`` until ``close``."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.open_connections = 0
        self.pace: float = 0.0
        #: The ids of its list; None: it refuses the credential that asks for it.
        self.models: Sequence[str] | None = ("claude-test-1", "claude-test-2")
        self._scripts: list[Script | Callable[[Request], Script]] = []
        self._always: Callable[[Request], Script] | None = None
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._arrived = asyncio.Condition()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", port, ssl=self._tls, limit=2**20
        )

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def base_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hang_up(self) -> None:
        """End all connections, whatever goes on on them; new ones are taken as before."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def will(self, *scripts: Script | Callable[[Request], Script]) -> None:
        """Answer the next requests for an inference with these scripts, in order."""
        self._scripts += scripts

    def always(self, script: Callable[[Request], Script]) -> None:
        """Answer every inference that no script is queued for with what this returns."""
        self._always = script

    def forget(self) -> None:
        """Be as if nothing had been asked or queued yet; connections stay as they are."""
        self.requests.clear()
        self._scripts.clear()
        self._always = None
        self.pace = 0.0

    async def request(self, number: int = 0) -> Request:
        """The inference request of this number, once it has arrived."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.inferences) > number)
        return self.inferences[number]

    @property
    def inferences(self) -> list[Request]:
        return [request for request in self.requests if request.line.startswith("POST")]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        self.open_connections += 1
        try:
            await self._converse(reader, writer, self.connections)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open_connections -= 1
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        while True:
            request = await _read_request(reader, number)
            async with self._arrived:
                self.requests.append(request)
                self._arrived.notify_all()
            watch = asyncio.ensure_future(_watch(reader, request))
            try:
                for step in self._script(request):
                    if isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                        if self.pace:
                            await asyncio.sleep(self.pace)
                    elif isinstance(step, asyncio.Event):
                        await step.wait()
                    elif step is Step.STALL:
                        await request.gone.wait()
                        return
                    elif step is Step.CUT:
                        writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
                        await request.gone.wait()
                        return
                    else:
                        if step is Step.RESET:
                            sock = writer.get_extra_info("socket")
                            sock.setsockopt(
                                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                            )
                            writer.transport.abort()
                        else:
                            writer.close()
                        return
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
            if request.gone.is_set():
                return

    def _script(self, request: Request) -> Script:
        path = request.path.partition("?")[0]
        if path == "/v1/models":
            if self.models is None:
                return json_answer({"type": "error"}, status=401)
            return json_answer({"data": [{"type": "model", "id": id_} for id_ in self.models]})
        if self._scripts:
            script = self._scripts.pop(0)
            return script(request) if callable(script) else script
        if self._always is not None:
            return self._always(request)
        if path == "/v1/messages/count_tokens":
            return json_answer({"input_tokens": 42})
        if path == "/v1/messages":
            return anthropic_answer(json.loads(request.body))
        return json_answer({"type": "error"}, status=404)


def anthropic_answer(request: Any, **usage: int) -> Script:
    """What the provider answers: a stream or a message, by what was asked for."""
    counts = {"input_tokens": 11, "output_tokens": 7} | usage
    if request.get("stream"):
        return stream_answer(anthropic_events("Hello from the tests", **counts))
    return json_answer(anthropic_message("Hello from the tests", **counts))


def anthropic_message(text: str, **usage: int) -> dict[str, Any]:
    return {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-test-1",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }


def anthropic_events(text: str, **usage: int) -> list[bytes]:
    """The events of a stream, one piece of bytes each."""
    deltas = [{"type": "text_delta", "text": word + " "} for word in text.split()]
    return _events({"type": "text", "text": ""}, deltas, "end_turn", usage)


def anthropic_call(name: str, pieces: Sequence[str], **usage: int) -> list[bytes]:
    """The events of a stream that calls a tool; its input comes as these pieces of JSON."""
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    block = {"type": "tool_use", "id": "toolu_01", "name": name, "input": {}}
    return _events(block, deltas, "tool_use", usage)


def _events(
    block: dict[str, Any], deltas: list[dict[str, str]], reason: str, usage: dict[str, int]
) -> list[bytes]:
    """A stream of one block of content."""
    start = anthropic_message("") | {"content": [], "stop_reason": None}
    start["usage"] = usage | {"output_tokens": 1}
    end = {"stop_reason": reason, "stop_sequence": None}
    used = {"output_tokens": usage.get("output_tokens", 1)}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": used},
        {"type": "message_stop"},
    ]
    return [event(item["type"], item) for item in events]


def event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_answer(events: Iterable[bytes]) -> Script:
    """A chunked event stream, an event a write."""
    return [STREAM_HEAD, *map(chunk, events), LAST_CHUNK]


def json_answer(
    value: object, *, status: int = 200, headers: Sequence[tuple[str, str]] = ()
) -> Script:
    body = json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status} Status", "content-type: application/json"]
    lines += [f"{name}: {text}" for name, text in headers]
    lines += [f"content-length: {len(body)}", "", ""]
    return ["\r\n".join(lines).encode() + body]


async def _read_request(reader: asyncio.StreamReader, number: int) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = []
    for item in fields:
        name, _, value = item.partition(":")
        headers.append((name.lower(), value.strip()))
    length = int(dict(headers).get("content-length", "0"))
    return Request(line, headers, await reader.readexactly(length), number)


async def _watch(reader: asyncio.StreamReader, request: Request) -> None:
    """Notice that the client has gone, without taking what it may send next."""
    while not reader.at_eof() and reader.exception() is None:
        await asyncio.sleep(0.005)
    request.gone.set()

"""One exchange after the other, driven in memory under callgrind: ``python -m tests.bench.driven``.

It prints one line of JSON for each thing that is counted: its name, and how many of it were done
while callgrind counted. Without callgrind it prints µs, which say where to look.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from opuslive.bootstrap import Gateway, wire
from opuslive.config.sections import Config
from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.gateway.upstreams.pool import Endpoint, UpstreamPool
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.gateway.upstreams.wire import Timeouts
from opuslive.keys import Key, display_prefix, hash_credential, new_credential
from opuslive.pricing.prices import Prices
from opuslive.storage import Storage
from opuslive.times import Clock
from tests.bench.callgrind import Callgrind
from tests.bench.still import StillClient, StillLoop, StillStorage, StillTransport
from tests.support.provider import LAST_CHUNK, STREAM_HEAD, anthropic_events, chunk

MODEL = "claude-sonnet-4-5"
LIMITS = ("60 requests/1m", "2M tokens/5h", "20 usd/month")
WARM, COUNTED = 150, 40
CHUNKS = 100
NOW = 1_795_446_245_123

_DIALECT = AnthropicDialect()
_HEADERS = [
    (b"Host", b"gateway.example"),
    (b"Accept", b"application/json"),
    (b"Content-Type", b"application/json"),
    (b"User-Agent", b"Anthropic/Python 0.75.0"),
    (b"X-Stainless-Lang", b"python"),
    (b"X-Stainless-Retry-Count", b"0"),
    (b"X-Stainless-Timeout", b"600"),
    (b"X-Api-Key", b"(the credential)"),
    (b"anthropic-version", b"2023-06-01"),
    (b"Content-Length", b"1234"),
]
_MESSAGE = json.dumps(
    {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "Hello! " * 30}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 260,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 63,
            "service_tier": "standard",
        },
    }
).encode()
#: What the provider's edge says besides.
_ANSWER_HEADERS = (
    b"date: Mon, 23 Nov 2026 15:04:05 GMT\r\n"
    b"content-type: application/json\r\n"
    b"connection: keep-alive\r\n"
    b"request-id: req_011CQ3sYqg7nFJ9QT3nUoSbC\r\n"
    b"anthropic-ratelimit-requests-limit: 4000\r\n"
    b"anthropic-ratelimit-requests-remaining: 3999\r\n"
    b"anthropic-ratelimit-requests-reset: 2026-11-23T15:04:05Z\r\n"
    b"anthropic-organization-id: 0f1b2c3d-0000-4000-8000-000000000000\r\n"
    b"strict-transport-security: max-age=31536000; includeSubDomains\r\n"
    b"server: cloudflare\r\n"
    b"cf-cache-status: DYNAMIC\r\n"
    b"x-envoy-upstream-service-time: 812\r\n"
)
_JSON_ANSWER = b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (
    _ANSWER_HEADERS,
    len(_MESSAGE),
    _MESSAGE,
)


class Driven:
    """A gateway with one key and one upstream, and the loop that it runs on."""

    def __init__(self) -> None:
        self._loop = StillLoop()
        asyncio._set_running_loop(self._loop.as_loop)
        self._storage = StillStorage(self._loop)
        self._credential = new_credential("sk-ant-ol-", "key00001", self._storage.checksum_key)
        key = Key(
            "key00001",
            "a key",
            display_prefix("sk-ant-ol-", "key00001"),
            NOW,
            hash_credential(self._credential),
            limits=LIMITS,
        )
        upstream = Upstream(
            name="anthropic",
            dialect=_DIALECT,
            pool=UpstreamPool(Endpoint("127.0.0.1", 1), Timeouts(5, 600, 300), self._loop.as_loop),
            authority=b"api.anthropic.com",
            path_prefix=b"",
            credential=[(b"x-api-key", b"secret")],
            models=("claude-*",),
            priority=0,
            weight=1,
        )
        self._clock_ms = NOW
        clock = Clock(lambda: self._clock_ms, lambda: self._clock_ms)
        self._gateway: Gateway = wire(
            Config(), cast(Storage, self._storage), [key], [upstream], Prices({}), clock
        )

    def request(self, *, stream: bool) -> bytes:
        text = "What is the answer to life, the universe and everything? " * 18
        messages = [{"role": "user", "content": text}]
        members = {"model": MODEL, "max_tokens": 1024, "stream": stream, "messages": messages}
        return json.dumps(members).encode()

    def exchange(self, body: bytes, answer: Sequence[bytes]) -> None:
        """Take a request to its end: it comes, the parts of the answer come, its record is done."""
        gateway, loop = self._gateway, self._loop
        client = StillClient(gateway.admission, _DIALECT, self._credential, _HEADERS, body)
        task = loop.run(gateway.exchanges.serve(_DIALECT, _DIALECT.operations[0], client))
        (connection,) = loop.connections
        for part in answer:
            connection.data_received(part)
            loop.run_ready()
        self._storage.on_disk()
        loop.run_ready()
        task.result()
        # So that no limit fills, and buckets begin and end: a request each two seconds.
        self._clock_ms += 2_000

    def written_upstream(self) -> int:
        """Bytes that went to the upstream so far."""
        transport = cast(Any, self._loop.connections[0])._transport
        assert isinstance(transport, StillTransport)
        return transport.written


def reference() -> int:
    """Work of the same kind: small objects, dictionaries, bytes, calls. Nothing of it changes."""
    found = 0
    for number in range(200):
        line = b"x-header-%d: some value of it\r\n" % number
        name, _, value = line.partition(b": ")
        table = {name.lower(): value.strip(), b"other": name}
        pair = _Pair(table[b"other"], len(value))
        if pair.name.startswith(b"x-") and pair.longer_than(3):
            found += pair.size
    return found


class _Pair:
    __slots__ = ("name", "size")

    def __init__(self, name: bytes, size: int) -> None:
        self.name = name
        self.size = size

    def longer_than(self, size: int) -> bool:
        return self.size > size


def subjects() -> Mapping[str, Callable[[], object]]:
    """Name → what is done once."""
    driven = Driven()
    plain, streamed = driven.request(stream=False), driven.request(stream=True)
    first, block, ping, word, *rest = map(
        chunk, anthropic_events("word", input_tokens=260, output_tokens=9)
    )
    begun, ended = [STREAM_HEAD + first + block + ping], [b"".join(rest) + LAST_CHUNK]
    few, many = ([*begun, *[word] * number, *ended] for number in (1, 1 + CHUNKS))
    return {
        "reference": reference,
        "request": lambda: driven.exchange(plain, [_JSON_ANSWER]),
        "stream": lambda: driven.exchange(streamed, few),
        "stream of more chunks": lambda: driven.exchange(streamed, many),
    }


def main() -> None:
    callgrind = Callgrind.here()
    for name, do in subjects().items():
        for _ in range(WARM):
            do()
        gc.collect()
        gc.freeze()
        gc.disable()
        began = time.perf_counter()
        with callgrind.counting(name):
            for _ in itertools.repeat(None, COUNTED):
                do()
        us = (time.perf_counter() - began) / COUNTED * 1e6
        gc.enable()
        print(json.dumps({"name": name, "number": COUNTED, "us": round(us, 2)}), flush=True)


if __name__ == "__main__":
    main()

"""Good and bad answers over pooled connections, many clients at once: to each its own bytes.

What an exchange is (its upstream's answer, its client's manners) follows from the run's seed
and the exchange's number alone. Each answer holds a token of its exchange, and what follows an
answer unasked holds another, so bytes that reach the wrong client are seen.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.provider import (
    CLOSE,
    LAST_CHUNK,
    RESET,
    STALL,
    STREAM_HEAD,
    Request,
    Script,
    ScriptedUpstream,
    Step,
    anthropic_events,
    anthropic_message,
    chunk,
)
from tests.support.server import Server, descriptors
from tests.support.waiting import eventually, soon
from tests.support.wire import Wire, message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLIENTS = 40
OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"content-type: application/json\r\n"
STREAM = b"content-type: text/event-stream\r\n"
EVIL = b"HTTP/1.1 200 OK\r\n" + JSON + b'content-length: 16\r\n\r\n{"evil": "evil"}'

#: What the upstream sends, and how it ends; a whole answer also has its status and body.
Answer = tuple[bytes, Step | None, tuple[int, bytes] | None]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, what becomes of it upstream, and what its client does."""

    number: int
    kind: str
    #: ``stay``, or leave: ``before`` the answer or in its ``midst``.
    manners: str
    version: str
    padding: int
    pieces: Sequence[bytes]
    end: Step | None
    whole: tuple[int, bytes] | None

    @property
    def request(self) -> bytes:
        content = json.dumps([self.number, "x" * self.padding])
        return message_body(stream=True, messages=[{"role": "user", "content": content}])


def sized(body: bytes, head: bytes = OK + JSON) -> bytes:
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def good(kind: str, chance: random.Random, token: str, number: int) -> Answer:
    words = " ".join([token] * chance.randint(1, 40))
    events = anthropic_events(words, input_tokens=number, output_tokens=chance.randint(1, 999))
    stream = b"".join(events)
    usage = {"input_tokens": number, "output_tokens": 5}
    message = json.dumps(anthropic_message(words, **usage)).encode()
    streamed = STREAM_HEAD + b"".join(map(chunk, events)) + LAST_CHUNK
    error = json.dumps({"type": "error", "error": {"type": "x", "message": words}}).encode()
    return {
        "stream": (streamed, None, (200, stream)),
        "stream with a length": (sized(stream, OK + STREAM), None, (200, stream)),
        "stream to the end": (OK + STREAM + b"\r\n" + stream, CLOSE, (200, stream)),
        "message": (sized(message), None, (200, message)),
        "message in chunks": (
            OK + JSON + b"transfer-encoding: chunked\r\n\r\n" + chunk(message) + LAST_CHUNK,
            None,
            (200, message),
        ),
        "message to the end": (OK + JSON + b"\r\n" + message, CLOSE, (200, message)),
        "message of HTTP/1.0": (
            sized(message).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
            CLOSE,
            (200, message),
        ),
        "last message": (
            sized(message, OK + JSON + b"connection: close\r\n"),
            CLOSE,
            (200, message),
        ),
        "interim answers": (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: </x>\r\n\r\n" + streamed,
            None,
            (200, stream),
        ),
        "an error": (sized(error, b"HTTP/1.1 500 No\r\n" + JSON), None, (500, error)),
        "overloaded": (sized(error, b"HTTP/1.1 529 Busy\r\n" + JSON), None, (529, error)),
        # In one piece with what nobody asked for.
        "an answer behind it": (sized(message) + EVIL, None, (200, message)),
        "an answer behind a stream": (streamed + EVIL, None, (200, stream)),
        "half an answer behind it": (sized(message) + EVIL[:20], None, (200, message)),
        "garbage behind it": (streamed + b"\0\0\0", None, (200, stream)),
        "a body that a 204 has not": (
            sized(message, b"HTTP/1.1 204 No Content\r\n"),
            None,
            (204, b""),
        ),
    }[kind]


def bad(kind: str, chance: random.Random, token: str, number: int) -> Answer:
    stream, _, whole = good("stream", chance, token, number)
    assert whole is not None
    message, _, _ = good("message", chance, token, number)
    after_head = chance.randrange(len(STREAM_HEAD), stream.index(b"event: message_stop"))
    chunks = (STREAM_HEAD, *(chunk(token.encode()) for _ in range(chance.randint(0, 9))))
    early = STREAM_HEAD + b"".join(map(chunk, anthropic_events(token)[:-1])) + LAST_CHUNK
    wire, end = {
        "nothing": (b"", CLOSE),
        "a reset": (b"", RESET),
        "half a head": (stream[: chance.randrange(1, len(STREAM_HEAD) - 1)], CLOSE),
        "half a head, a reset": (stream[: chance.randrange(1, len(STREAM_HEAD) - 1)], RESET),
        "half a stream": (stream[:after_head], CLOSE),
        "half a stream, a reset": (stream[:after_head], RESET),
        "a stream that ends early": (early, None),
        SERVED: (sized(whole[1] + b"\n", OK + STREAM)[:-1], CLOSE),
        "half a message": (message[:-1], CLOSE),
        "half a message, a reset": (message[:-1], RESET),
        "half a message to the end, a reset": (OK + JSON + b'\r\n{"type":"message"', RESET),
        "garbage": (chance.randbytes(200).replace(b"H", b"h").replace(b"\n", b"x"), STALL),
        "a chunk size": (b"".join((*chunks, chance.choice(BAD_CHUNKS))), STALL),
        "a head": (chance.choice(BAD_HEADS) + EVIL, STALL),
    }[kind]
    return wire, end, None


GOOD = (
    "stream",
    "stream with a length",
    "stream to the end",
    "message",
    "message in chunks",
    "message to the end",
    "message of HTTP/1.0",
    "last message",
    "interim answers",
    "an error",
    "overloaded",
    "an answer behind it",
    "an answer behind a stream",
    "half an answer behind it",
    "garbage behind it",
    "a body that a 204 has not",
)
#: All that it holds has arrived, so it counts as served; but the client is to be told.
SERVED = "a stream that lacks the end of its length"
BAD = (
    SERVED,
    "nothing",
    "a reset",
    "half a head",
    "half a head, a reset",
    "half a stream",
    "half a stream, a reset",
    "a stream that ends early",
    "half a message",
    "half a message, a reset",
    "half a message to the end, a reset",
    "garbage",
    "a chunk size",
    "a head",
)
BAD_CHUNKS = (
    b"x\r\n",
    b"-1\r\n",
    b"0x5\r\nhello\r\n",
    b"f" * 17 + b"\r\n",
    b"5\r\nhelloworld",
    b"\r\n",
)
BAD_HEADS = (
    OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
    OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    OK + b"transfer-encoding: gzip, chunked\r\n\r\n",
    OK + b"content-encoding: br\r\ncontent-length: 5\r\n\r\n",
    OK + b"x: " + b"y" * 70_000 + b"\r\n\r\n",
    OK + b"x: y\r\n" * 20_000 + b"\r\n",
    OK + b"x: \0\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    b"HTTP/1.1 150 Wait\r\ncontent-length: 4\r\n\r\nevil",
    b"HTTP/1.1 307 Elsewhere\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 099 Small\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
)


def exchange_of(seed: int, number: int) -> Exchange:
    chance = random.Random(f"{seed} {number}")
    token = chance.randbytes(8).hex()
    kinds, make = (BAD, bad) if chance.random() < 0.3 else (GOOD, good)
    kind = chance.choice(kinds)
    wire, end, whole = make(kind, chance, token, number)
    # What lies behind an answer is in one piece with it, lest it come when nobody can tell.
    cuts = 0 if "behind" in kind or "a 204" in kind else chance.choice((0, 0, 1, 3, 9))
    places = [0, *sorted(chance.randrange(len(wire) + 1) for _ in range(cuts)), len(wire)]
    return Exchange(
        number,
        kind,
        chance.choices(("stay", "before", "midst"), (8, 1, 1))[0],
        chance.choices(("1.1", "1.0"), (9, 1))[0],
        chance.choice((0, 0, 0, 1000, 100_000)),
        [wire[a:b] for a, b in itertools.pairwise(places) if a < b],
        end,
        whole,
    )


class Run:
    """Exchanges on one gateway, and what came of them."""

    def __init__(self, gateway: Server, upstream: ScriptedUpstream, key: str, seed: int) -> None:
        self._gateway, self._upstream, self._key, self._seed = gateway, upstream, key, seed
        self._exchanges: dict[int, Exchange] = {}
        self._arrived: dict[int, asyncio.Event] = {}
        #: How often each status has to be among the records.
        self.statuses: Counter[int] = Counter()
        self.left = 0
        upstream.always(self._script)

    def _script(self, request: Request) -> Script:
        content = json.loads(request.body)["messages"][0]["content"]
        exchange = self._exchanges[json.loads(content)[0]]
        self._arrived[exchange.number].set()
        end = exchange.end
        if exchange.manners != "stay" and exchange.whole is None and end is not None:
            end = STALL  # So that the client leaves before its answer breaks off.
        return [*exchange.pieces, *([] if end is None else [end])]

    async def go(self, numbers: Sequence[int]) -> None:
        each = iter(numbers)
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client(each))

    async def _client(self, numbers: Iterator[int]) -> None:
        wire: Wire | None = None
        for number in numbers:
            exchange = self._exchanges[number] = exchange_of(self._seed, number)
            self._arrived[number] = asyncio.Event()
            wire = wire or await self._gateway.connect()
            try:
                if not await self._ask(wire, exchange):
                    wire.close()
                    wire = None
            except BaseException as error:
                error.add_note(f"exchange {number}: {exchange.kind}, {exchange.manners}")
                raise
            del self._exchanges[number], self._arrived[number]
        if wire is not None:
            wire.close()

    async def _ask(self, wire: Wire, exchange: Exchange) -> bool:
        """Ask, and check the answer; return whether the connection can be used again."""
        await wire.send(
            request_bytes(
                "POST",
                "/v1/messages",
                key=self._key,
                body=exchange.request,
                version=exchange.version,
            )
        )
        if exchange.manners != "stay":
            await self._leave(wire, exchange)
            return False
        try:
            answer = await wire.answer()
        except ConnectionResetError:
            assert exchange.whole is None
            self.statuses[200 if exchange.kind == SERVED else 502] += 1
            return False
        self.statuses[answer.status] += 1
        if exchange.whole is None:
            assert answer.error == (502, "api_error")
        else:
            assert (answer.status, answer.body) == exchange.whole
        return exchange.version == "1.1" and answer.header("connection") != "close"

    async def _leave(self, wire: Wire, exchange: Exchange) -> None:
        await soon(self._arrived[exchange.number].wait())
        self.left += 1
        try:
            if exchange.manners == "midst" and exchange.whole is not None:
                await wire.head()
        except ConnectionResetError:
            return
        if exchange.number % 2:
            wire.abort()


async def quiet(gateway: Server, upstream: ScriptedUpstream) -> int:
    """The gateway's open files, once nothing goes on and the upstream has hung up."""
    async with asyncio.timeout(20):
        while (await gateway.admin("GET", "status"))["requests_in_flight"]:
            await asyncio.sleep(0.01)
    upstream.hang_up()
    await eventually(lambda: upstream.open_connections == 0)
    last, same = -1, 0
    async with asyncio.timeout(20):
        while same < 10:
            await asyncio.sleep(0.01)
            number = descriptors(gateway)
            same = same + 1 if number == last else 0
            last = number
    return last


@pytest.mark.parametrize(
    "number", [600, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
async def test_every_client_gets_its_own_answer_and_one_record(
    gateway: Server, upstream: ScriptedUpstream, number: int
) -> None:
    key = await gateway.holder(limits=["1000 concurrent", "1000M tokens/1h"])
    warm = await gateway.holder()
    assert (await gateway.messages(warm, message_body())).status == 200
    before = await quiet(gateway, upstream)
    seed = random.SystemRandom().randrange(10**9)
    run = Run(gateway, upstream, key, seed)
    try:
        await run.go(range(1, number + 1))
        assert await quiet(gateway, upstream) == before
        await assert_accounted(gateway, key, run, number)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


async def assert_accounted(gateway: Server, key: str, run: Run, number: int) -> None:
    records = await gateway.records(key, number)
    statuses = Counter(record["status"] for record in records)
    assert run.statuses <= statuses
    of_those_who_left = statuses - run.statuses
    assert of_those_who_left.total() == run.left
    assert set(of_those_who_left) <= {200, 204, 499, 500, 502, 529}
    assert all(record["latency_ms"] is not None for record in records)
    answer = await gateway.request("GET", "/v1/usage", key=key)
    limits: list[dict[str, Any]] = answer.json()["limits"]
    assert [limit["reserved"] for limit in limits] == [0, 0]

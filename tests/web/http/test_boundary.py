"""Where a request ends and the next head begins, whatever the split of the bytes."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_parser import RawRequestMessage
from hypothesis import given
from hypothesis import strategies as st

from opuslive.web.http.boundary import RequestBoundary
from tests.support.wire import request_bytes

GET = request_bytes("GET", "/")
#: A body that looks like heads.
POST = request_bytes("POST", "/", body=GET + b"\r\n\r\n" + GET[:9])


class Parsing:
    """aiohttp's parser, and a boundary that is told of what it finds."""

    def __init__(self) -> None:
        loop = asyncio.new_event_loop()
        self._parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
        loop.close()
        self.boundary = RequestBoundary()
        self.heads = 0

    def feed(self, data: bytes) -> None:
        self.boundary.feed(data)
        messages, _, _ = self._parser.feed_data(data)
        for message, _ in messages:
            assert isinstance(message, RawRequestMessage)
            self.heads += 1
            self.boundary.parsed(int(message.headers.get("Content-Length", "0")))


@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
@pytest.mark.parametrize(
    "behind", [b"", b"G", GET[:20], GET[:-1], b"\r\n", b"\r\n\r\n\r\nGET /"], ids=repr
)
def test_bytes_behind_a_request_are_counted(request_: bytes, behind: bytes) -> None:
    parsing = Parsing()
    parsing.feed(request_ + behind)
    assert (parsing.heads, parsing.boundary.head_bytes) == (1, len(behind))


@given(
    requests=st.lists(st.sampled_from([GET, POST, b"\r\n" + GET, b"\r\n\r\n" + POST]), max_size=4),
    behind=st.integers(0, len(GET) - 1),
    cuts=st.sets(st.integers(0, 1000)),
)
def test_no_split_changes_the_count(requests: list[bytes], behind: int, cuts: set[int]) -> None:
    data = b"".join(requests) + GET[:behind]
    parsing = Parsing()
    for start, end in pairwise(sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})):
        parsing.feed(data[start:end])
    assert (parsing.heads, parsing.boundary.head_bytes) == (len(requests), behind)


def test_heads_that_the_parser_tells_of_late_are_counted() -> None:
    """It keeps what it has no room for, and parses it when nothing new comes."""
    boundary = RequestBoundary()
    boundary.feed(POST[:50])
    boundary.feed(POST[50:] + GET + POST + GET[:3])
    boundary.parsed(len(POST) - POST.index(b"\r\n\r\n") - 4)
    assert boundary.head_bytes == len(GET + POST + GET[:3])
    boundary.parsed(0)
    boundary.parsed(len(POST) - POST.index(b"\r\n\r\n") - 4)
    assert boundary.head_bytes == 3


def test_nothing_behind_a_body_without_a_length_is_counted() -> None:
    boundary = RequestBoundary()
    boundary.feed(GET + b"x" * 10)
    boundary.parsed(None)
    boundary.feed(GET[:5])
    assert boundary.head_bytes == 0

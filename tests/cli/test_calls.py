"""Requests of commands over a Unix socket, and answers of any form that a server may give them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from opuslive.cli.calls import Call, WentAway

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
LINES = b'{"progress":0.5}\n{"result":1}\n'
CHUNKS = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (LINES[:9], LINES[9:]))
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS + b"0\r\n\r\n"
SIZED = HEAD + b"content-length: %d\r\n\r\n" % len(LINES) + LINES


@contextlib.asynccontextmanager
async def answering(folder: Path, parts: Sequence[bytes]) -> AsyncIterator[Path]:
    """A server that reads one request, answers with the parts, and closes."""
    path = folder / "socket"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(answer, path):
        yield path


async def lines_of(path: Path) -> list[bytes]:
    async with Call(path, "POST", "/x", b"{}") as call:
        return [line async for line in call.lines()]


async def body_of(path: Path) -> tuple[int, bytes]:
    async with Call(path, "GET", "/x", None) as call:
        return call.status, await call.body()


@pytest.mark.parametrize("answer", [CHUNKED, SIZED], ids=["in chunks", "with its length"])
@pytest.mark.parametrize("pieces", [1, 3, 10_000], ids="in {} pieces".format)
async def test_an_answer_is_read_however_it_arrives(
    tmp_path: Path, answer: bytes, pieces: int
) -> None:
    length = max(1, len(answer) // pieces)
    parts = [answer[at : at + length] for at in range(0, len(answer), length)]
    async with answering(tmp_path, parts) as path:
        assert await body_of(path) == (200, LINES)
        assert await lines_of(path) == LINES.splitlines()


@pytest.mark.parametrize("answer", [CHUNKED, SIZED], ids=["in chunks", "with its length"])
@pytest.mark.parametrize("at", [0, 5, len(HEAD), -40, -1], ids="cut at {}".format)
async def test_an_answer_that_is_cut_short_is_no_answer(
    tmp_path: Path, answer: bytes, at: int
) -> None:
    async with answering(tmp_path, [answer[:at]]) as path:
        with pytest.raises(WentAway):
            await body_of(path)
        with pytest.raises(WentAway):
            await lines_of(path)


async def test_what_is_no_http_is_no_answer(tmp_path: Path) -> None:
    async with answering(tmp_path, [b"SSH-2.0-OpenSSH\r\n"]) as path:
        with pytest.raises(WentAway):
            await body_of(path)


async def test_a_socket_that_nobody_listens_on_is_no_server(tmp_path: Path) -> None:
    with pytest.raises(WentAway):
        await body_of(tmp_path / "nothing")

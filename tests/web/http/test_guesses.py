"""Whose password is proven next, and who is slowed down.

The fault's kind: a guesser keeps the right password out. By guesses of its own before it, on one
connection or many, on new ones each time, from many addresses, by leaving without an answer, and
right after a start, when nothing is proven yet. Proofs are counted here, in the order in which
they are made; none takes time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from opuslive.web.http.guesses import MAX_GUESSERS, MAX_WAITING, MINUTE_MS, GuessLine, Verdict
from tests.support.clock import Machine
from tests.support.waiting import soon

RIGHT = "right"
GUESSER, ADMIN = b"guesser", b"admin"


def here() -> bool:
    """The client has not left."""
    return False


def left() -> bool:
    return True


class Line:
    """A line, and the passwords that were proven, in their order."""

    def __init__(self, pace: float = 0.0) -> None:
        self.machine = Machine()
        self.line = GuessLine(self.machine.clock.elapsed_ms, pace)
        self.proven: list[str] = []
        self._connections = itertools.count(1000)

    def ask(
        self,
        password: str,
        origin: bytes = GUESSER,
        connection: int | None = None,
        gone: Callable[[], bool] = here,
    ) -> asyncio.Task[Verdict]:
        def proves() -> bool:
            self.proven.append(password)
            return password == RIGHT

        number = next(self._connections) if connection is None else connection
        return asyncio.ensure_future(
            self.line.judge(origin, number, password.encode(), proves, gone)
        )

    async def lock(self, origin: bytes = GUESSER) -> None:
        for number in range(10):
            assert await self.ask(f"{origin!r} {number}", origin) == Verdict(right=False)
        self.proven.clear()

    async def answers(self, *asked: asyncio.Task[Verdict]) -> list[Verdict]:
        return list(await soon(asyncio.gather(*asked)))


WRONG = Verdict(right=False)
LOCKED = Verdict(right=False, wait_ms=MINUTE_MS)


async def test_the_guesser_is_locked_for_a_minute_and_nobody_else_is() -> None:
    line = Line()
    await line.lock()
    assert await line.ask("again") == LOCKED
    assert await line.ask("one", ADMIN) == WRONG
    line.machine.elapsed += MINUTE_MS
    assert await line.ask("once more") == WRONG


@pytest.mark.parametrize("before", [0, 3, 10])
async def test_somebody_else_is_next_however_many_guesses_wait(before: int) -> None:
    """Also right after a start, when the guesser was not wrong yet."""
    line = Line()
    for number in range(before):
        await line.ask(f"before {number}")
    line.proven.clear()
    guesses = [line.ask(f"guess {number}") for number in range(24)]
    await asyncio.sleep(0)  # All of them wait by now.
    line.machine.elapsed += 1000
    admin = line.ask(RIGHT, ADMIN)
    assert (await line.answers(admin)) == [Verdict(right=True)]
    assert line.proven.index(RIGHT) <= 1
    await line.answers(*guesses)


async def test_guesses_from_many_addresses_come_after_the_first_try_of_another() -> None:
    line = Line()
    origins = [b"%d" % number for number in range(24)]
    for origin in origins:
        await line.ask("wrong", origin)
    line.proven.clear()
    guesses = [line.ask(f"{origin!r} {n}", origin) for origin in origins for n in range(5)]
    await asyncio.sleep(0)
    assert await soon(line.ask(RIGHT, ADMIN)) == Verdict(right=True)
    assert line.proven.index(RIGHT) <= 1
    await line.answers(*guesses)


async def test_of_one_address_a_new_connection_comes_before_those_that_guessed() -> None:
    """All share an address behind a reverse proxy."""
    line = Line()
    for number in range(24):
        await line.ask(f"before {number}", connection=number)
    line.proven.clear()
    guesses = [line.ask(f"guess {number}", connection=number) for number in range(24)]
    await asyncio.sleep(0)
    assert await soon(line.ask(RIGHT)) == Verdict(right=True)
    assert line.proven.index(RIGHT) <= 1
    assert await line.answers(*guesses) == [LOCKED] * 24


async def test_of_one_address_and_all_connections_new_each_waits_its_turn() -> None:
    line = Line()
    await line.lock()
    guesses = [line.ask(f"guess {number}") for number in range(24)]
    await asyncio.sleep(0)
    admin = line.ask(RIGHT)
    await asyncio.sleep(0)
    late = [line.ask(f"late {number}") for number in range(5)]
    assert await soon(admin) == Verdict(right=True)
    assert line.proven[:25] == [*(f"guess {number}" for number in range(24)), RIGHT]
    assert await line.answers(*guesses, *late) == [LOCKED] * 29


async def test_who_waits_long_enough_comes_first() -> None:
    """Nobody is kept out for ever by others that are new."""
    line = Line()
    for number in range(3):
        await line.ask(f"before {number}", connection=1)
    old = line.ask("old", connection=1)
    await asyncio.sleep(0)
    first = line.ask("first", b"new 1")
    line.machine.elapsed += MINUTE_MS
    late = line.ask("late", b"new 2")
    await line.answers(old, first, late)
    assert line.proven.index("old") < line.proven.index("late")


async def test_a_locked_guesser_gets_few_proofs_and_the_others_go_on() -> None:
    """With a pace that no test lasts for."""
    line = Line(pace=3600.0)
    await line.lock()
    first, second = line.ask("first"), line.ask("second")
    assert await soon(first) == LOCKED
    assert await soon(line.ask(RIGHT, ADMIN)) == Verdict(right=True)
    assert line.proven == ["first", RIGHT]
    assert not second.done()
    second.cancel()


async def test_too_many_guesses_of_one_address_are_refused_at_once() -> None:
    line = Line(pace=3600.0)
    await line.lock()
    assert await line.ask("slow") == LOCKED
    waiting = [line.ask(f"guess {number}") for number in range(MAX_WAITING)]
    await asyncio.sleep(0)
    assert await soon(line.ask("one too many")) == LOCKED
    assert line.proven == ["slow"]
    for guess in waiting:
        guess.cancel()


async def test_who_has_left_keeps_nobody_waiting() -> None:
    line = Line(pace=3600.0)
    await line.lock()
    await line.ask("slow")
    abandoned = [line.ask(f"guess {number}", gone=left) for number in range(3 * MAX_WAITING)]
    await asyncio.sleep(0)
    assert not line.ask("here").done()
    await line.answers(*abandoned[:MAX_WAITING])
    assert line.proven == ["slow"]


async def test_who_asks_again_on_a_new_connection_is_answered() -> None:
    line = Line()
    await line.lock()
    busy = line.ask("busy")
    abandoned, again = line.ask(RIGHT, gone=left), line.ask(RIGHT)
    assert await line.answers(busy, again) == [LOCKED, Verdict(right=True)]
    assert await abandoned == Verdict(right=True)
    assert line.proven.count(RIGHT) == 1


async def test_only_so_many_addresses_are_remembered() -> None:
    line = Line()
    await line.lock()
    for number in range(MAX_GUESSERS - 1):
        await line.ask("wrong", b"%d" % number)
    assert await line.ask("again") == LOCKED
    for number in range(MAX_GUESSERS):
        await line.ask("wrong", b"other %d" % number)
    assert await line.ask("once more") == WRONG


async def test_a_proof_that_fails_keeps_nobody_waiting() -> None:
    line = Line()

    def fails() -> bool:
        raise RuntimeError("can't start new thread")

    broken = asyncio.ensure_future(line.line.judge(GUESSER, 1, b"broken", fails, here))
    after = line.ask(RIGHT)
    with pytest.raises(RuntimeError):
        await soon(broken)
    assert await soon(after) == Verdict(right=True)

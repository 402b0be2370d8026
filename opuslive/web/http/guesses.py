"""Passwords that are to be proven wait in one line, and whoever guesses is slowed down.

A proof is bcrypt: a quarter of a second of one core, by intent. So there is one at a time, and two
questions: whose is next, and how many does one guesser get? (Codes of invitations, whose proof
costs nothing, have a line of their own for the second question's sake.)

* Whoever has been wrong lately stands further back: ``BACK_MS`` for each wrong password of
  the last minute from the same origin, and ``AGAIN_MS`` more for one on the same connection.
  So somebody else's first try is next, however many guesses wait; and since the place in
  the line is a moment, who waits long enough comes first, too.
* An origin that was wrong ``MAX_WRONG`` times within a minute is locked for a minute: what it
  guesses is answered with 429, at once beyond ``MAX_WAITING`` guesses, and the others are proven
  at a slow pace. For behind a reverse proxy all have one origin: the right password gets in all
  the same, within some ``MAX_WAITING`` times the pace, and mostly at once.

An origin is kept in memory as a digest, which no other process can make; nothing is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable

import msgspec
from aiohttp import web

from opuslive.web.http.peers import origin_of

#: Wrong passwords of one origin within a minute after which it is locked for a minute.
MAX_WRONG = 10
MINUTE_MS = 60_000
#: Guesses of one origin that may wait.
MAX_WAITING = 32
#: Seconds from one proof to the next for an origin that is locked, on however fast a machine.
PACE_SECONDS = 0.25
BACK_MS = 3_000
AGAIN_MS = 30_000
#: Origins that are remembered. (A proof takes so long that far fewer can be wrong in a minute.)
MAX_GUESSERS = 4096
#: Milliseconds after which to come again, for whom the line is too long.
_FULL_MS = 1_000
#: Connections that were wrong, of one origin, that are remembered.
_MAX_CONNECTIONS = 64


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """Whether the password is right. If not, ``wait_ms`` > 0 means that the guesser is locked, or
    has too many guesses waiting, and may come again in so many ms."""

    right: bool
    wait_ms: int = 0


class _Guesser:
    """What is known of an origin."""

    __slots__ = ("connections", "free_at", "locked_until", "waiting", "wrong")

    def __init__(self) -> None:
        #: When it was wrong, in ms.
        self.wrong: deque[int] = deque(maxlen=MAX_WRONG)
        self.locked_until: int | None = None
        #: The next proof while it is locked, in the event loop's seconds.
        self.free_at = 0.0
        self.waiting = 0
        #: Connections on which it was wrong.
        self.connections: deque[int] = deque(maxlen=_MAX_CONNECTIONS)

    def locked_ms(self, now: int) -> int:
        """For how many ms it is locked; 0 if it is not."""
        if self.locked_until is not None and self.locked_until <= now:
            self.locked_until = None
        return 0 if self.locked_until is None else self.locked_until - now

    def guilt(self, now: int) -> int:
        """How often it was wrong within a minute, MAX_WRONG at most."""
        while self.wrong and self.wrong[0] <= now - MINUTE_MS:
            self.wrong.popleft()
        return MAX_WRONG if self.locked_ms(now) else len(self.wrong)

    def was_wrong(self, now: int) -> None:
        self.wrong.append(now)
        if self.guilt(now) == MAX_WRONG:
            self.locked_until = now + MINUTE_MS
            self.wrong.clear()


class _Guess:
    """A password that waits for its proof."""

    __slots__ = ("arrived", "askers", "connection", "guesser", "proves", "verdict")

    def __init__(
        self,
        guesser: _Guesser,
        connection: int,
        proves: Callable[[], bool],
        arrived: int,
        verdict: asyncio.Future[Verdict],
    ) -> None:
        self.guesser = guesser
        self.connection = connection
        self.proves = proves
        #: Each tells whether it has left.
        self.askers: list[Callable[[], bool]] = []
        self.arrived = arrived
        self.verdict = verdict

    def turn(self, now: int) -> int:
        """The moment that is its place in the line, in ms, by what is known ``now``."""
        again = self.connection in self.guesser.connections
        return self.arrived + BACK_MS * self.guesser.guilt(now) + AGAIN_MS * again


class RequestGuesses:
    """The line for what requests bring; nothing of that is in it but digests.

    ``now_ms`` is a clock that never goes back, in ms; ``pace`` is in seconds.
    """

    def __init__(self, now_ms: Callable[[], int], pace: float = PACE_SECONDS) -> None:
        self._line = GuessLine(now_ms, pace)
        self._digest_key = secrets.token_bytes(32)

    async def judge(
        self, request: web.Request, guess: bytes, proves: Callable[[], bool]
    ) -> Verdict:
        """Whether the guess that the request brings is right, when it has had its turn.

        ``proves`` is called in a thread.
        """
        return await self._line.judge(
            self.digest(origin_of(request.transport) or b""),
            id(request.protocol),
            self.digest(guess),
            proves,
            lambda: request.transport is None,
        )

    def digest(self, guess: bytes) -> bytes:
        """A digest that no other process can make."""
        return hashlib.blake2b(guess, key=self._digest_key, digest_size=32).digest()


class GuessLine:
    """The line. ``now_ms`` is a clock that never goes back, in ms; ``pace`` is in seconds."""

    def __init__(self, now_ms: Callable[[], int], pace: float = PACE_SECONDS) -> None:
        self._now_ms = now_ms
        self._pace = pace
        self._guessers: OrderedDict[bytes, _Guesser] = OrderedDict()
        #: By origin and digest: requests of one origin with the same password share a proof.
        self._line: dict[tuple[bytes, bytes], _Guess] = {}
        self._under_way: _Guess | None = None
        self._joined = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def judge(
        self,
        origin: bytes,
        connection: int,
        digest: bytes,
        proves: Callable[[], bool],
        gone: Callable[[], bool],
    ) -> Verdict:
        """Wait for the proof of a password.

        ``proves`` is called in a thread. ``gone`` tells whether the client has left; its guess is
        dropped then, unless the proof has begun.
        """
        guess = self._line.get((origin, digest))
        if guess is None:
            guesser = self._guesser(origin)
            if guesser.waiting >= MAX_WAITING:
                self._drop_gone()
            now = self._now_ms()
            if guesser.waiting >= MAX_WAITING:
                return Verdict(right=False, wait_ms=guesser.locked_ms(now) or _FULL_MS)
            verdict = asyncio.get_running_loop().create_future()
            guess = _Guess(guesser, connection, proves, now, verdict)
            guesser.waiting += 1
            self._line[origin, digest] = guess
            self._joined.set()
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._work())
        guess.askers.append(gone)
        # Shielded: others may wait for the same proof, and a guess counts whoever leaves.
        return await asyncio.shield(guess.verdict)

    def _guesser(self, origin: bytes) -> _Guesser:
        known = self._guessers.get(origin)
        if known is not None:
            self._guessers.move_to_end(origin)
            return known
        if len(self._guessers) >= MAX_GUESSERS:
            idle = (origin for origin, guesser in self._guessers.items() if not guesser.waiting)
            self._guessers.pop(next(idle, b""), None)
        self._guessers[origin] = made = _Guesser()
        return made

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._line:
            self._drop_gone()
            now = self._now_ms()
            ready = [
                key
                for key, guess in self._line.items()
                if guess.guesser.free_at <= loop.time() or not guess.guesser.locked_ms(now)
            ]
            if ready:
                turns = {key: self._line[key].turn(now) for key in ready}
                await self._prove(min(ready, key=turns.__getitem__))
            elif self._line:
                soonest = min(guess.guesser.free_at for guess in self._line.values())
                self._joined.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(soonest):
                        await self._joined.wait()

    async def _prove(self, key: tuple[bytes, bytes]) -> None:
        """Prove a guess and let it leave; one whose proof fails, too, or its askers and the whole
        line would wait for ever."""
        self._under_way = guess = self._line[key]
        try:
            self._leave(key, await self._proof(guess))
        except Exception as error:
            self._leave(key, error)
        finally:
            # What proves it holds the password.
            self._under_way = None

    async def _proof(self, guess: _Guess) -> Verdict:
        guesser = guess.guesser
        locked = guesser.locked_ms(self._now_ms())
        begun = asyncio.get_running_loop().time()
        if await asyncio.to_thread(guess.proves):
            return Verdict(right=True)
        guesser.connections.append(guess.connection)
        if locked:
            guesser.free_at = begun + self._pace
            return Verdict(right=False, wait_ms=locked)
        guesser.was_wrong(self._now_ms())
        return Verdict(right=False)

    def _drop_gone(self) -> None:
        dropped = [
            key
            for key, guess in self._line.items()
            if guess is not self._under_way and all(gone() for gone in guess.askers)
        ]
        for key in dropped:
            self._leave(key, Verdict(right=False))

    def _leave(self, key: tuple[bytes, bytes], verdict: Verdict | Exception) -> None:
        guess = self._line.pop(key)
        guess.guesser.waiting -= 1
        if isinstance(verdict, Exception):
            guess.verdict.set_exception(verdict)
        else:
            guess.verdict.set_result(verdict)

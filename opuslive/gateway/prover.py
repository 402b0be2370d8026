"""Proofs by bcrypt, one at a time, so that guesses at one key hold up nobody else.

A guess gets as far as this only with a right checksum: its maker has a copy of the database, which
has the checksum's key. Work for such guesses is bounded for each key. ``MAX_GUESSES`` proofs of a
key may be under way or have failed lately, and a failed one counts until ``MS_PER_GUESS`` have
passed for it and for each that failed before it. Whatever comes beyond is refused without a proof.
So is the key's own secret then, unless it was proven before: nothing but a proof tells them apart.

Among the proofs that wait, one of the key that failed least lately comes first, and keys that
failed equally take turns. So the first proof of a key that nobody guesses at waits for one proof
under way and for others of its kind, however many keys are guessed at.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.holder import Holder
from opuslive.keys import proves

#: Proofs (a few ms each) of one key that may be under way or have failed lately.
MAX_GUESSES = 10
#: After so many ms one more proof of a key may fail.
MS_PER_GUESS = 1_000


class Prover:
    """Runs proofs in one worker thread. ``elapsed_ms`` is a clock that never goes back, in ms."""

    def __init__(self, elapsed_ms: Callable[[], int]) -> None:
        self._elapsed_ms = elapsed_ms
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt")
        self._busy = False
        #: Who waits for the worker. At most ``MAX_GUESSES`` of a key do, see ``begin``.
        self._waiting: dict[Holder, deque[asyncio.Future[None]]] = {}

    def begin(self, holder: Holder) -> None:
        """Count a proof of the key as under way. ``matching`` has to follow, which ends it.

        Raises OpusLiveError (overloaded) if too many are, or failed lately.
        """
        if holder.proofs_under_way + self._failures(holder) >= MAX_GUESSES:
            raise OpusLiveError(
                Code.OVERLOADED,
                "Too many wrong secrets of this key are being tried; try again.",
                retry_after=1,
            )
        holder.proofs_under_way += 1

    async def matching(
        self, holder: Holder, credential: str, hashes: Sequence[bytes]
    ) -> bytes | None:
        """Which of the hashes is that of the credential, once it is the key's turn."""
        try:
            await self._turn(holder)
            try:
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self._worker, _matching, credential, hashes)
                if found is None:
                    since = max(holder.failures_count_until, self._elapsed_ms())
                    holder.failures_count_until = since + MS_PER_GUESS
            finally:
                self._pass_on(holder)
        finally:
            holder.proofs_under_way -= 1
        return found

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _failures(self, holder: Holder) -> int:
        """How many failed proofs of the key count now."""
        left = holder.failures_count_until - self._elapsed_ms()
        return max(0, -(-left // MS_PER_GUESS))

    async def _turn(self, holder: Holder) -> None:
        if not self._busy:
            self._busy = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(holder, deque()).append(turn)
        await turn

    def _pass_on(self, done: Holder) -> None:
        """Give the worker to the next that waits; others of the key that had it come last."""
        if done in self._waiting:
            self._waiting[done] = self._waiting.pop(done)
        while self._waiting:
            # The first one that failed least.
            holder = min(self._waiting, key=self._failures)
            turns = self._waiting[holder]
            turn = turns.popleft()
            if not turns:
                del self._waiting[holder]
            if not turn.done():  # cancelled: the process ends
                turn.set_result(None)
                return
        self._busy = False


def _matching(credential: str, hashes: Sequence[bytes]) -> bytes | None:
    return next((each for each in hashes if proves(credential, each)), None)

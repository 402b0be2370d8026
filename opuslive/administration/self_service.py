"""What holders do with their own keys: replace the secret, and cut what runs.

Both need the key's present secret. An old one in its grace lets requests in and does nothing here:
else whoever stole it would take the key over in the very hour in which its holder got rid of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from opuslive.administration.keys import Administration
from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.holder import Cut, Holder
from opuslive.keys import Key, hash_credential, next_credential, with_secret
from opuslive.storage import Storage
from opuslive.times import MINUTE_MS, Clock

#: The longest grace, in hours, for which a holder may let the old secret go on working.
MAX_GRACE_HOURS = 24
#: ms from one replacement of a key's secret by its holder to the next.
PAUSE_MS = MINUTE_MS


@dataclass(frozen=True, slots=True)
class Replaced:
    """A key with a new secret, its credential, and how many requests were cut."""

    key: Key
    credential: str = field(repr=False)
    cut: int


class SelfService:
    """Operations of holders. ``allowed`` tells whether the administrator lets them."""

    def __init__(
        self,
        administration: Administration,
        authenticator: Authenticator,
        storage: Storage,
        clock: Clock,
        allowed: Callable[[], bool],
    ) -> None:
        self._administration = administration
        self._authenticator = authenticator
        self._storage = storage
        self._clock = clock
        self._allowed = allowed

    async def replace_secret(
        self, credentials: Sequence[str], grace_seconds: float, *, cut: bool
    ) -> Replaced:
        """Give the key of one of the credentials a new secret; the present one works for
        ``grace_seconds`` more. With ``cut`` its running requests are broken off then.

        Raises OpusLiveError: invalid_key, also for a key that is disabled or expired; forbidden;
        invalid_request for too long a grace; rate_limited, if that was done within a minute;
        conflict, if the key gets another secret meanwhile; and StorageUnavailable.
        """
        holder, proven = await self._prove(credentials)
        self._check_usable(proven)
        if not 0 <= grace_seconds <= MAX_GRACE_HOURS * 3600:
            raise UsageError(f"The old secret may go on working for {MAX_GRACE_HOURS}h at most.")
        before, holder.replaced_at = holder.replaced_at, self._turn(holder)
        try:
            key, credential = await self._replace(proven, grace_seconds)
        except BaseException:
            holder.replaced_at = before
            raise
        return Replaced(key, credential, holder.cut(Cut.HOLDER_ASKED) if cut else 0)

    async def cut(self, credentials: Sequence[str]) -> tuple[Key, int]:
        """Break off what runs with the key of one of the credentials; return the key, whatever its
        state, and how many requests that were.

        Raises OpusLiveError: invalid_key, forbidden.
        """
        holder, key = await self._prove(credentials)
        return key, holder.cut(Cut.HOLDER_ASKED)

    async def _replace(self, proven: Key, grace_seconds: float) -> tuple[Key, str]:
        credential = next_credential(proven, self._storage.checksum_key)
        secret_hash = await asyncio.to_thread(hash_credential, credential)
        until = None
        if grace_seconds > 0:
            until = self._clock.wall_ms() + round(grace_seconds * 1000)

        def replaced(key: Key) -> Key:
            if key.secret_hash != proven.secret_hash:
                raise OpusLiveError(Code.CONFLICT, "The key has got another secret meanwhile.")
            self._check_usable(key)
            # An invitation stays: it is the administrator's word, which no thief may take back.
            return with_secret(key, secret_hash, until)

        return await self._administration.renew(proven.id, replaced), credential

    def _turn(self, holder: Holder) -> int:
        """The moment of this replacement. Raises OpusLiveError if it comes too soon."""
        now = self._clock.elapsed_ms()
        if holder.replaced_at is not None:
            left = holder.replaced_at + PAUSE_MS - now
            if left > 0:
                raise OpusLiveError(
                    Code.RATE_LIMITED,
                    "The secret of this API key was replaced less than a minute ago; the one that "
                    "was made then is to be used.",
                    retry_after=-(-left // 1000),
                )
        return now

    async def _prove(self, credentials: Sequence[str]) -> tuple[Holder, Key]:
        proven = await self._authenticator.prove_secret(credentials)
        if not self._allowed():
            raise OpusLiveError(
                Code.FORBIDDEN,
                "Holders may not do this themselves on this gateway; ask "
                f"{self._authenticator.contact}.",
            )
        return proven

    def _check_usable(self, key: Key) -> None:
        unusable = self._authenticator.why_unusable(key)
        if unusable is not None:
            raise OpusLiveError(Code.INVALID_KEY, unusable)

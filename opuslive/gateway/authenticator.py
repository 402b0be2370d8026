"""Who is asking: from a credential to the holder of a proven key.

All keys are in memory, by id. A credential is looked up by the id in it, and a keyed checksum
tells in microseconds whether this gateway made it at all. The secret itself is proven with bcrypt
once, in a worker thread; after that the holder has a keyed digest of the credential, and proving
it again is one comparison. Digests are forgotten whenever the key changes.

Guessing fills nothing here. Digests are kept for proven credentials, at most two a key, and for
the last few credentials that had a right checksum and yet did not prove their key: secrets that
were rotated away, which would cost a proof each time. Requests that bring the same credential
share one proof; ``prover`` bounds the proofs of each key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.holder import Holder, Holders
from opuslive.gateway.prover import Prover
from opuslive.keys import Key, checksum_matches, key_id_of


class Authenticator:
    """Proves credentials.

    ``now_ms`` tells the wall-clock time in ms since the epoch; ``contact`` is whom holders ask.
    """

    def __init__(
        self,
        holders: Holders,
        checksum_key: bytes,
        prover: Prover,
        now_ms: Callable[[], int],
        contact: str,
    ) -> None:
        self._holders = holders
        self._checksum_key = checksum_key
        self._now_ms = now_ms
        self.contact = contact
        self._digest_key = secrets.token_bytes(32)
        #: Identity of a key, and a credential's digest → the proof under way. Requests with the
        #: same credential share it, unless the key has changed since (it is another object then).
        self._proving: dict[tuple[int, bytes], asyncio.Future[tuple[Key, bool]]] = {}
        self._prover = prover

    async def prove(self, credentials: Sequence[str]) -> Holder:
        """The holder whose key one of the credentials proves, whatever the key's state.

        Raises OpusLiveError: invalid_key, or overloaded while too many guess at the key.
        """
        for credential in credentials:
            holder = await self._holder_of(credential)
            if holder is not None:
                return holder
        raise self._unproven()

    async def authenticate(self, credentials: Sequence[str]) -> Holder:
        """The holder whose key one of the credentials proves, if the key may be used now.

        Raises OpusLiveError like ``prove``, and invalid_key for one that is disabled or expired.
        """
        unusable: str | None = None
        for credential in credentials:
            holder = await self._holder_of(credential)
            if holder is None:
                continue
            unusable = self.why_unusable(holder.key)
            if unusable is None:
                return holder
        raise OpusLiveError(Code.INVALID_KEY, unusable) if unusable else self._unproven()

    def why_unusable(self, key: Key) -> str | None:
        """Why a key that was proven may not be used now, in a sentence for its holder."""
        if not key.enabled:
            return f"This API key is disabled; ask {self.contact} to enable it."
        if key.expired(self._now_ms()):
            return f"This API key has expired; ask {self.contact} for a new date."
        return None

    async def prove_secret(self, credentials: Sequence[str]) -> tuple[Holder, Key]:
        """The holder whose key one of the credentials proves by its present secret, whatever the
        key's state, and the key that was proven. (A change of it may have begun since.)

        Raises OpusLiveError like ``prove``, and forbidden for an old secret in its grace: whoever
        has only that, be it a thief or a forgotten machine, may use the key for now and no more.
        """
        proven: Holder | None = None
        for credential in credentials:
            holder = await self._holder_of(credential)
            if holder is not None:
                if holder.proven.get(self._digest(credential), 0) is None:
                    return holder, holder.key
                proven = holder
        if proven is None:
            raise self._unproven()
        raise OpusLiveError(
            Code.FORBIDDEN,
            "This is an old secret of the API key; only the present one may do this. If you don't "
            f"have that one, ask {self.contact}.",
        )

    def _unproven(self) -> OpusLiveError:
        # (Claude Code hides a sentence that names the other header, x-api-key.)
        return OpusLiveError(
            Code.INVALID_KEY,
            "Invalid API key. Send a key of this gateway as 'Authorization: Bearer …'; "
            f"if yours does not work, ask {self.contact}.",
        )

    def close(self) -> None:
        self._prover.close()

    async def _holder_of(self, credential: str) -> Holder | None:
        key_id = key_id_of(credential)
        holder = None if key_id is None else self._holders.get(key_id)
        if holder is None:
            return None
        digest = self._digest(credential)
        if self._is_proven(holder, digest):
            return holder
        if not checksum_matches(credential, self._checksum_key):
            return None
        return await self._prove(holder, credential, digest)

    def _is_proven(self, holder: Holder, digest: bytes) -> bool:
        for known, good_until in holder.proven.items():
            if hmac.compare_digest(known, digest):
                return good_until is None or self._now_ms() < good_until
        return False

    async def _prove(self, holder: Holder, credential: str, digest: bytes) -> Holder | None:
        while not holder.leaving and digest not in holder.disproven:
            # Shielded: others may wait for the same proof.
            tried, proven = await asyncio.shield(self._proof(holder, credential, digest))
            if holder.key is tried and not holder.leaving:
                return holder if proven else None
            # Changed or deleted while the proof ran: what it proved may be void.
        return None

    def _proof(
        self, holder: Holder, credential: str, digest: bytes
    ) -> asyncio.Future[tuple[Key, bool]]:
        """The proof of this credential that is under way, or a new one.

        Its result is the key as it was when the proof began, and whether it is proven.
        """
        what = id(holder.key), digest
        proof = self._proving.get(what)
        if proof is None:
            self._prover.begin(holder)
            proof = self._proving[what] = asyncio.ensure_future(
                self._try(holder, credential, digest)
            )
            proof.add_done_callback(lambda _: self._proving.pop(what))
        return proof

    async def _try(self, holder: Holder, credential: str, digest: bytes) -> tuple[Key, bool]:
        """Prove the credential against the key's secret, or the old one in its grace."""
        key = holder.key
        #: Hash → until when it proves the key.
        hashes: dict[bytes, int | None] = {}
        if key.secret_hash is not None:
            hashes[key.secret_hash] = None
        good_until = key.previous_expires_at
        if key.previous_hash is not None and good_until is not None and self._now_ms() < good_until:
            hashes.setdefault(key.previous_hash, good_until)
        found = await self._prover.matching(holder, credential, tuple(hashes))
        if holder.key is not key or holder.leaving:
            return key, False
        if found is None:
            holder.disproven.append(digest)
            return key, False
        holder.proven[digest] = hashes[found]
        return key, True

    def _digest(self, credential: str) -> bytes:
        return hashlib.blake2b(
            credential.encode("ascii"), key=self._digest_key, digest_size=32
        ).digest()

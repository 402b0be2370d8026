"""Who is asking: from a credential to a proven key.

All keys are in memory, by id. A credential is looked up by the id in it, and a keyed
checksum tells in microseconds whether this gateway made it at all. The secret itself is
proven with bcrypt once, in a worker thread; after that a keyed digest of the credential
stands in a table, and proving it again is one comparison. A key's digests are
forgotten whenever the key changes.

Nothing here can be filled by guessing. Digests are kept of proven credentials, at most two
a key, and of the last few that had a right checksum and yet did not prove their key: secrets
that were rotated away, which would cost a proof each time. Requests that bring the same
credential share one proof, and no more than ``MAX_PROOFS`` wait at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from opuslive.errors import Code, OpusLiveError
from opuslive.keys import Key, checksum_matches, key_id_of, proves

#: Proofs by bcrypt (a few ms each) that may wait for the worker thread at a time.
MAX_PROOFS = 256
#: Credentials remembered of each key that did not prove it.
MAX_REFUTED = 8

_UNPROVEN = (
    "Invalid API key. Send a key of this gateway as 'Authorization: Bearer …' or 'x-api-key: …'; "
    "if yours does not work, ask the administrator."
)


class Authenticator:
    """The keys in memory. ``now_ms`` tells the time in ms since the epoch."""

    def __init__(self, checksum_key: bytes, now_ms: Callable[[], int]) -> None:
        self._checksum_key = checksum_key
        self._now_ms = now_ms
        self._keys: dict[str, Key] = {}
        self._digest_key = secrets.token_bytes(32)
        #: Of each key the digests of its proven credentials, and until when they are good.
        self._proven: dict[str, dict[bytes, int | None]] = {}
        #: Of each key the digests of credentials that did not prove it, such as an old secret.
        self._refuted: dict[str, deque[bytes]] = {}
        #: The proofs under way: who brings the same credential shares the proof, unless the key
        #: has changed since it began (each change makes another object).
        self._proving: dict[tuple[int, bytes], asyncio.Future[tuple[Key, bool]]] = {}
        self._prover = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt")

    def load(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.put(key)

    def put(self, key: Key) -> None:
        """Add the key, or take over its changes."""
        self._keys[key.id] = key
        self._forget(key.id)

    def remove(self, key_id: str) -> None:
        """Forget the key: from now on its credential is unknown."""
        self._keys.pop(key_id, None)
        self._forget(key_id)

    def _forget(self, key_id: str) -> None:
        self._proven.pop(key_id, None)
        self._refuted.pop(key_id, None)

    def all_keys(self) -> Sequence[Key]:
        return tuple(self._keys.values())

    def get(self, key_id: str) -> Key | None:
        return self._keys.get(key_id)

    async def prove(self, credentials: Sequence[str]) -> Key:
        """The key that one of the credentials proves, whatever its state.

        Raises OpusLiveError: invalid_key, or overloaded while too many proofs wait.
        """
        for credential in credentials:
            key = await self._key_of(credential)
            if key is not None:
                return key
        raise OpusLiveError(Code.INVALID_KEY, _UNPROVEN)

    async def authenticate(self, credentials: Sequence[str]) -> Key:
        """The key that one of the credentials proves, if it may be used now.

        Raises OpusLiveError like ``prove``, and invalid_key for one that is disabled or expired.
        """
        unusable = ""
        for credential in credentials:
            key = await self._key_of(credential)
            if key is None:
                continue
            if not key.enabled:
                unusable = "This API key is disabled; ask the administrator to enable it."
            elif key.expired(self._now_ms()):
                unusable = "This API key has expired; ask the administrator for a new date."
            else:
                return key
        raise OpusLiveError(Code.INVALID_KEY, unusable or _UNPROVEN)

    def close(self) -> None:
        self._prover.shutdown(wait=False, cancel_futures=True)

    async def _key_of(self, credential: str) -> Key | None:
        return self._proven_key(credential) or await self._prove(credential)

    def _proven_key(self, credential: str) -> Key | None:
        key_id = key_id_of(credential)
        proven = None if key_id is None else self._proven.get(key_id)
        if key_id is None or proven is None:
            return None
        digest = self._digest(credential)
        for known, good_until in proven.items():
            if hmac.compare_digest(known, digest) and (
                good_until is None or self._now_ms() < good_until
            ):
                return self._keys.get(key_id)
        return None

    async def _prove(self, credential: str) -> Key | None:
        key_id = key_id_of(credential)
        if key_id is None or not checksum_matches(credential, self._checksum_key):
            return None
        digest = self._digest(credential)
        while True:
            key = self._keys.get(key_id)
            if key is None or digest in self._refuted.get(key_id, ()):
                return None
            # Shielded: others may wait for the same proof.
            tried, proven = await asyncio.shield(self._proof(key, credential, digest))
            if self._keys.get(key_id) is tried:
                return tried if proven else None
            # Changed or deleted while the proof ran: what it proved may be void.

    def _proof(self, key: Key, credential: str, digest: bytes) -> asyncio.Future[tuple[Key, bool]]:
        """The proof of this credential that is under way, or a new one.

        Its result is the key as it was when the proof began, and whether it is proven.
        """
        what = id(key), digest
        proof = self._proving.get(what)
        if proof is None:
            if len(self._proving) >= MAX_PROOFS:
                raise OpusLiveError(
                    Code.OVERLOADED, "Too many keys are being checked; try again.", retry_after=1
                )
            proof = self._proving[what] = asyncio.ensure_future(self._try(key, credential, digest))
            proof.add_done_callback(lambda _: self._proving.pop(what))
        return proof

    async def _try(self, key: Key, credential: str, digest: bytes) -> tuple[Key, bool]:
        """Prove the credential against the key's secret, or the old one in its grace."""
        hashes: list[tuple[bytes, int | None]] = [(key.secret_hash, None)]
        good_until = key.previous_expires_at
        if key.previous_hash is not None and good_until is not None and self._now_ms() < good_until:
            hashes.append((key.previous_hash, good_until))
        loop = asyncio.get_running_loop()
        for secret_hash, until in hashes:
            proven = await loop.run_in_executor(self._prover, proves, credential, secret_hash)
            if self._keys.get(key.id) is not key:
                return key, False
            if proven:
                self._proven.setdefault(key.id, {})[digest] = until
                return key, True
        self._refuted.setdefault(key.id, deque(maxlen=MAX_REFUTED)).append(digest)
        return key, False

    def _digest(self, credential: str) -> bytes:
        return hashlib.blake2b(
            credential.encode("ascii"), key=self._digest_key, digest_size=32
        ).digest()

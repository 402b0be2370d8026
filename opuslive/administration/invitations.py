"""Invitations: a link by which the holder of a key makes its next secret, seen by nobody else.

The link ends in a code behind a ``#``, which browsers send to nobody. Whoever posts the code gets
the secret, made in that moment; the key has its hash and no invitation any more from one
transaction on, and only then the secret is shown. So a link works once, whoever else uses it at the
same time. Until then it changes nothing: a key that was made with it has no secret, and the secret
of one that was in use goes on working. It stops in the moment in which the new one is made.

A key has one invitation at most: a new one voids the one before, and so does a secret that the
administrator makes. While the key is disabled or expired the invitation gives nothing, and is not
used up either. What is over is erased: when the secret is made, when the invitation is called back,
within ``LOOK_SECONDS`` after it has expired (at the next start if no server runs), and with the
key.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from opuslive.administration.keys import Administration, KeyChanges
from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.holder import Holders
from opuslive.keys import (
    Invitation,
    Key,
    hash_code,
    hash_credential,
    new_code,
    next_credential,
    with_secret,
)
from opuslive.storage import Storage
from opuslive.times import DAY_MS, Clock

#: How long an invitation is good.
DAYS = 7
#: The page that a link leads to.
PATH = "/invite"
#: Seconds between two looks for invitations that have expired.
LOOK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Invited:
    """A key with a new invitation, and its link, which can't be had again."""

    key: Key
    link: str = field(repr=False)


class Invitations:
    """Operations on invitations. Each may raise StorageUnavailable.

    ``public_url`` tells the address of the gateway, None if nobody has configured it.
    """

    def __init__(
        self,
        administration: Administration,
        authenticator: Authenticator,
        storage: Storage,
        holders: Holders,
        clock: Clock,
        public_url: Callable[[], str | None],
    ) -> None:
        self._administration = administration
        self._authenticator = authenticator
        self._storage = storage
        self._holders = holders
        self._now_ms = clock.wall_ms
        self._public_url = public_url
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    # For the administrator.

    async def create(self, changes: KeyChanges) -> Invited:
        """Make a key without a secret, and an invitation to make it.

        Raises OpusLiveError as ``Administration.create`` does, and as ``invite`` does.
        """
        code, link = self._new_link()
        key = await self._administration.create_invited(changes, self._invitation(code))
        return Invited(key, link)

    async def invite(self, reference: str) -> Invited:
        """Give a key an invitation, in the place of the one that it may have.

        Raises OpusLiveError: not_found, or invalid_request where the gateway does not know its
        address.
        """
        code, link = self._new_link()
        invitation = self._invitation(code)
        key = await self._administration.renew(
            reference, lambda key: replace(key, invitation=invitation)
        )
        return Invited(key, link)

    async def revoke(self, reference: str) -> Key:
        """Call the invitation of a key back. Raises OpusLiveError (not_found)."""

        def without(key: Key) -> Key:
            if not key.invited(self._now_ms()):
                raise OpusLiveError(
                    Code.NOT_FOUND,
                    "There is no invitation to call back: it was used, is over, or was never made.",
                )
            return replace(key, invitation=None)

        return await self._administration.renew(reference, without)

    def _new_link(self) -> tuple[str, str]:
        """A new code, and the link that ends in it. Raises UsageError."""
        public_url = self._public_url()
        if public_url is None:
            raise UsageError(
                "An invitation is a link to this gateway, whose address nobody has configured: set "
                "public_url in [server] and run 'opuslive reload', or make the key without an "
                "invitation."
            )
        code = new_code()
        return code, f"{public_url.rstrip('/')}{PATH}#{code}"

    def _invitation(self, code: str) -> Invitation:
        return Invitation(hash_code(code), self._now_ms() + DAYS * DAY_MS)

    # For whoever has the code.

    def knows(self, code: str) -> bool:
        """Whether the code is that of a good invitation. Takes microseconds, in any thread."""
        return self._invited(hash_code(code)) is not None

    async def redeem(self, code: str) -> tuple[Key, str]:
        """Make the secret; return the key and its credential, which can't be had again.

        Raises OpusLiveError: not_found for a code that is not good, or not any more; forbidden
        while the key is disabled or expired.
        """
        code_hash = hash_code(code)
        invited = self._invited(code_hash)
        if invited is None:
            raise self.void()
        self._check_usable(invited)
        credential = next_credential(invited, self._storage.checksum_key)
        secret_hash = await asyncio.to_thread(hash_credential, credential)

        def redeemed(key: Key) -> Key:
            if not self._lets_in(key, code_hash):
                raise self.void()
            self._check_usable(key)
            return replace(with_secret(key, secret_hash), invitation=None)

        try:
            return await self._administration.renew(invited.id, redeemed), credential
        except OpusLiveError as error:
            if error.code is Code.NOT_FOUND:  # The key may have been deleted meanwhile.
                raise self.void() from None
            raise

    def _invited(self, code_hash: bytes) -> Key | None:
        holder = self._holders.invited(code_hash)
        return holder.key if holder is not None and self._lets_in(holder.key, code_hash) else None

    def _lets_in(self, key: Key, code_hash: bytes) -> bool:
        invitation = key.invitation
        if invitation is None or invitation.expired(self._now_ms()):
            return False
        return hmac.compare_digest(invitation.code_hash, code_hash)

    def _check_usable(self, key: Key) -> None:
        unusable = self._authenticator.why_unusable(key)
        if unusable is not None:
            raise OpusLiveError(
                Code.FORBIDDEN, f"{unusable} The invitation is not used up by this."
            )

    def void(self) -> OpusLiveError:
        """What whoever has a code that is not good is told."""
        return OpusLiveError(
            Code.NOT_FOUND,
            "This invitation is not good: it works once and for "
            f"{DAYS} days, unless it is called back before. If you have not got your key, ask "
            f"{self._authenticator.contact} for another invitation.",
        )

    # What is over.

    def start(self) -> None:
        """Erase invitations when they have expired, until ``close``."""
        self._look()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            await self._looking

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self.erase_expired())

    async def erase_expired(self) -> None:
        """Erase the invitations that have expired. What can't be erased now is at the next look."""
        now = self._now_ms()

        def lasting(key: Key) -> Key:
            return key if key.invited(now) else replace(key, invitation=None)

        for holder in self._holders.all_invited():
            if holder.key.invited(now):
                continue
            try:
                await self._administration.renew(holder.key.id, lasting)
            except OpusLiveError:
                # It was deleted meanwhile; or the disk takes no writes, which the log says.
                continue

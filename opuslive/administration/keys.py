"""What an administrator does with keys: one implementation behind every interface.

Each operation changes the store first and what the gateway holds in memory right after,
so that a change takes effect with the next request, and one that can't be stored changes nothing.
Deleting is the other way about: the key stops working and its running requests are cut before its
traces are erased. A change that has begun is carried through, also if its caller is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from opuslive.administration.choosing import Chosen, blamed_on
from opuslive.administration.raises import CallLater, RaiseTimer, raise_of
from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.gateway.admission.admission import Admission, LimitChange
from opuslive.gateway.admission.shares import Share, SharedAmount
from opuslive.gateway.holder import Cut, Holder, Holders
from opuslive.keys import (
    Invitation,
    Key,
    Raise,
    display_prefix,
    hash_credential,
    new_credential,
    new_key_id,
    next_credential,
    with_secret,
)
from opuslive.limits.grammar import Limit, parse_limits
from opuslive.limits.raises import lasting, standing, with_raise
from opuslive.quantities import parse_when
from opuslive.storage import DatabaseDamaged, KeyUsage, Storage, StorageUnavailable
from opuslive.times import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Characters that a key's or a group's name, and a model glob, may have.
MAX_NAME = 100
#: Globs and limits that one key may have.
MAX_ENTRIES = 50


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """Fields to set; None leaves a field as it is. ``expires_at`` is in ms since the epoch and
    counts only with ``set_expiry``, since None there means never; likewise ``group``, and
    ``raised``, where None takes every raise back.
    ``limits`` replaces all limits, the other two change single ones."""

    name: str | None = None
    enabled: bool | None = None
    models: tuple[str, ...] | None = None
    limits: tuple[str, ...] | None = None
    add_limits: tuple[str, ...] = ()
    remove_limits: tuple[str, ...] = ()
    set_expiry: bool = False
    expires_at: int | None = None
    set_group: bool = False
    group: str | None = None
    set_raise: bool = False
    raised: Raise | None = None

    @classmethod
    def from_members(cls, members: Mapping[str, Any], now_ms: int) -> KeyChanges:
        """The changes that the members of a JSON object describe; a member of null sets nothing,
        but takes away the expiry, the group and the raises. ``now_ms`` is in ms since the epoch.

        Raises UsageError for a member of another type, and as ``expiry_at`` and ``raise_of`` do.
        """
        expires = text_member(members, "expires")
        raised = members.get("raise")
        return cls(
            name=text_member(members, "name"),
            enabled=flag_member(members, "enabled"),
            models=_texts_member(members, "models"),
            limits=_texts_member(members, "limits"),
            add_limits=_texts_member(members, "add_limits") or (),
            remove_limits=_texts_member(members, "remove_limits") or (),
            set_expiry="expires" in members,
            expires_at=None if expires is None else expiry_at(expires, now_ms),
            set_group="group" in members,
            group=text_member(members, "group"),
            set_raise="raise" in members,
            raised=None if raised is None else raise_of(raised, now_ms),
        )


@dataclass(frozen=True, slots=True)
class Deletion:
    """A key that was deleted, how many records are gone, and what no longer counts in the limits
    that it shared."""

    key: Key
    erased_records: int
    shared: Sequence[SharedAmount]


class Administration:
    """Operations on keys. Each may raise StorageUnavailable, and UsageError for a bad value."""

    def __init__(
        self,
        storage: Storage,
        holders: Holders,
        admission: Admission,
        clock: Clock,
        *,
        key_prefix: str,
        default_limits: Sequence[Limit],
        call_later: CallLater,
    ) -> None:
        """``call_later`` calls a function after so many seconds."""
        self._storage = storage
        self._holders = holders
        self._admission = admission
        self._clock = clock
        self.use_defaults(key_prefix, default_limits)
        #: Two changes of a key must not both start from the same state of it.
        self._changing = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()
        #: Deletions of which what the key used still counts in the limits that it shared.
        self._counted: set[asyncio.Future[None]] = set()
        self._raises = RaiseTimer(holders, clock.wall_ms, call_later, self._raises_due)

    def start(self) -> None:
        """Let raises end by themselves, until ``stop``."""
        self._raises.start()

    def stop(self) -> None:
        self._raises.stop()

    def use_defaults(self, key_prefix: str, default_limits: Sequence[Limit]) -> None:
        """What new keys begin with, and the limits of those made without any."""
        self._key_prefix = key_prefix
        self._default_limits = tuple(map(str, default_limits))

    @contextlib.asynccontextmanager
    async def keys_unchanged(self) -> AsyncIterator[None]:
        """Let no key be made, changed or deleted meanwhile: that waits. Of keys whose deletion has
        begun before nothing counts any more in shared limits."""
        async with self._changing:
            if self._counted:
                await asyncio.wait(self._counted)
            yield

    def now_ms(self) -> int:
        """The wall clock, in ms since the epoch."""
        return self._clock.wall_ms()

    def find(self, reference: str) -> Key:
        """The key with this id, display prefix or name. Raises OpusLiveError (not_found)."""
        return self._holders.find(reference).key

    def all_keys(self) -> Sequence[Key]:
        """Every key, oldest first."""
        return self._holders.all_keys()

    async def usage_of(self, key: Key) -> KeyUsage:
        return await self._storage.key_usage(key.id)

    async def all_usage(self) -> Mapping[str, KeyUsage]:
        """What each key has used, by its id; keys that used nothing may be missing."""
        return await self._storage.all_key_usage()

    async def shared_by(self, key: Key) -> Sequence[SharedAmount]:
        """What the key has used of limits that it shares, as far as that still counts: what would
        count no longer if the key were deleted."""
        return (await self._share_of(self._holders.find(key.id))).amounts()

    async def create(self, changes: KeyChanges) -> tuple[Key, str]:
        """Make a key; return it and its credential, which can't be had again.

        Raises OpusLiveError (conflict) if the name is taken.
        """
        key_id = new_key_id()
        credential = new_credential(self._key_prefix, key_id, self._storage.checksum_key)
        secret_hash = await asyncio.to_thread(hash_credential, credential)
        return await self._made(changes, key_id, secret_hash, None), credential

    async def create_invited(self, changes: KeyChanges, invitation: Invitation) -> Key:
        """Make a key without a secret, which an invitation lets its holder make.

        Raises OpusLiveError (conflict) if the name is taken.
        """
        return await self._made(changes, new_key_id(), None, invitation)

    async def _made(
        self,
        changes: KeyChanges,
        key_id: str,
        secret_hash: bytes | None,
        invitation: Invitation | None,
    ) -> Key:
        if changes.name is None:
            raise UsageError("A key needs a name.")
        limits = self._default_limits if changes.limits is None else changes.limits
        blank = Key(
            id=key_id,
            name=changes.name,
            prefix=display_prefix(self._key_prefix, key_id),
            created_at=self.now_ms(),
            secret_hash=secret_hash,
            invitation=invitation,
        )
        key = self._changed(blank, replace(changes, limits=limits))
        await self._carried_through(self._create(key))
        return key

    async def _create(self, key: Key) -> None:
        async with self._changing:
            await self._storage.add_key(key)
            self._holders.add(Holder(key, self._clock.steady_ms()))

    async def update(self, reference: str, changes: KeyChanges) -> Key:
        """Raises OpusLiveError: not_found, or conflict if the new name is taken."""
        (key,) = await self.update_many(Chosen([reference]), changes)
        return key

    async def update_many(self, chosen: Chosen, changes: KeyChanges) -> Sequence[Key]:
        """Change all these keys in one transaction, or none.

        Raises OpusLiveError as ``update`` does; it names the key at fault if there are several.
        """
        return await self._carried_through(self._update(chosen, changes))

    async def _update(self, chosen: Chosen, changes: KeyChanges) -> Sequence[Key]:
        async with self._changing:
            holders = chosen.of(self._holders)
            several = len(holders) > 1
            if several and changes.name is not None:
                raise UsageError("A name belongs to one key; name that key alone to change it.")
            keys = []
            for holder in holders:
                with blamed_on(holder.key, of_several=several):
                    keys.append(self._changed(holder.key, changes))
            prepared: list[LimitChange] = []
            try:
                for holder, key in zip(holders, keys, strict=True):
                    prepared.append(await self._admission.prepare(holder, key))
                await self._storage.update_keys(
                    [(key, change.at) for key, change in zip(keys, prepared, strict=True)]
                )
            except BaseException:
                for change in prepared:
                    self._admission.abandon(change)
                raise
            for key, change in zip(keys, prepared, strict=True):
                self._holders.change(change.holder, key)
                self._admission.apply(change)
            self._raises.set()
        return keys

    def _raises_due(self) -> None:
        task = asyncio.ensure_future(self.end_raises())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def end_raises(self) -> None:
        """Take back the raises that are over, once no key is being changed. Nothing is written."""
        async with self._changing:
            now = self.now_ms()
            for holder in self._holders:
                key = holder.key
                if key.raises and (left := lasting(key.raises, now)) != key.raises:
                    self._holders.change(holder, replace(key, raises=left))
                    self._admission.use_raises(holder)
            self._raises.set()

    async def rotate(
        self, reference: str, grace_seconds: float, *, replacing: bytes | None = None
    ) -> tuple[Key, str]:
        """Give the key a new secret; the old one works for ``grace_seconds`` more.

        A key has one old secret at most: that of an earlier rotation stops working at once,
        even if the grace that it was given still runs. ``replacing`` is the hash of the secret
        that is meant to become the old one (empty for a key that has none); without it, whichever
        the key has. An invitation to make the next secret is void: this one is it.
        Raises OpusLiveError: not_found, or conflict if the key's secret is not ``replacing``.
        """
        (rotated,) = await self._carried_through(
            self._rotate(
                Chosen([reference]), grace_seconds, None if replacing is None else [replacing]
            )
        )
        return rotated

    async def rotate_many(
        self, chosen: Chosen, grace_seconds: float, *, replacing: Sequence[bytes] | None = None
    ) -> Sequence[tuple[Key, str]]:
        """The same for all these keys in one transaction, or for none; ``replacing`` has the hash
        of each, in their order. Raises OpusLiveError as ``rotate`` does."""
        return await self._carried_through(self._rotate(chosen, grace_seconds, replacing))

    async def _rotate(
        self, chosen: Chosen, grace_seconds: float, replacing: Sequence[bytes] | None
    ) -> Sequence[tuple[Key, str]]:
        async with self._changing:
            holders = chosen.of(self._holders)
            present = [holder.key.secret_hash or b"" for holder in holders]
            if replacing is not None and [*replacing] != present:
                raise OpusLiveError(Code.CONFLICT, "The key has another secret meanwhile.")
            checksum_key = self._storage.checksum_key
            credentials = [next_credential(holder.key, checksum_key) for holder in holders]
            hashes = await asyncio.to_thread(lambda: [*map(hash_credential, credentials)])
            until = self.now_ms() + round(grace_seconds * 1000) if grace_seconds > 0 else None
            keys = [
                replace(with_secret(holder.key, secret_hash, until), invitation=None)
                for holder, secret_hash in zip(holders, hashes, strict=True)
            ]
            now = self._clock.steady_ms()
            await self._storage.update_keys([(key, now) for key in keys])
            for holder, key in zip(holders, keys, strict=True):
                self._holders.change(holder, key)
        return [*zip(keys, credentials, strict=True)]

    async def renew(self, reference: str, renewed: Callable[[Key], Key]) -> Key:
        """Put what ``renewed`` makes of the key in its place: one with another secret or another
        invitation, and nothing else changed. No other change of a key is under way meanwhile.

        Raises OpusLiveError (not_found), and what ``renewed`` raises.
        """
        return await self._carried_through(self._renew(reference, renewed))

    async def _renew(self, reference: str, renewed: Callable[[Key], Key]) -> Key:
        async with self._changing:
            holder = self._holders.find(reference)
            key = renewed(holder.key)
            await self._storage.update_key(key, at=self._clock.steady_ms())
            self._holders.change(holder, key)
        return key

    async def delete(self, reference: str) -> Deletion:
        """Erase the key and all its usage. Its running requests are cut and leave no record; what
        it used counts no longer in the limits that it shared.

        Raises OpusLiveError (not_found), and DatabaseDamaged if some of its usage can't be erased:
        the key is gone then, too.
        """
        return await self._carried_through(self._delete(reference))

    async def _delete(self, reference: str) -> Deletion:
        async with self._changing:
            holder = self._holders.find(reference)
            self._holders.remove(holder)
            holder.cut(Cut.KEY_DELETED)
            counted = asyncio.get_running_loop().create_future()
            self._counted.add(counted)
            counted.add_done_callback(self._counted.discard)
        # Not under the lock: an erasure may have to wait, and other keys must not wait for it.
        share: Share | None = None
        try:
            try:
                await holder.all_ended()
                share = await self._readable_share(holder)
                if share is not None:
                    share.take_out(self._clock.steady_ms())
            finally:
                counted.set_result(None)
            erased = await self._storage.delete_key(holder.key.id)
        except DatabaseDamaged:
            raise  # The key is gone.
        except StorageUnavailable:
            if await self._may_be_stored(holder):
                # Nothing was erased: it is as it was.
                if share is not None:
                    share.put_back(self._clock.steady_ms())
                self._holders.add(holder)
                self._raises.set()
            raise
        return Deletion(holder.key, erased, () if share is None else share.amounts())

    async def _readable_share(self, holder: Holder) -> Share | None:
        """The key's share; None if it stands in a damaged part of the database."""
        try:
            return await self._share_of(holder)
        except DatabaseDamaged:
            log.error(
                "What the deleted key %s used of shared limits can't be read, for the database is "
                "damaged; it counts in them until a restart.",
                holder.key.id,
            )
            return None

    async def _may_be_stored(self, holder: Holder) -> bool:
        """Whether the store still has the key, as far as it can be asked."""
        try:
            return any(stored.id == holder.key.id for stored in await self._storage.keys())
        except StorageUnavailable:
            return True

    async def _share_of(self, holder: Holder) -> Share:
        changes = await self._storage.group_changes()
        return await self._admission.share_of(holder, changes.get(holder.key.id, ()))

    async def _carried_through(self, operation: Coroutine[Any, Any, T]) -> T:
        """What the operation returns; cancelling the caller does not stop it half-way."""
        task = asyncio.ensure_future(operation)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    def _changed(self, key: Key, changes: KeyChanges) -> Key:
        if changes.name is not None:
            key = replace(key, name=checked_name(changes.name, "key"))
        if changes.enabled is not None:
            key = replace(key, enabled=changes.enabled)
        if changes.models is not None:
            key = replace(key, models=checked_globs(changes.models))
        if changes.limits is not None or changes.add_limits or changes.remove_limits:
            key = replace(key, limits=_changed_limits(key, changes))
        if changes.set_expiry:
            key = replace(key, expires_at=changes.expires_at)
        if changes.set_group:
            group = changes.group
            key = replace(key, group=None if group is None else checked_name(group, "group"))
        raises = lasting(key.raises, self.now_ms())
        if changes.set_raise:
            raised = changes.raised
            raises = () if raised is None else with_raise(key.limits, raises, raised)
        # A raise goes with its limit.
        return replace(key, raises=standing(key.limits, raises))


def _changed_limits(key: Key, changes: KeyChanges) -> tuple[str, ...]:
    """The limits that the key has after the changes, in their canonical text."""
    limits = list(parse_limits(key.limits if changes.limits is None else changes.limits))
    for unwanted in parse_limits(changes.remove_limits):
        if unwanted not in limits:
            known = ", ".join(map(str, limits)) or "none"
            raise UsageError(f"The key has no limit of {unwanted}; its limits are: {known}.")
        limits.remove(unwanted)
    for added in parse_limits(changes.add_limits):
        # A key has one limit of a metric and a window: the new one takes its place.
        limits = [limit for limit in limits if not limit.same_kind(added)] + [added]
    if len(limits) > MAX_ENTRIES:
        raise UsageError(f"A key may have at most {MAX_ENTRIES} limits.")
    return tuple(map(str, limits))


def text_member(members: Mapping[str, Any], name: str) -> str | None:
    """The text under ``name``, if there is one. Raises UsageError for anything but a text."""
    value = members.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"'{name}' is a text.")
    return value


def _texts_member(members: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"'{name}' is a list of texts.")
    return tuple(value)


def flag_member(members: Mapping[str, Any], name: str) -> bool | None:
    value = members.get(name)
    if value is not None and not isinstance(value, bool):
        raise UsageError(f"'{name}' is true or false.")
    return value


def expiry_at(text: str, now_ms: int) -> int:
    """When a key expires, in ms since the epoch, as an administrator writes it.

    Raises UsageError, for a moment that has passed as well.
    """
    at = parse_when(text, now_ms)
    if at <= now_ms:
        raise UsageError("The expiry date has passed already; give one in the future.")
    return at


def checked_name(name: str, what: str) -> str:
    """The name of a key or a group (``what``), if it can be one. Raises UsageError."""
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
        raise UsageError(
            f"A {what}'s name has 1 to {MAX_NAME} printable characters, with no space at its ends."
        )
    return name


def checked_globs(globs: Sequence[str]) -> tuple[str, ...]:
    """The model globs of a key, each once. Raises UsageError."""
    if len(globs) > MAX_ENTRIES:
        raise UsageError(f"A key may have at most {MAX_ENTRIES} model globs.")
    for glob in globs:
        if not 1 <= len(glob) <= MAX_NAME or not glob.isprintable() or " " in glob:
            raise UsageError(
                "A model glob is a model's name in which * stands for any characters, "
                "such as 'claude-opus-*'."
            )
    return tuple(dict.fromkeys(globs))

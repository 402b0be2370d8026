"""What an administrator does with keys: one implementation behind every interface.

Each operation changes the store first and what the gateway holds in memory right after,
so that a change takes effect with the next request. Deleting is the other way about: the
key stops working and its running requests are cut before its traces are erased.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from opuslive.errors import Code, OpusLiveError, UsageError
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.exchanges import Exchanges
from opuslive.keys import Key, display_prefix, hash_credential, new_credential, new_key_id
from opuslive.limits.grammar import parse_limits
from opuslive.quantities import parse_when
from opuslive.storage import KeyUsage, Storage, StorageUnavailable

#: Characters that a key's or a group's name, and a model glob, may have.
MAX_NAME = 100
#: Globs and limits that one key may have.
MAX_ENTRIES = 50


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """Fields to set; None leaves a field as it is. ``expires_at`` is in ms since the epoch and
    counts only with ``set_expiry``, since None there means never; likewise ``group``.
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


class Administration:
    """Operations on keys. Each may raise StorageUnavailable, and UsageError for a bad value."""

    def __init__(
        self,
        storage: Storage,
        authenticator: Authenticator,
        admission: Admission,
        exchanges: Exchanges,
        *,
        key_prefix: str,
        default_limits: Sequence[str],
        now_ms: Callable[[], int],
    ) -> None:
        self._storage = storage
        self._authenticator = authenticator
        self._admission = admission
        self._exchanges = exchanges
        self._key_prefix = key_prefix
        self._default_limits = tuple(default_limits)
        self._now_ms = now_ms
        #: Two changes of a key must not both start from the same state of it.
        self._changing = asyncio.Lock()

    def now_ms(self) -> int:
        return self._now_ms()

    def find(self, reference: str) -> Key:
        """The key with this id, display prefix or name. Raises OpusLiveError (not_found)."""
        keys = self._authenticator.all_keys()
        for names in (
            {key.id: key for key in keys},
            {key.prefix: key for key in keys},
            {key.name: key for key in keys},
        ):
            if reference in names:
                return names[reference]
        raise OpusLiveError(
            Code.NOT_FOUND,
            "There is no key with this id, name or prefix; 'opuslive keys list' shows them all.",
        )

    def all_keys(self) -> Sequence[Key]:
        """Every key, oldest first."""
        return sorted(self._authenticator.all_keys(), key=lambda key: (key.created_at, key.id))

    async def usage_of(self, key: Key) -> KeyUsage:
        return await self._storage.key_usage(key.id)

    async def all_usage(self) -> Mapping[str, KeyUsage]:
        """What each key has used, by its id; keys that used nothing may be missing."""
        return await self._storage.all_key_usage()

    async def create(self, changes: KeyChanges) -> tuple[Key, str]:
        """Make a key; return it and its credential, which can't be had again.

        Raises OpusLiveError (conflict) if the name is taken.
        """
        if changes.name is None:
            raise UsageError("A key needs a name.")
        key_id = new_key_id()
        credential = new_credential(self._key_prefix, key_id, self._storage.checksum_key)
        limits = self._default_limits if changes.limits is None else changes.limits
        blank = Key(
            id=key_id,
            name=changes.name,
            prefix=display_prefix(self._key_prefix, key_id),
            created_at=self._now_ms(),
            secret_hash=await asyncio.to_thread(hash_credential, credential),
        )
        key = self._changed(blank, replace(changes, limits=limits))
        async with self._changing:
            await self._storage.add_key(key)
            await self._admission.put(key)
            self._authenticator.put(key)
        return key, credential

    async def update(self, reference: str, changes: KeyChanges) -> Key:
        """Raises OpusLiveError: not_found, or conflict if the new name is taken."""
        async with self._changing:
            key = self._changed(self.find(reference), changes)
            await self._storage.update_key(key, at=self._now_ms())
            await self._admission.put(key)
            self._authenticator.put(key)
        return key

    async def rotate(
        self, reference: str, grace_seconds: float, *, replacing: bytes | None = None
    ) -> tuple[Key, str]:
        """Give the key a new secret; the old one works for ``grace_seconds`` more.

        A key has one old secret at most: that of an earlier rotation stops working at once,
        even if the grace that it was given still runs. ``replacing`` is the hash of the secret
        that is meant to become the old one; without it, whichever the key has.
        Raises OpusLiveError: not_found, or conflict if the key's secret is not ``replacing``.
        """
        async with self._changing:
            old = self.find(reference)
            if replacing is not None and old.secret_hash != replacing:
                raise OpusLiveError(Code.CONFLICT, "The key has another secret meanwhile.")
            # The prefix of the day it was made is part of what holders know the key by.
            prefix = old.prefix.removesuffix(old.id)
            credential = new_credential(prefix, old.id, self._storage.checksum_key)
            with_grace = grace_seconds > 0
            key = replace(
                old,
                secret_hash=await asyncio.to_thread(hash_credential, credential),
                previous_hash=old.secret_hash if with_grace else None,
                previous_expires_at=(
                    self._now_ms() + round(grace_seconds * 1000) if with_grace else None
                ),
            )
            await self._storage.update_key(key, at=self._now_ms())
            self._authenticator.put(key)
        return key, credential

    async def delete(self, reference: str) -> tuple[Key, int]:
        """Erase the key and all its usage; return it and how many records are gone.

        Its running requests are cut and leave no record.
        """
        async with self._changing:
            key = self.find(reference)
            self._authenticator.remove(key.id)
            self._admission.leave(key.id)
            self._exchanges.cut_key(key.id)
        # Not under the lock: an erasure may have to wait, and other keys must not wait for it.
        try:
            erased = await self._storage.delete_key(key.id)
        except StorageUnavailable:
            if any(stored.id == key.id for stored in await self._storage.keys()):
                self._admission.stay(key.id)  # Nothing was erased: it is as it was.
                self._authenticator.put(key)
            raise
        self._admission.remove(key.id)
        return key, erased

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
        return key


def _changed_limits(key: Key, changes: KeyChanges) -> tuple[str, ...]:
    """The limits that the key has after the changes, in their canonical text."""
    limits = list(parse_limits(key.limits if changes.limits is None else changes.limits))
    for unwanted in parse_limits(changes.remove_limits):
        if unwanted not in limits:
            known = ", ".join(map(str, limits)) or "none"
            raise UsageError(f"The key has no limit of {unwanted}; its limits are: {known}.")
        limits.remove(unwanted)
    for added in parse_limits(changes.add_limits):
        # Of a metric and a window there is one limit: the new one takes its place.
        limits = [limit for limit in limits if not limit.same_kind(added)] + [added]
    if len(limits) > MAX_ENTRIES:
        raise UsageError(f"A key may have at most {MAX_ENTRIES} limits.")
    return tuple(map(str, limits))


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

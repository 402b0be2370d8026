"""One live object for each key: everything that the gateway holds in memory about it.

A ``Holder`` is made when its key is, and dropped when the key is deleted; nothing else in memory
names the key by then. Who changes which part of a holder:

* ``authenticator``: the digests of credentials that proved the key, or failed to;
* ``prover``: how many proofs of it are under way, and failed lately;
* ``admission``: the accounts, the experience, the queue, the turn;
* ``settlement``: when a denied request was last recorded, what the last minute used;
* ``metrics``: what the key's requests used since the start, if that is shown;
* ``exchanges``: the requests that run;
* ``web.proxy``: the memory of their bodies;
* ``administration``: the key itself, through ``Holders``.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakSet

from opuslive.errors import Code, OpusLiveError
from opuslive.keys import Key
from opuslive.limits.accounts import Account, AccountKind, LimitExceeded, Reservation
from opuslive.limits.estimates import Demand, Experience
from opuslive.limits.grammar import Limit, Metric, parse_limits
from opuslive.rates import MinuteRate
from opuslive.usage import Outcome, TokenCounts

#: Credentials remembered for each key that did not prove it.
MAX_DISPROVEN = 8


class Cut(enum.Enum):
    """Why an exchange is broken off."""

    CLIENT_GONE = enum.auto()
    UPSTREAM_GONE = enum.auto()
    KEY_DELETED = enum.auto()
    SHUTDOWN = enum.auto()


class Cuttable(Protocol):
    """An exchange that runs."""

    def cut(self, why: Cut) -> None:
        """Break the exchange off, at whatever step it is."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that waits for room. ``outcome``: a reservation, or what was in its way."""

    demand: Demand
    outcome: asyncio.Future[Reservation | LimitExceeded]


class Holder:
    """A key, and what is known of it while the gateway runs. Times are in ms since the epoch."""

    __slots__ = (
        "__weakref__",
        "_all_ended",
        "_recorded_second",
        "account",
        "body_bytes",
        "changing_group",
        "default_account",
        "disproven",
        "experience",
        "failures_count_until",
        "held_up",
        "key",
        "lacks_request_limit",
        "leaving",
        "proofs_under_way",
        "proven",
        "queue",
        "rate",
        "requests_by_outcome",
        "requests_by_status",
        "running",
        "tokens_by_kind",
        "turn",
    )

    def __init__(self, key: Key, now: int) -> None:
        self.key = key
        #: Digest of a credential that proved the key → until when it does; None: for ever.
        self.proven: dict[bytes, int | None] = {}
        #: Digests of credentials that did not prove the key, such as an old secret.
        self.disproven: deque[bytes] = deque(maxlen=MAX_DISPROVEN)
        #: Proofs by bcrypt that wait or run; and until when, on the clock that is never set,
        #: those that failed count (see ``prover``).
        self.proofs_under_way = 0
        self.failures_count_until = 0
        limits = parse_limits(key.limits)
        self.account = Account(AccountKind.KEY, limits, now, key.id)
        #: Whether the key has limits, but none of requests.
        self.lacks_request_limit = _lacks_request_limit(limits)
        #: The default limit of requests, from the first request on that it bound.
        self.default_account: Account | None = None
        self.experience = Experience()
        #: Requests that wait for room, first come first.
        self.queue: deque[Waiting] = deque()
        #: What the key's requests used within the last minute, from the first one on.
        self.rate: MinuteRate | None = None
        #: The number of the key's latest turn in which it was served out of its queue, or that it
        #: lost: it rises from turn to turn of any key.
        self.turn = 0
        #: For how long the key's requests held up those of others since that turn, in ms.
        self.held_up = 0
        #: Whether a change of the key's group is being stored; its requests wait meanwhile.
        self.changing_group = False
        self.running: dict[Cuttable, None] = {}
        #: Bytes of memory that the bodies of its requests take up.
        self.body_bytes = 0
        #: Status, and outcome → requests that ended with it; tokens, in the order of
        #: ``TokenCounts``.
        self.requests_by_status: dict[int, int] = {}
        self.requests_by_outcome: dict[Outcome, int] = {}
        self.tokens_by_kind = [0] * len(TokenCounts.__struct_fields__)
        #: Whether the key is being deleted, or is deleted.
        self.leaving = False
        self._recorded_second = -1
        self._all_ended: asyncio.Future[None] | None = None

    def change_limits(self, limits: Sequence[Limit], now: int) -> None:
        """Let these limits of the key's own bind from now on (ms since the epoch)."""
        self.account.change_limits(limits, now)
        self.lacks_request_limit = _lacks_request_limit(limits)

    @property
    def accounts(self) -> Sequence[Account]:
        """The key's accounts: its own limits, and the default limit if it ever bound."""
        default = self.default_account
        return (self.account,) if default is None else (self.account, default)

    def forget_proofs(self) -> None:
        """Make every credential prove itself anew."""
        self.proven.clear()
        self.disproven.clear()

    def records_denial(self, time: int) -> bool:
        """Whether a denied request is to be recorded: one is for each second of ``time``.

        So a client that repeats a denied request in a loop fills no disk. ``time`` is that of the
        record. A request that waited came earlier than others that were denied before it.
        """
        second = time // 1000
        if second <= self._recorded_second:
            return False
        self._recorded_second = second
        return True

    def shift(self, delta: int) -> None:
        """Move the last recorded denial by ``delta`` ms. (``Admission`` moves the account.)"""
        if self._recorded_second >= 0:
            # The whole second is over that it may have been in.
            self._recorded_second = (self._recorded_second * 1000 + 999 + delta) // 1000

    # Requests that run.

    def used(self, now: int, tokens: int) -> None:
        """A request ended at ``now``, a moment of a clock that never goes back, and used so many
        tokens."""
        if self.rate is None:
            self.rate = MinuteRate()
        self.rate.add(now, tokens)

    def begin(self, exchange: Cuttable) -> None:
        self.running[exchange] = None

    def end(self, exchange: Cuttable) -> None:
        del self.running[exchange]
        if not self.running and self._all_ended is not None:
            if not self._all_ended.done():
                self._all_ended.set_result(None)
            self._all_ended = None

    def cut(self, why: Cut) -> None:
        """Break off all requests of the key."""
        for exchange in tuple(self.running):
            exchange.cut(why)

    async def all_ended(self) -> None:
        """Wait until no request of the key runs."""
        while self.running:
            if self._all_ended is None:
                self._all_ended = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._all_ended)


def _lacks_request_limit(limits: Sequence[Limit]) -> bool:
    metrics = {limit.metric for limit in limits}
    return bool(metrics) and metrics.isdisjoint((Metric.REQUESTS, Metric.CONCURRENT))


class Holders:
    """All keys: found by id, by name and by display prefix, each in constant time."""

    def __init__(self, holders: Iterable[Holder] = ()) -> None:
        self._by_id: dict[str, Holder] = {}
        self._by_name: dict[str, Holder] = {}
        self._by_prefix: dict[str, Holder] = {}
        #: Those that were dropped, for as long as something of them goes on.
        self._dropped: WeakSet[Holder] = WeakSet()
        for holder in holders:
            self.add(holder)

    def __iter__(self) -> Iterator[Holder]:
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def shift(self, delta: int) -> None:
        """Move what every holder remembers by ``delta`` ms."""
        for holder in self.with_dropped():
            holder.shift(delta)

    def with_dropped(self) -> Iterable[Holder]:
        """Every holder, also of keys whose deletion has begun: it may fail yet."""
        return {*self._by_id.values(), *self._dropped}

    def get(self, key_id: str) -> Holder | None:
        return self._by_id.get(key_id)

    def find(self, reference: str) -> Holder:
        """The key with this id, display prefix or name. Raises OpusLiveError (not_found)."""
        for names in (self._by_id, self._by_prefix, self._by_name):
            holder = names.get(reference)
            if holder is not None:
                return holder
        raise OpusLiveError(
            Code.NOT_FOUND,
            "There is no key with this id, name or prefix; 'opuslive keys list' shows them all.",
        )

    def all_keys(self) -> Sequence[Key]:
        """Every key, oldest first."""
        keys = [holder.key for holder in self._by_id.values()]
        return sorted(keys, key=lambda key: (key.created_at, key.id))

    def add(self, holder: Holder) -> None:
        """Take in a new key, or one that could not be deleted."""
        holder.leaving = False
        self._dropped.discard(holder)
        for names, name in self._names(holder.key):
            names[name] = holder

    def remove(self, holder: Holder) -> None:
        """Drop a key that is about to be deleted: from now on its credential is unknown."""
        holder.leaving = True
        self._dropped.add(holder)
        self._forget(holder)

    def change(self, holder: Holder, key: Key) -> None:
        """Put the changed key in the place of the old one."""
        self._forget(holder)
        holder.key = key
        for names, name in self._names(key):
            names[name] = holder

    def _forget(self, holder: Holder) -> None:
        """Find the key no more, and take no proof of it for granted."""
        holder.forget_proofs()
        for names, name in self._names(holder.key):
            if names.get(name) is holder:
                del names[name]

    def _names(self, key: Key) -> Iterable[tuple[dict[str, Holder], str]]:
        """What the key is found by."""
        return (self._by_id, key.id), (self._by_name, key.name), (self._by_prefix, key.prefix)

"""Who may go on: each request against the limits of its key, its group and the gateway.

Theory of operation
-------------------

A request is *admitted* by one synchronous call: what it will use is estimated, and reserved
in every window of its three accounts, or in none (``accounts.reserve``). Nothing is awaited
between the look and the reservation. When the request ends, however it ends, its
reservation is settled with what it really used.

If there is no room, but there may be soon (others hold it reserved, or it frees within
``max_wait``), the request waits: ``queues``. What a client is told of a limit that is in its
way: ``limit_refusals``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.estimates import Experience
from opuslive.gateway.admission.history import History
from opuslive.gateway.admission.messages import no_price, no_room, too_large
from opuslive.gateway.admission.queues import Queues
from opuslive.keys import Key
from opuslive.limits.accounts import (
    Account,
    AccountKind,
    LimitExceeded,
    Reservation,
    ThresholdCrossing,
    largest_that_fits,
    reserve,
)
from opuslive.limits.charges import Charge
from opuslive.limits.grammar import Metric, parse_limits
from opuslive.limits.policy import LimitPolicy
from opuslive.limits.windows import LimitStatus
from opuslive.pricing.prices import Prices
from opuslive.storage import Storage
from opuslive.usage import ModelSum, TokenCounts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """How the limits stand that keys share: those of the gateway, and of each group by its name."""

    gateway: Sequence[LimitStatus]
    groups: Mapping[str, Sequence[LimitStatus]]

    def of_group(self, name: str | None) -> Sequence[LimitStatus]:
        """Those of a key's group; none if it is in none, or in one without limits."""
        return () if name is None else self.groups.get(name, ())


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks for. ``input_guess`` and ``max_tokens`` are in tokens."""

    model: str
    input_guess: int
    max_tokens: int | None


class Admitted:
    """A request that was let in. ``time`` is its admission, in ms since the epoch."""

    __slots__ = ("_admission", "_demand", "_key_id", "_reservation")

    def __init__(
        self, admission: Admission, key_id: str, demand: Demand, reservation: Reservation
    ) -> None:
        self._admission = admission
        self._key_id = key_id
        self._demand = demand
        self._reservation = reservation

    @property
    def time(self) -> int:
        return self._reservation.time

    def settle(self, tokens: TokenCounts | None, end: int, *, whole: bool = False) -> int:
        """The request ended having used these tokens; None if nothing was sent upstream.

        ``end`` is in ms since the epoch; returned is the end that counts, and that its record
        has to bear. ``whole`` says that the counts are the provider's own, to learn from. The
        first call settles; further ones change nothing.
        """
        return self._admission.settle(
            self._key_id, self._demand, self._reservation, tokens, end, whole=whole
        )


class Admission:
    """The accounts of all keys, groups and the gateway.

    ``now_ms`` is the clock of ``windows``. ``on_crossing`` is told when usage passes a level of a
    limit; it has to be quick.
    """

    def __init__(
        self,
        settings: LimitPolicy,
        prices: Prices,
        storage: Storage,
        now_ms: Callable[[], int],
        on_crossing: Callable[[ThresholdCrossing], object],
    ) -> None:
        self._on_passing = on_crossing
        self._settings = settings
        self._prices = prices
        self._history = History(storage, self._charge, self._charge_of_sum)
        self._now_ms = now_ms
        now = now_ms()
        self._gateway = Account(AccountKind.GATEWAY, settings.gateway, now)
        self._groups = {
            name: Account(AccountKind.GROUP, limits, now, name)
            for name, limits in settings.groups.items()
        }
        self._keys: dict[str, Account] = {}
        self._groups_of: dict[str, str | None] = {}
        #: Keys that are being deleted: an erasure takes its time, and may fail.
        self._leaving: set[str] = set()
        self._experience: dict[str, Experience] = {}
        #: The earliest end of requests that settle from now on: see ``put``.
        self._boundary = 0
        self._queues = Queues(self._reserve, settings.max_wait, now_ms)

    # Keys come and go.

    async def load(self, keys: Sequence[Key]) -> None:
        """Open the accounts of all keys, with what was used before this process began."""
        now = self._now_ms()
        for key in keys:
            self._keys[key.id] = Account(AccountKind.KEY, parse_limits(key.limits), now, key.id)
            self._groups_of[key.id] = key.group
        windows = {
            key_id: [window for account in self._accounts(key_id) for window in account.windows]
            for key_id in self._keys
        }
        await self._history.replay(windows, now)

    async def put(self, key: Key) -> None:
        """Take over a new key, or the changes of one. What was used is kept, and counts for new
        limits too."""
        now = self._now_ms()
        limits = parse_limits(key.limits)
        self._groups_of[key.id] = key.group
        account = self._keys.get(key.id)
        if account is None:
            self._keys[key.id] = Account(AccountKind.KEY, limits, now, key.id)
            return
        new_windows = account.prepare(limits, now)
        if new_windows:
            # What ended so far is history; what ends from here on is counted when it does. Both
            # may fall into one ms: so whatever settles from now on ends in the next, at least.
            self._boundary = max(now, self._boundary) + 1
            await self._history.replay({key.id: new_windows}, now, before=self._boundary)
        account.change_limits(limits, self._now_ms())
        self._queues.serve_soon()

    def leave(self, key_id: str) -> None:
        """The key is about to be deleted: of its requests, which are cut now by whoever deletes
        it, nothing is told any more."""
        self._leaving.add(key_id)

    def stay(self, key_id: str) -> None:
        """The key could not be deleted."""
        self._leaving.discard(key_id)

    def knows(self, key_id: str) -> bool:
        """Whether there is such a key, and it is to stay."""
        return key_id in self._keys and key_id not in self._leaving

    def remove(self, key_id: str) -> None:
        """The key is deleted."""
        self._leaving.discard(key_id)
        self._keys.pop(key_id, None)
        self._groups_of.pop(key_id, None)
        self._experience.pop(key_id, None)

    # Requests come and go.

    def admit(self, key: Key, demand: Demand) -> Admitted | None:
        """Let a request in if there is room for it; None if it may ``wait`` for that.

        Raises OpusLiveError: rate_limited, quota_exhausted, or invalid_request for one that is
        larger than a limit, or that has no price where one is needed.
        """
        accounts = self._accounts(key.id)
        estimate = self._estimate(key.id, accounts, demand)
        outcome = self._queues.enter(key.id, accounts, estimate)
        if isinstance(outcome, LimitExceeded):
            raise self._error(outcome, accounts, key.id, demand)
        return None if outcome is None else Admitted(self, key.id, demand, outcome)

    async def wait(self, key: Key, demand: Demand) -> Admitted:
        """Let a request in when its turn has come and there is room.

        Raises OpusLiveError as ``admit`` does, after ``max_wait``. Cancelling it leaves the queue.
        """
        accounts = self._accounts(key.id)
        estimate = self._estimate(key.id, accounts, demand)
        outcome = await self._queues.wait(key.id, accounts, estimate)
        if isinstance(outcome, LimitExceeded):
            raise self._error(outcome, accounts, key.id, demand)
        return Admitted(self, key.id, demand, outcome)

    def settle(
        self,
        key_id: str,
        demand: Demand,
        reservation: Reservation,
        tokens: TokenCounts | None,
        end: int,
        *,
        whole: bool,
    ) -> int:
        """See ``Admitted.settle``."""
        end = max(end, self._boundary)
        charge = None if tokens is None else self._charge(demand.model, tokens, reservation.time)
        for crossing in reservation.settle(charge, end):
            if crossing.account.kind is not AccountKind.KEY or self.knows(key_id):
                self._tell(crossing)
        if whole and charge is not None and key_id in self._keys:
            experience = self._experience.setdefault(key_id, Experience())
            experience.learn(
                demand.model, demand.input_guess, charge.input_tokens, charge.output_tokens
            )
        self._queues.serve_soon()
        return end

    def _tell(self, crossing: ThresholdCrossing) -> None:
        """Whatever is wrong with telling it, the request that ended must be recorded."""
        try:
            self._on_passing(crossing)
        except Exception as error:
            log.error("an alert of a limit failed (%s)", type(error).__name__)

    # How keys stand.

    def statuses(self, key_id: str) -> Sequence[LimitStatus]:
        """How each of a key's own limits stands."""
        account = self._keys.get(key_id)
        return () if account is None else account.statuses(self._now_ms())

    def shared_limits(self) -> SharedLimits:
        now = self._now_ms()
        groups = {name: group.statuses(now) for name, group in self._groups.items()}
        return SharedLimits(self._gateway.statuses(now), groups)

    def tightest(self, key_id: str) -> Mapping[Metric, LimitStatus]:
        """Of a key's own limits the tightest of each metric."""
        account = self._keys.get(key_id)
        return {} if account is None else account.tightest(self._now_ms())

    # Estimates and charges.

    def _accounts(self, key_id: str) -> Sequence[Account]:
        """Raises OpusLiveError (invalid_key): it was deleted since the request proved it."""
        key = self._keys.get(key_id)
        if key is None:
            raise OpusLiveError(Code.INVALID_KEY, "This API key has been deleted.")
        group = self._groups.get(self._groups_of.get(key_id) or "")
        return (key, self._gateway) if group is None else (key, group, self._gateway)

    def _estimate(self, key_id: str, accounts: Sequence[Account], demand: Demand) -> Charge:
        mode = self._settings.reserve_output
        experience = self._experience.get(key_id) or Experience()
        input_tokens = experience.input(demand.input_guess, mode)
        output_tokens = experience.output(demand.model, demand.max_tokens, mode)
        return self._estimated(accounts, demand.model, input_tokens, output_tokens)

    def _estimated(
        self, accounts: Sequence[Account], model: str, input_tokens: int, output_tokens: int
    ) -> Charge:
        """Raises OpusLiveError (invalid_request) where a limit needs a price and there is none."""
        price = self._prices.price_of(model, self._now_ms())
        if price is None:
            for account in accounts:
                if any(window.limit.metric is Metric.USD for window in account.windows):
                    raise no_price(account.kind)
            return Charge(input_tokens, output_tokens)
        strict = self._settings.reserve_output == "max_tokens"
        return Charge(
            input_tokens, output_tokens, price.estimate(input_tokens, output_tokens, strict=strict)
        )

    def _charge(self, model: str | None, tokens: TokenCounts, at: int) -> Charge:
        """What a request counts in limits."""
        usd = self._prices.cost(model, tokens, at)
        return Charge.of_tokens(
            tokens, cache_read_weight=self._settings.cache_read_weight, usd=usd or 0
        )

    def _charge_of_sum(self, used: ModelSum, at: int) -> Charge:
        """What all requests of an hour or a day, which began then, count in limits."""
        tokens = used.sum.tokens
        usd = self._prices.cost_of_sum(used.model, tokens, used.tier, at)
        return Charge.of_tokens(
            tokens,
            cache_read_weight=self._settings.cache_read_weight,
            usd=usd or 0,
            requests=used.sum.requests,
        )

    def _reserve(
        self, accounts: Sequence[Account], estimate: Charge
    ) -> Reservation | LimitExceeded:
        capped = self._settings.reserve_output == "adaptive"
        return reserve(accounts, estimate, self._now_ms(), capped=capped)

    # Refusing.

    def _error(
        self, exceeded: LimitExceeded, accounts: Sequence[Account], key_id: str, demand: Demand
    ) -> OpusLiveError:
        if exceeded.never_fits:
            return too_large(exceeded, self._largest_that_fits(accounts, key_id, demand))
        return no_room(exceeded, self._now_ms(), self._settings.contact)

    def _largest_that_fits(self, accounts: Sequence[Account], key_id: str, demand: Demand) -> int:
        """The largest max_tokens with which the request would fit into every whole limit."""
        mode = self._settings.reserve_output
        experience = self._experience.get(key_id) or Experience()
        input_tokens = experience.input(demand.input_guess, mode)
        return largest_that_fits(
            accounts,
            lambda output: self._estimated(accounts, demand.model, input_tokens, output),
            experience.output(demand.model, demand.max_tokens, mode),
        )

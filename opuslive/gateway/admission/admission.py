"""Who may go on: each request against the limits of its key, its group and the gateway.

Theory of operation
-------------------

A request is *admitted* by one synchronous call: what it will use is estimated, and reserved
in every window of its three accounts, or in none (``limits.accounts.reserve``). Nothing is awaited
between the look and the reservation. When the request ends, however it ends, its
reservation is settled with what it really used.

If there is no room, but there may be soon (others hold it reserved, or it frees within
``max_wait``), the request waits: ``queues``. What a client is told of a limit that is in its
way: ``messages``. Windows are rebuilt from what is stored: ``history``.

A key that has limits, but none of requests, has one by default. It is an account beside the key's
own, which is made with the first request, outlives changes of the key's limits, and is neither
stored nor rebuilt: its window is short.

A key counts in the group that it is in when a request is let in. A change of the group is stored
first; until it is, the key's requests wait, so that no request falls between the two groups.

The policy, which has the limits that keys share, is replaced while requests run (``shared``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.admission.charging import Charging
from opuslive.gateway.admission.history import ALL_TIME, History, Span
from opuslive.gateway.admission.messages import no_price, no_room, too_large, unbounded
from opuslive.gateway.admission.queues import Outcome, Queues
from opuslive.gateway.admission.shared import SharedAccounts
from opuslive.gateway.admission.shares import Share, read_share
from opuslive.gateway.holder import Holder, Holders
from opuslive.keys import GroupChange, Key
from opuslive.limits.accounts import (
    Account,
    AccountKind,
    LimitExceeded,
    Reservation,
    ThresholdCrossing,
    fits_without_reserved,
    largest_that_fits,
    reserve,
    shift,
)
from opuslive.limits.charges import Charge
from opuslive.limits.estimates import Demand
from opuslive.limits.grammar import Limit, Metric
from opuslive.limits.policy import LimitPolicy
from opuslive.limits.raises import limits_in_force
from opuslive.limits.windows import LimitStatus, Window
from opuslive.pricing.prices import Prices
from opuslive.storage import Storage
from opuslive.thinning import THINNED
from opuslive.usage import ModelTokens, TokenCounts

log = logging.getLogger(__name__)

#: Tokens that the slowest of today's large models write in a second.
SLOWEST_TOKENS_PER_SECOND = 50


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """How the limits stand that keys share: those of the gateway, and of each group by its name."""

    gateway: Sequence[LimitStatus]
    groups: Mapping[str, Sequence[LimitStatus]]

    def of_group(self, name: str | None) -> Sequence[LimitStatus]:
        """Those of a key's group; none if it is in none, or in one without limits."""
        return () if name is None else self.groups.get(name, ())


@dataclass(frozen=True, slots=True)
class LimitChange:
    """New limits of a key, for which windows count already; see ``Admission.prepare``."""

    holder: Holder
    limits: Sequence[Limit]
    #: From when on the key's requests count in its new group; ms since the epoch.
    at: int
    #: By how much the date had been moved, in ms, when the change began.
    moved: int


class Admitted:
    """A request that was let in. ``time`` is its admission, in ms since the epoch."""

    __slots__ = ("_admission", "_demand", "_holder", "_reservation")

    def __init__(
        self, admission: Admission, holder: Holder, demand: Demand, reservation: Reservation
    ) -> None:
        self._admission = admission
        self._holder = holder
        self._demand = demand
        self._reservation = reservation

    @property
    def time(self) -> int:
        return self._reservation.time

    def untold_input(self, *, fetched: bool) -> int:
        """What counts of an input that is not told: the dialect's guess, corrected by experience;
        and, if it may have been ``fetched``, all that the provider may have brought in."""
        return self._admission.guessed_input(self._holder, self._demand, fetched=fetched)

    def unseen_output(self, ms: int) -> int:
        """What counts at least of an output that can't be seen, after so many ms."""
        return self._admission.guessed_output(self._holder, self._demand, ms)

    def grow(
        self, tokens: TokenCounts, *, model: str | None = None, parts: Sequence[ModelTokens] = ()
    ) -> None:
        """The request used these tokens by now: hold at least as much. See ``settle``."""
        used = (ModelTokens(model or self._demand.model, tokens), *parts)
        self._admission.grow(self._reservation, used)

    def settle(
        self,
        tokens: TokenCounts | None,
        end: int,
        *,
        whole: bool = False,
        model: str | None = None,
        parts: Sequence[ModelTokens] = (),
    ) -> int:
        """The request ended having used these tokens; None if nothing was sent upstream.

        ``model`` is the one that answered, if it is another than was asked for, and ``parts`` is
        what further models used. ``end`` is in ms since the epoch; returned is the end that
        counts, and that its record has to bear. ``whole`` says that the counts are the provider's
        own, to learn from. The first call settles; further ones change nothing.
        """
        used = None
        if tokens is not None:
            used = (ModelTokens(model or self._demand.model, tokens), *parts)
        return self._admission.settle(
            self._holder, self._demand, self._reservation, used, end, whole=whole
        )


class Admission:
    """Lets requests in, and keeps the accounts of all groups and of the gateway.

    ``now_ms`` is the clock of windows. ``on_crossing`` is told when usage crosses a threshold of a
    limit, ``on_refusal`` whose limit refused a request, and what it counts; both have to be quick.
    """

    def __init__(
        self,
        policy: LimitPolicy,
        holders: Holders,
        prices: Prices,
        storage: Storage,
        now_ms: Callable[[], int],
        on_crossing: Callable[[ThresholdCrossing], object],
        on_refusal: Callable[[AccountKind, Metric], object],
    ) -> None:
        self._policy = policy
        self._holders = holders
        self._prices = prices
        self._storage = storage
        self._charging = Charging(prices, policy.cache_read_weight)
        self._now_ms = now_ms
        self._on_crossing = on_crossing
        self._on_refusal = on_refusal
        self._shared = SharedAccounts(policy, now_ms())
        #: The earliest end of requests that settle from now on: see ``prepare``.
        self._boundary = 0
        #: By how much the date was moved since the start, in ms.
        self._moved = 0
        self._queues = Queues(self._reserve, self._accounts, policy.max_wait, now_ms)

    # Keys come, change and go.

    async def load(self, changes: Mapping[str, Sequence[GroupChange]]) -> None:
        """Count what was used before this process began. ``changes`` maps a key's id → when it
        came into which group. Raises StorageUnavailable."""
        now = self._now_ms()
        shared = {account: account.windows for account in self._shared}
        own = {holder: holder.account.windows for holder in self._holders}
        await self._replay(self._charging, changes, shared, own, now)

    async def _replay(
        self,
        charging: Charging,
        changes: Mapping[str, Sequence[GroupChange]],
        shared: Mapping[Account, Sequence[Window]],
        own: Mapping[Holder, Sequence[Window]],
        now: int,
        before: int | None = None,
    ) -> None:
        """Count what is stored in these windows: shared ones by their accounts, and own ones of
        keys. See ``History.replay``."""
        history = self._history(charging)
        await history.flush()
        for holder in self._holders:
            windows: dict[Span, list[Window]] = {ALL_TIME: [*own.get(holder, ())]}
            for span, account in self._shared.stays(changes.get(holder.key.id, ())):
                windows.setdefault(span, []).extend(shared.get(account, ()))
            for span, each in windows.items():
                if each:
                    await history.replay(holder.key.id, each, now, admitted=span, before=before)
        # Nobody is told of thresholds that this crossed: that was done when it happened.
        for replayed in (*shared.values(), *own.values()):
            for window in replayed:
                window.silence(now)

    def _draw_boundary(self, now: int) -> int:
        """The moment (ms since the epoch) before which all ended that has ended by now.

        What ends from here on is counted by the windows that are open when it does. Both may fall
        into one ms: so whatever settles from now on ends at this moment or later.
        """
        # Requests are let in later than now after a change of a key's group.
        self._boundary = max(now, self._boundary, self._shared.gateway.latest) + 1
        return self._boundary

    def _history(self, charging: Charging) -> History:
        return History(self._storage, charging.of_request, charging.of_sum)

    async def prepare(self, holder: Holder, key: Key) -> LimitChange:
        """Begin a change of the key: count for limits that are new, and hold back its requests
        if it changes its group.

        Nothing binds anybody yet. It has to end with ``apply`` or ``abandon``. Raises
        StorageUnavailable; nothing has changed then.
        """
        now = self._now_ms()
        limits = limits_in_force(key.limits, key.raises)
        account = holder.account
        new_windows = account.prepare(limits, now)
        try:
            if new_windows:
                before = self._draw_boundary(now)
                history = self._history(self._charging)
                await history.flush()
                await history.replay(key.id, new_windows, now, before=before)
                for window in new_windows:
                    window.silence(now)
        except BaseException:
            account.abandon()
            raise
        at = max(self._now_ms(), account.latest)
        if key.group != holder.key.group:
            holder.changing_group = True
            at += 1  # Later than any request that was let in: those belong to the old group.
        return LimitChange(holder, limits, at, self._moved)

    def apply(self, change: LimitChange) -> None:
        """The change is stored: it holds from now on. What was used is kept."""
        holder = change.holder
        at = change.at + self._moved - change.moved
        holder.change_limits(change.limits, max(self._now_ms(), at))
        self._release(holder)

    def abandon(self, change: LimitChange) -> None:
        """The change could not be stored: all is as it was."""
        change.holder.account.abandon()
        self._release(change.holder)

    def use_raises(self, holder: Holder) -> None:
        """The key has other raises, and no other limits: these hold from now on.

        No change of the key may be under way.
        """
        key = holder.key
        holder.change_limits(limits_in_force(key.limits, key.raises), self._now_ms())
        self._queues.serve_soon()

    def _release(self, holder: Holder) -> None:
        holder.changing_group = False
        self._queues.serve_soon()

    async def share_of(self, holder: Holder, changes: Sequence[GroupChange]) -> Share:
        """The key's part of what its groups and the gateway have used, as far as it ended.

        ``changes`` says when it came into which group. Raises StorageUnavailable.
        """
        history, stays = self._history(self._charging), self._shared.stays(changes)
        return await read_share(history, holder.key.id, stays, self._now_ms())

    # The policy changes.

    async def prepare_policy(
        self, policy: LimitPolicy, prices: Prices, changes: Mapping[str, Sequence[GroupChange]]
    ) -> None:
        """Begin a change of the policy: count for limits that are new, at these prices.

        Nothing binds anybody yet. It has to end with ``apply_policy`` or ``abandon_policy``, and
        until then no key may change. ``changes`` maps a key's id → when it came into which group.
        Raises StorageUnavailable; nothing has changed then.
        """
        now = self._now_ms()
        keys = {holder.account: changes.get(holder.key.id, ()) for holder in self._holders}
        new_windows = self._shared.prepare(policy, keys, now)
        try:
            if any(new_windows.values()):
                before = self._draw_boundary(now)
                charging = Charging(prices, policy.cache_read_weight)
                await self._replay(charging, changes, new_windows, {}, now, before)
        except BaseException:
            self.abandon_policy()
            raise

    def apply_policy(self, policy: LimitPolicy) -> None:
        """The policy that was prepared holds from now on. What was used is kept."""
        now = self._now_ms()
        self._policy = policy
        self._charging = Charging(self._prices, policy.cache_read_weight)
        self._shared.apply(policy, now)
        default = policy.default_request_limit
        if default is not None:
            for holder in self._holders.with_dropped():
                if holder.default_account is not None:
                    holder.default_account.change_limits((default,), now)
        self._queues.max_wait = policy.max_wait
        self._queues.serve_soon()

    def abandon_policy(self) -> None:
        """The policy that was prepared does not come: all is as it was."""
        self._shared.abandon(self._policy)

    # Requests come and go.

    def check(self, holder: Holder) -> None:
        """Deny a request whose body has not come, if it would be denied whatever that says.

        What is known without the body counts: that it is one request, and has some input. A limit
        that frees within ``max_wait`` denies nothing. Raises OpusLiveError as ``enter`` does.
        """
        # Of output it may ask for none, and a model may be free of charge.
        least = Charge(input_tokens=1, usd=0 if self._prices.some_are_free else 1)
        outcome = self._reserve_charge(holder, least)
        if isinstance(outcome, Reservation):
            outcome.settle(None, outcome.time)
        elif self._queues.hopeless(holder, outcome):
            self._on_refusal(outcome.kind, outcome.limit.metric)
            raise no_room(outcome, self._now_ms(), self._policy.contact)

    def enter(self, holder: Holder, demand: Demand) -> Admitted | Outcome:
        """Let a request in if there is room for it, or let it wait for that: ``admitted`` takes
        what comes of it then. Whoever awaits the outcome may cancel it.

        Raises OpusLiveError: rate_limited, quota_exhausted, or invalid_request for one that is
        larger than a limit, or that has no price where one is needed; invalid_key if the key was
        deleted since the request proved it.
        """
        outcome = self._queues.enter(holder, demand)
        if isinstance(outcome, Reservation | LimitExceeded):
            return self.admitted(holder, demand, outcome)
        return outcome

    def admitted(
        self, holder: Holder, demand: Demand, outcome: Reservation | LimitExceeded
    ) -> Admitted:
        """The request as it was let in. Raises OpusLiveError as ``enter`` does."""
        if isinstance(outcome, LimitExceeded):
            raise self._error(outcome, holder, demand)
        return Admitted(self, holder, demand, outcome)

    def give_back(self, outcome: Reservation | LimitExceeded) -> None:
        """Free what a request was given in the moment in which it waited no more."""
        if isinstance(outcome, Reservation):
            outcome.settle(None, outcome.time)
            self._queues.serve_soon()

    def grow(self, reservation: Reservation, used: Sequence[ModelTokens]) -> None:
        """See ``Admitted.grow``."""
        reservation.grow(self._charging.of_request(used, reservation.time))

    def settle(
        self,
        holder: Holder,
        demand: Demand,
        reservation: Reservation,
        used: Sequence[ModelTokens] | None,
        end: int,
        *,
        whole: bool,
    ) -> int:
        """See ``Admitted.settle``."""
        end = max(end, self._boundary)
        charge = None if used is None else self._charging.of_request(used, reservation.time)
        for crossing in reservation.settle(charge, end):
            if crossing.account.kind is not AccountKind.KEY or not holder.leaving:
                self._tell(crossing)
        if whole and charge is not None:
            output = None if demand.max_tokens == 0 else charge.output_tokens
            # What the provider fetched says nothing of how good guesses of the rest are.
            guess = 0 if demand.unseen_input else demand.input_guess
            holder.experience.learn(demand.model, guess, charge.input_tokens, output)
        self._queues.serve_soon()
        return end

    def _tell(self, crossing: ThresholdCrossing) -> None:
        """Whatever is wrong with telling it, the request that ended must be recorded."""
        try:
            self._on_crossing(crossing)
        except Exception as error:
            log.error("an alert of a limit failed (%s)", type(error).__name__, extra=THINNED)

    def shift(self, delta: int) -> None:
        """Move all windows and all requests that run along with the date: see ``windows``."""
        holders = self._holders.with_dropped()
        accounts = [account for holder in holders for account in holder.accounts]
        shift([*accounts, *self._shared], delta, self._now_ms())
        self._boundary += delta
        self._moved += delta
        self._queues.shift(delta)

    # How limits stand.

    @property
    def waiting(self) -> int:
        """How many requests wait for room."""
        return self._queues.waiting

    def statuses(self, key_id: str) -> Sequence[LimitStatus]:
        """How each of a key's own limits stands."""
        holder = self._holders.get(key_id)
        return () if holder is None else holder.account.statuses(self._now_ms())

    def shared_limits(self) -> SharedLimits:
        now = self._now_ms()
        groups = {name: group.statuses(now) for name, group in self._shared.groups.items()}
        return SharedLimits(self._shared.gateway.statuses(now), groups)

    @property
    def group_names(self) -> Collection[str]:
        """The groups that the configuration has limits for."""
        return self._policy.groups.keys()

    def now(self) -> int:
        """The moment of what is told here, in ms since the epoch."""
        return self._now_ms()

    def own_limits(self, holder: Holder) -> Sequence[LimitStatus]:
        """How each of a key's own limits stands. (``statuses`` finds the key by its id.)"""
        return holder.account.statuses(self._now_ms())

    # Estimates and charges.

    def _accounts(self, holder: Holder) -> Sequence[Account]:
        gateway = self._shared.gateway
        group = self._shared.groups.get(holder.key.group or "")
        if holder.lacks_request_limit and self._policy.default_request_limit is not None:
            default = holder.default_account or self._open_default(holder)
            if group is None:
                return holder.account, default, gateway
            return holder.account, default, group, gateway
        if group is None:
            return holder.account, gateway
        return holder.account, group, gateway

    def _open_default(self, holder: Holder) -> Account:
        """An account of the default limit of requests."""
        limit = self._policy.default_request_limit
        assert limit is not None
        account = Account(AccountKind.KEY, (limit,), self._now_ms(), holder.key.id)
        holder.default_account = account
        return account

    def _estimate(self, holder: Holder, demand: Demand, beside: int) -> Charge:
        """What the request may use, beside so many others of its key."""
        if holder.leaving:
            raise OpusLiveError(Code.INVALID_KEY, "This API key has been deleted.")
        mode = self._policy.reserve_output
        if mode == "max_tokens" and demand.max_tokens is None:
            raise unbounded(demand.bound)
        input_tokens = self._input(holder, demand, beside)
        output_tokens = holder.experience.output(demand.model, demand.most, mode, beside=beside)
        strict = mode == "max_tokens" or beside > 0
        return self._estimated(holder, demand, input_tokens, output_tokens, strict=strict)

    def guessed_input(self, holder: Holder, demand: Demand, *, fetched: bool) -> int:
        """See ``Admitted.untold_input``. What runs beside makes no request larger."""
        whole = self._input(holder, demand)
        return whole if fetched else whole - demand.unseen_input

    def guessed_output(self, holder: Holder, demand: Demand, ms: int) -> int:
        """See ``Admitted.unseen_output``."""
        mode = self._policy.reserve_output
        guess = holder.experience.output(demand.model, demand.most, mode)
        return max(guess, min(ms * SLOWEST_TOKENS_PER_SECOND // 1000, demand.most))

    def _input(self, holder: Holder, demand: Demand, beside: int = 0) -> int:
        """The input that the request may have, in tokens."""
        mode = self._policy.reserve_output
        guess = holder.experience.input(demand.input_guess, mode, beside=beside)
        return guess + demand.unseen_input

    def _estimated(
        self,
        holder: Holder,
        demand: Demand,
        input_tokens: int,
        output_tokens: int,
        *,
        strict: bool,
    ) -> Charge:
        """What the request will use, at the price of the dearest of its models.

        ``strict``: the most that these tokens can cost.

        Raises OpusLiveError (invalid_request) where a limit needs a price and there is none.
        """
        now = self._now_ms()
        usd, priced = 0, True
        for model in (demand.model, *demand.others):
            price = self._prices.price_of(model, now)
            if price is None:
                priced = False
            else:
                usd = max(usd, price.estimate(input_tokens, output_tokens, strict=strict))
        if demand.any_model or demand.unpriced or not priced:
            for account in self._accounts(holder):
                if any(window.limit.metric.needs_price for window in account.windows):
                    raise no_price(account.kind, named=not priced, unpriced=demand.unpriced)
        return Charge(input_tokens, output_tokens, usd)

    def _reserve(self, holder: Holder, demand: Demand) -> Reservation | LimitExceeded:
        """Raises OpusLiveError as ``enter`` does. The estimate is made anew each time: it depends
        on what runs beside."""
        beside = holder.account.running
        outcome = self._reserve_charge(holder, self._estimate(holder, demand, beside))
        if beside and isinstance(outcome, LimitExceeded) and not outcome.only_reserved:
            # The estimate falls as those beside end: then there may be room after all.
            capped = self._policy.reserve_output == "adaptive"
            alone = self._estimate(holder, demand, 0)
            if fits_without_reserved(self._accounts(holder), alone, capped=capped):
                return outcome.until_others_end(holder.account)
        return outcome

    def _reserve_charge(self, holder: Holder, estimate: Charge) -> Reservation | LimitExceeded:
        capped = self._policy.reserve_output == "adaptive"
        return reserve(self._accounts(holder), estimate, self._now_ms(), capped=capped)

    # Denying.

    def _error(self, exceeded: LimitExceeded, holder: Holder, demand: Demand) -> OpusLiveError:
        self._on_refusal(exceeded.kind, exceeded.limit.metric)
        unseen = demand.unseen_input
        if exceeded.never_fits:
            largest = self._largest_that_fits(holder, demand) // demand.answers
            return too_large(exceeded, largest, demand.bound, unseen)
        return no_room(exceeded, self._now_ms(), self._policy.contact, unseen)

    def _largest_that_fits(self, holder: Holder, demand: Demand) -> int:
        """The largest max_tokens with which the request would fit into every whole limit."""
        mode = self._policy.reserve_output
        input_tokens = self._input(holder, demand)
        return largest_that_fits(
            self._accounts(holder),
            lambda output: self._estimated(holder, demand, input_tokens, output, strict=True),
            holder.experience.output(demand.model, demand.most, mode),
        )

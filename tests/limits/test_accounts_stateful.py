"""Accounts under any order of events, compared with a list of all that ever happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from opuslive.limits.accounts import Account, AccountKind, LimitExceeded, Reservation, reserve
from opuslive.limits.buckets import BUCKETS
from opuslive.limits.charges import Charge, replay
from opuslive.limits.grammar import Limit, Metric, Period, Raised, parse_limit, parse_limits
from opuslive.limits.windows import Window, period_bounds
from opuslive.times import DAY_MS
from tests.support.accounts import running
from tests.support.clock import NOW

#: What the limits of the key change between.
CHOICES = (
    "3 requests/1m", "6 requests/1m", "9 requests/day", "200 tokens/1m", "400 tokens/1m",
    "300 tokens/7s", "600 input_tokens/1h", "300 output_tokens/1m", "900 usd/week",
    "0.0005 usd/1m", "2k tokens/month", "9k tokens/total", "2 concurrent", "4 concurrent",
)  # fmt: skip


@dataclass(eq=False)
class Event:
    """A request that was let in. ``used`` is ``None`` until it ends, and if it counts nothing."""

    accounts: Sequence[Account]
    reservation: Reservation
    estimate: Charge
    held: dict[Window, int] = field(default_factory=dict)
    ended_at: int | None = None
    used: Charge | None = None

    @property
    def running(self) -> bool:
        return self.ended_at is None


class Accounts(RuleBasedStateMachine):
    """Two keys; one is of a group; both are the gateway's."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.key = Account(
            AccountKind.KEY,
            parse_limits(["6 requests/1m", "400 tokens/1m", "4 concurrent"]),
            NOW,
        )
        self.other = Account(AccountKind.KEY, parse_limits(["900 tokens/1h"]), NOW)
        self.group = Account(
            AccountKind.GROUP, parse_limits(["500 output_tokens/1m", "0.002 usd/day"]), NOW
        )
        self.gateway = Account(
            AccountKind.GATEWAY, parse_limits(["700 tokens/2m", "9 requests/30s"]), NOW
        )
        self.everyone = (self.key, self.other, self.group, self.gateway)
        self.latest = dict.fromkeys(self.everyone, NOW)
        self.events: list[Event] = []
        self.spent = {self.key: Charge(), self.other: Charge()}
        self.change: tuple[list[Limit], Sequence[Window], list[Event]] | None = None

    # What may happen.

    @rule(ms=st.one_of(st.integers(0, 3000), st.integers(0, 90_000), st.just(DAY_MS)))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(ms=st.integers(1, 30_000))
    def the_clock_goes_back(self, ms: int) -> None:
        self.now -= ms

    @rule(
        with_group=st.booleans(),
        estimate=st.builds(
            Charge, st.integers(0, 120), st.integers(0, 120), st.integers(0, 200), st.just(1)
        ),
    )
    def a_request_comes(self, with_group: bool, estimate: Charge) -> None:
        accounts = (
            (self.key, self.group, self.gateway) if with_group else (self.other, self.gateway)
        )
        windows = [window for account in accounts for window in account.windows]
        now = max(self.now, *(self.latest[account] for account in accounts))
        before = [(self.used(window, now), window.reserved) for window in windows]
        result = reserve(accounts, estimate, self.now, capped=False)
        needs = [estimate.amount(window.limit.metric) for window in windows]
        obstacles = [
            window.limit
            for window, (used, reserved), need in zip(windows, before, needs, strict=True)
            if need
            and (
                used + reserved + need > window.limit.amount
                or self.share_is_held(accounts[0], window, used, reserved, need)
            )
        ]
        if isinstance(result, LimitExceeded):
            assert result.limit in obstacles
            assert before == [(self.used(window, now), window.reserved) for window in windows]
            return
        assert not obstacles
        assert result.time == now
        event = Event(accounts, result, estimate)
        self.events.append(event)
        for account in accounts:
            self.latest[account] = now
            for window in self.windows_of(account):
                self.hold(event, window)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), sent=st.booleans())
    def a_request_ends(self, data: st.DataObject, sent: bool) -> None:
        event = data.draw(st.sampled_from(self.running()))
        estimate = event.estimate
        actual = Charge(
            data.draw(st.integers(0, estimate.input_tokens)),
            data.draw(st.integers(0, estimate.output_tokens)),
            data.draw(st.integers(0, estimate.usd)),
        )
        windows = [window for account in self.everyone for window in account.windows]
        before = [window.used + window.reserved for window in windows]
        event.reservation.settle(actual if sent else None, self.now)
        event.ended_at = max(self.now, event.reservation.time)
        event.used = actual if sent else None
        if sent:
            key = event.accounts[0]
            self.spent[key] = self.spent[key].of_the_last(64, actual)
        for account in event.accounts:
            self.latest[account] = max(self.latest[account], event.ended_at)
        for window, level in zip(windows, before, strict=True):
            assert window.used + window.reserved <= level

    @precondition(lambda self: any(not event.running for event in self.events))
    @rule(data=st.data())
    def a_request_ends_again(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from([event for event in self.events if not event.running]))
        event.reservation.settle(data.draw(st.sampled_from([None, Charge(99, 99, 99)])), self.now)

    @precondition(lambda self: self.change is None)
    @rule(texts=st.lists(st.sampled_from(CHOICES), max_size=5))
    def a_change_of_limits_begins(self, texts: list[str]) -> None:
        limits = list({(p.metric, p.window): p for p in map(parse_limit, texts)}.values())
        windows = self.key.prepare(limits, self.now)
        self.latest[self.key] = max(self.latest[self.key], self.now)
        past = [event for event in self.events if not event.running]
        self.change = (limits, windows, past)
        for window in windows:
            for event in self.running():
                if self.key in event.accounts:
                    self.hold(event, window)

    @precondition(lambda self: self.change is not None)
    @rule()
    def a_change_of_limits_is_done(self) -> None:
        assert self.change is not None
        limits, windows, past = self.change
        self.change = None
        for event in past:
            if self.key in event.accounts and event.used and event.ended_at is not None:
                replay(windows, event.used, time=event.reservation.time, end=event.ended_at)
        self.key.change_limits(limits, self.now)
        assert [window.limit for window in self.key.windows] == limits

    @precondition(lambda self: self.change is None and self.key.windows)
    @rule(data=st.data(), times=st.integers(1, 3))
    def a_limit_is_raised_or_is_as_before(self, data: st.DataObject, times: int) -> None:
        windows = list(self.key.windows)
        index = data.draw(st.integers(0, len(windows) - 1))
        limits = [window.limit for window in windows]
        own = limits[index].otherwise
        raised = Raised(own.amount, self.now) if times > 1 else None
        limits[index] = Limit(own.metric, own.amount * times, own.window, raised)
        self.key.change_limits(limits, self.now)
        self.latest[self.key] = max(self.latest[self.key], self.now)
        # The windows go on: nothing is rebuilt, and nothing forgotten.
        assert list(self.key.windows) == windows
        assert [window.limit for window in windows] == limits

    # What has to be true then.

    @invariant()
    def what_is_used_and_reserved_is_what_happened(self) -> None:
        for account in self.everyone:
            if account is not self.key or self.change is None:
                expected = sum(account in event.accounts for event in self.running())
                assert running(account, self.now) == expected
            statuses = account.statuses(self.now)
            self.latest[account] = max(self.latest[account], self.now)
            for window, limit_status in zip(account.windows, statuses, strict=True):
                held = sum(event.held.get(window, 0) for event in self.running())
                used = self.used(window, self.latest[account])
                limit = window.limit
                assert (limit_status.used, limit_status.reserved) == (used, held)
                assert limit_status.remaining == max(0, limit.amount - used - held)
                assert limit_status.used >= 0
                self.frees_at_is_right(window, self.latest[account])

    def teardown(self) -> None:
        for event in self.running():
            event.reservation.settle(None, self.now)
        for account in self.everyone:
            assert running(account, self.now) == 0
            assert all(status.reserved == 0 for status in account.statuses(self.now))

    # The oracle: it keeps everything, and adds up.

    def running(self) -> list[Event]:
        return [event for event in self.events if event.running]

    def windows_of(self, account: Account) -> Iterator[Window]:
        """Those that bind, and those that are going to."""
        yield from account.windows
        if account is self.key and self.change is not None:
            yield from self.change[1]

    def hold(self, event: Event, window: Window) -> None:
        if window.limit.metric is not Metric.REQUESTS:
            amount = event.estimate.amount(window.limit.metric)
            event.held[window] = min(amount, window.limit.amount)

    def share_is_held(
        self, key: Account, window: Window, used: int, reserved: int, need: int
    ) -> bool:
        """Whether a key holds its share of a limit that others share."""
        limit = window.limit
        if window in key.windows or limit.metric in (Metric.REQUESTS, Metric.CONCURRENT):
            return False
        held = sum(each.held.get(window, 0) for each in self.running() if each.accounts[0] is key)
        quarter = (limit.amount - used) // 4
        more = quarter + self.spent[key].amount(limit.metric)
        return reserved + need > quarter and held > 0 and held + need > more

    def used(self, window: Window, now: int) -> int:
        (account,) = (a for a in self.everyone if window in a.windows)
        limit = window.limit
        if limit.metric is Metric.CONCURRENT:
            return 0
        total = 0
        for event in self.events:
            if account not in event.accounts:
                continue
            if limit.metric is Metric.REQUESTS:
                moment, amount = (
                    event.reservation.time,
                    int(event.running or event.used is not None),
                )
            elif event.used is not None and event.ended_at is not None:
                moment, amount = event.ended_at, event.used.amount(limit.metric)
            else:
                continue
            if counts(limit, moment, now):
                total += amount
        return total

    def frees_at_is_right(self, window: Window, now: int) -> None:
        used, reserved, amount = self.used(window, now), window.reserved, window.limit.amount
        for needed in (1, amount // 2 + 1, amount):
            frees_at = window.frees_at(needed, now)
            if frees_at is None:
                forever = window.limit.window in (None, Period.TOTAL)
                assert used + reserved + needed > amount
                assert forever or reserved + needed > amount
                continue
            assert self.used(window, frees_at) + reserved + needed <= amount
            assert frees_at == now or (
                frees_at > now and self.used(window, frees_at - 1) + reserved + needed > amount
            )


def counts(limit: Limit, moment: int, now: int) -> bool:
    """Whether what was used at ``moment`` still counts."""
    if isinstance(limit.window, int):
        span = limit.window * 1000
        return moment * BUCKETS // span >= now * BUCKETS // span - BUCKETS
    if limit.window in (None, Period.TOTAL):
        return True
    assert isinstance(limit.window, Period)
    return moment >= period_bounds(limit.window, now)[0]


Accounts.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestAccountsAgreeWithTheirModel = Accounts.TestCase

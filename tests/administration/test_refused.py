"""Which keys are refused now, and by which limits."""

from __future__ import annotations

from collections.abc import Sequence

from opuslive.administration.refused import RefusedKeys, count_refused
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.gateway.holder import Holder
from opuslive.keys import Key
from opuslive.limits.accounts import Account, AccountKind
from opuslive.limits.charges import Charge, replay
from opuslive.limits.grammar import parse_limits
from opuslive.limits.windows import LimitStatus
from opuslive.times import HOUR_MS
from tests.support.clock import NOW


def holder(name: str, used: int = 0, **fields: object) -> Holder:
    """A key with a limit of 10 tokens an hour and one of 9 tokens a day."""
    limits = ("10 tokens/1h", "90 tokens/1d")
    made = Holder(Key(name, name, "sk", 0, b"", limits=limits, **fields), NOW)  # type: ignore[arg-type]
    replay(made.account.windows, Charge(input_tokens=used), time=NOW, end=NOW)
    return made


def shared(used: int) -> Sequence[LimitStatus]:
    account = Account(AccountKind.GROUP, parse_limits(["10 tokens/1d"]), NOW)
    replay(account.windows, Charge(input_tokens=used), time=NOW, end=NOW)
    return account.statuses(NOW)


def counted(
    *holders: Holder, limits: SharedLimits | None = None, passed: int = 0
) -> tuple[RefusedKeys, list[tuple[str, str, int]]]:
    """The keys that are refused, and each limit behind that: whose it is, its text, its keys."""

    def statuses(each: Holder) -> Sequence[LimitStatus]:
        return each.account.statuses(NOW + passed)

    refused = count_refused(holders, statuses, limits or SharedLimits((), {}), NOW + passed)
    return refused, [
        (
            each.limit.scope.value if each.key is None else each.key.name,
            each.limit.status.limit.text,
            each.keys,
        )
        for each in refused.limits
    ]


def test_no_key_is_refused() -> None:
    refused, limits = counted(holder("a", 9), holder("b"))
    assert (refused.total, limits) == (0, [])


def test_the_limit_of_a_key_is_named_by_its_key() -> None:
    refused, limits = counted(holder("b", 99), holder("a", 10), holder("c", 9))
    assert (refused.exhausted, refused.total) == (2, 2)
    assert limits == [("a", "10 tokens/1h", 1), ("b", "10 tokens/1h", 1), ("b", "90 tokens/1d", 1)]


def test_what_freed_meanwhile_refuses_nobody() -> None:
    """Also where nothing asked the window since."""
    refused, limits = counted(holder("a", 10), passed=2 * HOUR_MS)
    assert (refused.total, limits) == (0, [])


def test_shared_limits_come_first_with_how_many_keys_they_stop() -> None:
    limits = SharedLimits((), {"x": shared(10), "y": shared(9), "empty": shared(10)})
    keys = [holder("a", 10, group="x"), holder("b", group="x"), holder("c", group="y")]
    refused, told = counted(*keys, limits=limits)
    assert refused.exhausted == 2
    assert told == [("group", "10 tokens/1d", 2), ("a", "10 tokens/1h", 1)]
    refused, told = counted(*keys, limits=SharedLimits(shared(10), {}))
    assert refused.exhausted == 3
    assert told[0] == ("gateway", "10 tokens/1d", 3)


def test_a_key_that_is_refused_anyway_counts_as_that() -> None:
    refused, limits = counted(
        holder("off", 10, enabled=False), holder("late", 10, expires_at=NOW), holder("spent", 10)
    )
    assert (refused.disabled, refused.expired, refused.exhausted) == (1, 1, 1)
    assert limits == [("spent", "10 tokens/1h", 1)]

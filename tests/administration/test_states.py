"""How a key stands, in one word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from opuslive.administration.states import StateName, shared_standing, standing_of
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.keys import Key
from opuslive.limits.accounts import Account, AccountKind
from opuslive.limits.charges import Charge, replay
from opuslive.limits.grammar import parse_limits
from opuslive.limits.windows import LimitStatus
from tests.support.clock import NOW

KEY = Key("id", "alice", "sk-id", 0, b"hash", group="friends")
NOTHING_SHARED = SharedLimits((), {})


def status(used: int) -> list[LimitStatus]:
    """How a limit of ten tokens stands."""
    account = Account(AccountKind.KEY, parse_limits(["10 tokens/1h"]), NOW)
    replay(account.windows, Charge(input_tokens=used), time=NOW, end=NOW)
    return list(account.statuses(NOW))


@pytest.mark.parametrize(
    ("key", "own", "shared", "expected"),
    [
        (KEY, 9, NOTHING_SHARED, "enabled"),
        (KEY, 10, NOTHING_SHARED, "exhausted"),
        (KEY, 0, SharedLimits(status(10), {}), "exhausted"),
        (KEY, 0, SharedLimits((), {"friends": status(10)}), "exhausted"),
        (KEY, 0, SharedLimits(status(9), {"others": status(10)}), "enabled"),
        (replace(KEY, expires_at=NOW + 1), 0, NOTHING_SHARED, "enabled"),
        (replace(KEY, expires_at=NOW), 10, NOTHING_SHARED, "expired"),
        (replace(KEY, expires_at=NOW, enabled=False), 10, NOTHING_SHARED, "disabled"),
    ],
)
def test_a_state_is_the_first_reason_that_refuses_requests(
    key: Key, own: int, shared: SharedLimits, expected: StateName
) -> None:
    standing = standing_of(key, status(own), shared, NOW)
    assert standing.state == expected
    assert bool(standing.exhausted_by) is (expected == "exhausted")


def test_what_exhausts_a_key_is_named_with_whose_limit_it_is() -> None:
    shared = SharedLimits(status(10), {"friends": status(11), "others": status(12)})
    standing = standing_of(KEY, [*status(9), *status(10)], shared, NOW)
    assert [(each.scope.value, each.group) for each in standing.exhausted_by] == [
        ("key", None),
        ("group", "friends"),
        ("gateway", None),
    ]
    assert [each.status.used for each in standing.limits] == [9, 10, 11, 10]


def test_limits_that_keys_share_are_those_of_the_gateway_then_of_groups_by_name() -> None:
    shared = SharedLimits(status(1), {"zebras": status(2), "friends": status(3)})
    assert [
        (each.scope.value, each.group, each.status.used) for each in shared_standing(shared)
    ] == [("gateway", None, 1), ("group", "friends", 3), ("group", "zebras", 2)]

"""How a key stands, in one word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from opuslive.administration.states import StateName, state_name
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.keys import Invitation, Key
from opuslive.limits.accounts import Account, AccountKind
from opuslive.limits.charges import Charge, replay
from opuslive.limits.grammar import parse_limits
from opuslive.limits.windows import LimitStatus
from tests.support.clock import NOW

KEY = Key("id", "alice", "sk-id", 0, b"hash", group="friends")
INVITED = replace(KEY, secret_hash=None, invitation=Invitation(b"hash", NOW + 1))
LAPSED = replace(KEY, secret_hash=None, invitation=Invitation(b"hash", NOW))
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
        (INVITED, 10, NOTHING_SHARED, "invited"),
        (LAPSED, 10, NOTHING_SHARED, "lapsed"),
        (replace(INVITED, invitation=None), 0, NOTHING_SHARED, "lapsed"),
        (replace(INVITED, expires_at=NOW), 0, NOTHING_SHARED, "expired"),
        (replace(INVITED, enabled=False), 0, NOTHING_SHARED, "disabled"),
        (replace(KEY, invitation=INVITED.invitation), 0, NOTHING_SHARED, "enabled"),
    ],
)
def test_a_state_is_the_first_reason_that_refuses_requests(
    key: Key, own: int, shared: SharedLimits, expected: StateName
) -> None:
    assert state_name(key, status(own), shared, NOW) == expected

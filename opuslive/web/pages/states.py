"""How a key stands, in sentences for the pages. ``administration.states`` decides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opuslive.administration.states import HeldLimit, KeyStanding, StateName, standing_of
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.keys import Key
from opuslive.limits.accounts import AccountKind
from opuslive.limits.windows import LimitStatus
from opuslive.web.pages import words


@dataclass(frozen=True, slots=True)
class KeyState:
    """How a key stands: its state, and that in a title and sentences."""

    name: StateName
    title: str
    sentence: str


def shared_with(key: Key, shared: SharedLimits) -> Mapping[str, Sequence[LimitStatus]]:
    """The limits that the key shares: whom it shares them with → their statuses."""
    by_whom = {f"the group {key.group}": shared.of_group(key.group), "all keys": shared.gateway}
    return {whom: statuses for whom, statuses in by_whom.items() if statuses}


def sharers(limit: HeldLimit) -> str | None:
    """Whom a key shares a limit with; None for a limit of its own."""
    if limit.scope is AccountKind.KEY:
        return None
    return "all keys" if limit.group is None else f"the group {limit.group}"


def causes(exhausted_by: Sequence[HeldLimit]) -> str:
    """Which limits are used up, and whose they are, for a table that the administrator reads."""
    return "by " + ", ".join(
        f"{limit.status.limit.text} {'of its own' if whom is None else f'of {whom}'}"
        for limit in exhausted_by
        for whom in (sharers(limit),)
    )


def _used_up_until(limit: HeldLimit) -> tuple[bool, int]:
    return limit.status.resets_at is None, limit.status.resets_at or 0


def state_of(
    key: Key,
    own: Sequence[LimitStatus],
    shared: SharedLimits,
    *,
    contact: str | None,
    now: int,
    wall_ms: int,
) -> KeyState:
    """The key's state in words. ``now`` is the time of windows and ``wall_ms`` that of expiries,
    both in ms since the epoch.

    The holder reads whom to ask: ``contact``. The administrator reads which limit is used up
    (``contact`` is None): a holder may not know a limit that others share, nor what they use.
    """

    def ask(remedy: str) -> str:
        return "" if contact is None else f" Ask {contact} {remedy}."

    standing = standing_of(key, own, shared, wall_ms)
    name = standing.state
    if name == "disabled":
        sentence = f"New requests with it are refused.{ask('to enable it again')}"
        return KeyState(name, "This key is disabled", sentence)
    if name == "expired":
        assert key.expires_at is not None
        sentence = f"Since {words.expiry(key.expires_at)} new requests with it are refused."
        return KeyState(name, "This key has expired", sentence + ask("for a new date"))
    if name == "enabled":
        until = ""
        if key.expires_at is not None:
            until = f" It does so until {words.expiry(key.expires_at)}."
        return KeyState(name, "This key works", f"Requests with it are accepted.{until}")
    # The one that is used up for longest.
    longest = max(standing.exhausted_by, key=_used_up_until)
    last, whom = longest.status, sharers(longest)
    if last.frees_at is None or last.resets_at is None:
        frees = f"That never frees.{ask('for more')}"
    else:
        frees = f"It begins to free at {words.upcoming(last.frees_at, now)}"
        # The end of a shared limit would tell a holder when others used it last.
        if last.resets_at > last.frees_at and (whom is None or contact is None):
            frees += f", and all of it by {words.upcoming(last.resets_at, now)}"
        frees += f".{ask('if you need more before')}"
    if whom is None:
        spent = f"The limit of {words.meaning(last.limit)} is used up."
        title = "This key is used up for now"
        return KeyState(name, title, f"{spent} {frees}{_others(standing, longest, contact)}")
    title = "A limit that this key shares with others is used up"
    which = ""
    if contact is None:
        which = f"It is that of {words.meaning(last.limit)}, shared with {whom}. "
    return KeyState(name, title, which + frees + _others(standing, longest, contact))


def _others(standing: KeyStanding, told: HeldLimit, contact: str | None) -> str:
    """For the administrator: the other limits that are used up as well."""
    others = [limit for limit in standing.exhausted_by if limit is not told]
    if contact is not None or not others:
        return ""
    named = " and ".join(_named(limit) for limit in others)
    return f" Used up as well: {named}."


def _named(limit: HeldLimit) -> str:
    whom = sharers(limit)
    text = words.meaning(limit.status.limit)
    return f"its own {text}" if whom is None else f"{text}, shared with {whom}"

"""How a key stands, in sentences for the pages. ``administration.states`` decides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opuslive.administration.states import StateName, state_name, used_up
from opuslive.gateway.admission.admission import SharedLimits
from opuslive.keys import Key
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

    name = state_name(key, own, shared, wall_ms)
    if name == "disabled":
        sentence = f"New requests with it are refused.{ask('to enable it again')}"
        return KeyState(name, "This key is disabled", sentence)
    if name == "expired":
        assert key.expires_at is not None
        sentence = f"Since {words.moment(key.expires_at)} new requests with it are refused."
        return KeyState(name, "This key has expired", sentence + ask("for a new date"))
    if name == "invited":
        assert key.invitation is not None
        until = words.moment(key.invitation.expires_at)
        sentence = (
            f"Its holder makes it by the link of the invitation, which is good until {until}."
        )
        return KeyState(name, "This key has no secret yet", sentence)
    if name == "lapsed":
        sentence = (
            "Its invitation is over or was called back: invite its holder anew, or rotate it."
        )
        return KeyState(name, "This key has no secret", sentence)
    if name == "enabled":
        until = ""
        if key.expires_at is not None:
            until = f" It does so until {words.moment(key.expires_at)}."
        return KeyState(name, "This key works", f"Requests with it are accepted.{until}")
    full: list[tuple[LimitStatus, str | None]] = [(each, None) for each in used_up(own)]
    for sharer, statuses in shared_with(key, shared).items():
        full += [(each, sharer) for each in used_up(statuses)]
    # The one that is used up for longest.
    last, whom = max(full, key=lambda pair: (pair[0].resets_at is None, pair[0].resets_at or 0))
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
        return KeyState(name, "This key is used up for now", f"{spent} {frees}")
    title = "A limit that this key shares with others is used up"
    which = ""
    if contact is None:
        which = f"It is that of {words.meaning(last.limit)}, shared with {whom}. "
    return KeyState(name, title, which + frees)

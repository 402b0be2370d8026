"""How a key stands: decided here for the pages, ``/v1/usage`` and the administration API alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from opuslive.gateway.admission.admission import SharedLimits
from opuslive.keys import Key
from opuslive.limits.windows import LimitStatus
from opuslive.web.pages import words

StateName = Literal["enabled", "disabled", "expired", "exhausted"]


@dataclass(frozen=True, slots=True)
class KeyState:
    """How the key stands, in plain words."""

    name: StateName
    title: str
    sentence: str


def state_name(key: Key, own: Iterable[LimitStatus], shared: SharedLimits, now: int) -> StateName:
    """How the key stands, in a word: the first that holds of what would refuse its requests.

    ``own`` are those of the key's own limits; ``now`` is in ms since the epoch.
    """
    if not key.enabled:
        return "disabled"
    if key.expired(now):
        return "expired"
    statuses = [*own, *shared.of_group(key.group), *shared.gateway]
    return "exhausted" if _used_up(statuses) else "enabled"


def shared_with(key: Key, shared: SharedLimits) -> Mapping[str, Sequence[LimitStatus]]:
    """The limits that the key shares with others, by whom it shares them with."""
    by_whom = {f"the group {key.group}": shared.of_group(key.group), "all keys": shared.gateway}
    return {whom: statuses for whom, statuses in by_whom.items() if statuses}


def state_of(
    key: Key, own: Sequence[LimitStatus], shared: SharedLimits, contact: str | None, now: int
) -> KeyState:
    """The same in words.

    ``contact`` is whom its reader, a holder, may ask. It is None for who would be asked: who
    is told which limit it is, even if others share it, whose use is not the holder's to know.
    """

    def ask(remedy: str) -> str:
        return "" if contact is None else f" Ask {contact} {remedy}."

    name = state_name(key, own, shared, now)
    if name == "disabled":
        sentence = f"New requests with it are refused.{ask('to enable it again')}"
        return KeyState(name, "This key is disabled", sentence)
    if name == "expired":
        assert key.expires_at is not None
        sentence = f"Since {words.moment(key.expires_at)} new requests with it are refused."
        return KeyState(name, "This key has expired", sentence + ask("for a new date"))
    if name == "enabled":
        until = ""
        if key.expires_at is not None:
            until = f" It does so until {words.moment(key.expires_at)}."
        return KeyState(name, "This key works", f"Requests with it are accepted.{until}")
    full: list[tuple[LimitStatus, str | None]] = [(each, None) for each in _used_up(own)]
    for sharer, statuses in shared_with(key, shared).items():
        full += [(each, sharer) for each in _used_up(statuses)]
    # Of several the one that is so for longest.
    last, whom = max(full, key=lambda pair: (pair[0].resets_at is None, pair[0].resets_at or 0))
    if last.frees_at is None or last.resets_at is None:
        frees = f"That never frees.{ask('for more')}"
    else:
        frees = f"It begins to free at {words.upcoming(last.frees_at, now)}"
        # Of what others use, the end would tell a holder when the latest of them did.
        if last.resets_at > last.frees_at and (whom is None or contact is None):
            frees += f", and all of it by {words.upcoming(last.resets_at, now)}"
        frees += f".{ask('if you need more before')}"
    if whom is None:
        used_up = f"The limit of {words.meaning(last.limit)} is used up."
        return KeyState(name, "This key is used up for now", f"{used_up} {frees}")
    title = "A limit that this key shares with others is used up"
    which = ""
    if contact is None:
        which = f"It is that of {words.meaning(last.limit)}, shared with {whom}. "
    return KeyState(name, title, which + frees)


def _used_up(statuses: Iterable[LimitStatus]) -> Sequence[LimitStatus]:
    return [status for status in statuses if status.used >= status.limit.amount]

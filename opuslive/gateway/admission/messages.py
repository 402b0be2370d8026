"""What a client is told when a limit is in its way: one sentence, and when to come back.

The sentence says which limit it is, how much of it is used, when it frees and whom to ask.
Clients obey the kind of the error: of one that passes soon (rate_limited) they repeat the
request, of one that does not (quota_exhausted, invalid_request) they show the sentence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from opuslive.errors import Code, OpusLiveError
from opuslive.limits.accounts import AccountKind, LimitExceeded
from opuslive.times import iso_seconds

#: A limit that frees within this many ms is worth waiting for, as clients see it: Claude Code
#: waits for a retry-after of up to 60 s.
SOON_MS = 61_000
MAX_RETRY_AFTER = 60
#: ms to say to a client when nobody knows when others will be done.
_UNKNOWN_MS = 5_000

_WHOSE: Mapping[AccountKind, str] = MappingProxyType(
    {
        AccountKind.KEY: "this API key",
        AccountKind.GROUP: "this API key's group",
        AccountKind.GATEWAY: "this gateway",
    }
)


def no_room(
    exceeded: LimitExceeded, now: int, contact: str, unseen_input: int = 0
) -> OpusLiveError:
    """The limit is full, for now or for good: rate_limited or quota_exhausted.

    ``now`` is in ms since the epoch, ``contact`` whom to ask. ``unseen_input`` is what the
    provider may bring in, in tokens.
    """
    message = (
        f"The limit of {_WHOSE[exceeded.kind]}, {exceeded.limit}, has no room for this "
        f"request{_figures(exceeded)}; {_when(exceeded)}; ask {contact} for more."
        f"{_fetched(unseen_input)}"
    )
    wait_ms = None if exceeded.frees_at is None else exceeded.frees_at - now
    if exceeded.only_reserved:
        wait_ms = min(wait_ms or _UNKNOWN_MS, _UNKNOWN_MS)
    seconds = None if wait_ms is None else math.ceil(wait_ms / 1000)
    if wait_ms is None or wait_ms > SOON_MS:
        return OpusLiveError(Code.QUOTA_EXHAUSTED, message, retry_after=seconds)
    retry_after = max(1, min(seconds or 0, MAX_RETRY_AFTER))
    return OpusLiveError(Code.RATE_LIMITED, message, retry_after=retry_after)


def too_large(
    exceeded: LimitExceeded, largest: int, bound: str, unseen_input: int = 0
) -> OpusLiveError:
    """The request is larger than the whole limit; ``largest`` is the value of the member ``bound``
    that would fit, 0 if no more than that does: invalid_request. ``unseen_input`` as for
    ``no_room``."""
    remedy = f"the largest {bound} that fits is {largest}" if largest else "send less input"
    return OpusLiveError(
        Code.INVALID_REQUEST,
        f"This request may use more than the whole limit of {_WHOSE[exceeded.kind]}, "
        f"{exceeded.limit}; {remedy}.{_fetched(unseen_input)}",
    )


def no_price(kind: AccountKind, *, named: bool = True, unpriced: str = "") -> OpusLiveError:
    """A limit in USD can't be held, for nobody knows what a request costs: invalid_request.

    ``named`` says that a model without a price is asked for by its name, ``unpriced`` what else
    has none (``Surcharges``). If it is neither, the provider is to choose the model.
    """
    if named:
        which = (
            "no price is known of a model asked for; ask for another model, or ask the "
            "administrator to add its price to [prices]"
        )
    elif unpriced:
        which = unpriced
    else:
        which = "the provider is to choose the fallbacks; name them"
    return OpusLiveError(
        Code.INVALID_REQUEST, f"There is a limit in USD on {_WHOSE[kind]}, and {which}."
    )


def unbounded(bound: str) -> OpusLiveError:
    """All that a request may use is to be set aside, and it says nowhere how much that is; the
    member ``bound`` would: invalid_request."""
    return OpusLiveError(
        Code.INVALID_REQUEST,
        f"This gateway sets aside all that a request may use; say how much in {bound!r}.",
    )


def _fetched(tokens: int) -> str:
    """Why a request that looks small may be large."""
    if not tokens:
        return ""
    return (
        " What the provider fetches for it (a document by URL or as a file, results of its tools) "
        f"counts as {tokens:,} input tokens until its size is known; send the text itself."
    )


def _figures(exceeded: LimitExceeded) -> str:
    """How full it is. What others use is theirs to know: of a shared limit nothing."""
    if exceeded.kind is not AccountKind.KEY:
        return ""
    amount = exceeded.limit.metric.as_text
    used = f"{amount(exceeded.used)} used" if exceeded.used else "none used"
    reserved = f" and {amount(exceeded.reserved)} reserved" if exceeded.reserved else ""
    return f" ({used}{reserved})"


def _when(exceeded: LimitExceeded) -> str:
    """When it frees."""
    if exceeded.only_reserved:
        return "room frees as running requests end"
    if exceeded.frees_at is None:
        return "it never frees"
    # Rounded up: at the moment that is named, there is room.
    return f"it frees at {iso_seconds(exceeded.frees_at + 999)}"

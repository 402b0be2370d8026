"""How the gateway's own certificate stands: told by whoever keeps it, shown by every interface."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """A certificate and its renewal. Times are in ms since the epoch.

    ``not_before`` and ``not_after`` are None while there is none: then one that nobody vouches for
    stands in for it. ``next_attempt`` is when the gateway will try to get another one by itself;
    None where files are watched instead. ``last_failure`` is a sentence without its full stop, and
    None after a success.
    """

    name: str
    not_before: int | None
    not_after: int | None
    next_attempt: int | None = None
    failures_in_a_row: int = 0
    last_failure: str | None = None
    last_failure_at: int | None = None

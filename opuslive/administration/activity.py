"""What goes on right now: read once here, for the command and the API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from opuslive.administration.status import ProcessStatus, StatusReader
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.holder import Holders
from opuslive.limits.windows import LimitStatus
from opuslive.times import Clock

#: Keys that are told of: those that used most within the last minute.
MOST_KEYS = 50


@dataclass(frozen=True, slots=True)
class KeyActivity:
    """A key that was used within the last minute; ``tightest`` is its own limit that is fullest,
    None if it has none."""

    id: str
    name: str
    requests: int
    tokens: int
    tightest: LimitStatus | None


@dataclass(frozen=True, slots=True)
class Activity:
    """Requests that are answered and that wait for room, and what the last minute used."""

    process: ProcessStatus
    waiting: int
    requests: int
    tokens: int
    keys: Sequence[KeyActivity]


class ActivityReader:
    """Reads what goes on."""

    def __init__(
        self, status: StatusReader, admission: Admission, holders: Holders, clock: Clock
    ) -> None:
        self._status = status
        self._admission = admission
        self._holders = holders
        self._clock = clock

    def read(self) -> Activity:
        now = self._clock.passed_ns() // 1_000_000
        used = []
        for holder in self._holders:
            if holder.rate is not None:
                requests, tokens = holder.rate.per_minute(now)
                if requests:
                    used.append((tokens, requests, holder))
        used.sort(key=lambda each: each[:2], reverse=True)
        return Activity(
            process=self._status.read(),
            waiting=self._admission.waiting,
            requests=sum(requests for _, requests, _ in used),
            tokens=sum(tokens for tokens, _, _ in used),
            keys=[
                KeyActivity(
                    holder.key.id,
                    holder.key.name,
                    requests,
                    tokens,
                    max(
                        self._admission.statuses(holder.key.id),
                        key=attrgetter("fullness"),
                        default=None,
                    ),
                )
                for tokens, requests, holder in used[:MOST_KEYS]
            ],
        )

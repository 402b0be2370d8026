"""Windows rebuilt from what is stored: at the start, and for a limit that is new.

Windows that are short are rebuilt from records. Longer ones, whose buckets are as long as an
hour or longer, take the hourly sums, so that what this costs depends on what windows hold and
not on how long the gateway has been in use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from opuslive.charges import Charge, replay, replay_hour
from opuslive.metering import TokenCounts
from opuslive.storage import Storage
from opuslive.usage import DAY_MS, HOUR_MS
from opuslive.windows import Window

#: A request counts at its end, and is stored by its beginning: records are read from this
#: long, in ms, before a window begins. No upstream keeps a request open for a day.
LONGEST_REQUEST_MS = DAY_MS
PAGE = 5_000

#: From a model's name, tokens, a time (ms since the epoch) and a number of requests.
ChargeOf = Callable[[str | None, TokenCounts, int, int], Charge]


async def replay_history(
    storage: Storage, windows: Mapping[str, Sequence[Window]], charge_of: ChargeOf, before: int
) -> None:
    """Count in each key's windows what its requests used that ended by ``before``.

    ``before`` is in ms since the epoch: later ones were counted as they ended. A window may
    stand under several keys, whose usage it then sums.
    """
    for key_id, all_windows in windows.items():
        counting = [window for window in all_windows if window.counts_since is not None]
        by_record = [window for window in counting if not window.hours_suffice]
        by_hour = [window for window in counting if window.hours_suffice]
        if by_record:
            await _replay_records(storage, key_id, by_record, charge_of, before)
        if by_hour:
            await _replay_hours(storage, key_id, by_hour, charge_of)


async def _replay_records(
    storage: Storage, key_id: str, windows: Sequence[Window], charge_of: ChargeOf, before: int
) -> None:
    since = _earliest(windows) - LONGEST_REQUEST_MS
    cursor: tuple[int, int] | None = (max(0, since), -1)
    while cursor is not None:
        records, cursor = await storage.records(key_id, after=cursor, limit=PAGE)
        for record in records:
            if record.latency_ms is not None and record.end_time <= before:
                charge = charge_of(record.model, record.tokens, record.time, 1)
                replay(windows, charge, time=record.time, end=record.end_time)


async def _replay_hours(
    storage: Storage, key_id: str, windows: Sequence[Window], charge_of: ChargeOf
) -> None:
    first = _earliest(windows) // HOUR_MS
    for hour, model, usage in await storage.hours(key_id, since_hour=first):
        charge = charge_of(model, usage.tokens, hour * HOUR_MS, usage.requests)
        replay_hour(windows, charge, hour)


def _earliest(windows: Sequence[Window]) -> int:
    return min(window.counts_since or 0 for window in windows)

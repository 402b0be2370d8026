"""The parameters of a query: those that are known, each once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from aiohttp import web

from opuslive.errors import UsageError
from opuslive.quantities import did_you_mean, parse_since
from opuslive.times import DAY_MS, HOUR_MS

#: What looks like a parameter's name. Anything else may be a secret, and is not repeated.
_NAME = re.compile(r"[A-Za-z_]{1,20}")

#: Days that a series by hour may have: a month has 744 points, which is more than anyone looks at.
MAX_DAYS_BY_HOUR = 31


def check_parameters(request: web.Request, known: Collection[str]) -> None:
    """Refuse a query that has other parameters, or one of these twice.

    A slip in a name must not be left out: the answer would look as if it had been heeded.
    Raises UsageError.
    """
    for name in request.query:
        if name not in known:
            which = f"parameter {name!r}" if _NAME.fullmatch(name) else "parameter of this name"
            remedy = did_you_mean(name, known) if known else "this path takes none"
            end = "" if remedy.endswith("?") else "."
            raise UsageError(f"There is no {which}; {remedy}{end}")
        if len(request.query.getall(name)) > 1:
            raise UsageError(f"The parameter {name!r} is there twice.")


def choice(query: Mapping[str, str], name: str, default: str, choices: Sequence[str]) -> str:
    """The value of a parameter that takes one of a few. Raises UsageError for another one."""
    value = query.get(name, default)
    if value not in choices:
        raise UsageError(f"'{name}' is one of: {', '.join(choices)}.")
    return value


def series_since(query: Mapping[str, str], by: str, now: int) -> int:
    """The beginning of a series that reaches until ``now``, both in ms since the epoch: the hour
    that the parameter ``since`` is in, 7 days ago by default.

    Raises UsageError, also for more than ``MAX_DAYS_BY_HOUR`` by hour.
    """
    since = parse_since(query.get("since", "7d"), now)
    if by == "hour" and since < now - MAX_DAYS_BY_HOUR * DAY_MS:
        raise UsageError(
            f"A series by hour reaches back {MAX_DAYS_BY_HOUR} days at most; ask for it by day, or "
            f"since {MAX_DAYS_BY_HOUR}d."
        )
    return since // HOUR_MS * HOUR_MS

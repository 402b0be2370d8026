"""The parameters of a query: those that are known, each once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from aiohttp import web

from opuslive.errors import UsageError
from opuslive.quantities import did_you_mean
from opuslive.spans import Span, parse_span
from opuslive.times import DAY_MS, HOUR_MS

#: What looks like a parameter's name. Anything else may be a secret, and is not repeated.
_NAME = re.compile(r"[A-Za-z_]{1,20}")

#: Days that a series by hour may have: a month has 744 points, which is more than anyone looks at.
MAX_DAYS_BY_HOUR = 31


def check_parameters(
    request: web.Request, known: Collection[str], several: Collection[str] = ()
) -> None:
    """Refuse a query that has other parameters, or one of these twice that is not in ``several``.

    A slip in a name must not be left out: the answer would look as if it had been heeded.
    Raises UsageError.
    """
    for name in request.query:
        if name not in known:
            which = f"parameter {name!r}" if _NAME.fullmatch(name) else "parameter of this name"
            remedy = did_you_mean(name, known) if known else "this path takes none"
            end = "" if remedy.endswith("?") else "."
            raise UsageError(f"There is no {which}; {remedy}{end}")
        if name not in several and len(request.query.getall(name)) > 1:
            raise UsageError(f"The parameter {name!r} is there twice.")


def choice(query: Mapping[str, str], name: str, default: str, choices: Sequence[str]) -> str:
    """The value of a parameter that takes one of a few. Raises UsageError for another one."""
    value = query.get(name, default)
    if value not in choices:
        raise UsageError(f"'{name}' is one of: {', '.join(choices)}.")
    return value


def series_span(query: Mapping[str, str], by: str, now: int) -> Span:
    """The span that the parameters ``since`` (7 days ago by default) and ``until`` (now, ms since
    the epoch, by default) name; see ``parse_span``.

    Raises UsageError, also for more than ``MAX_DAYS_BY_HOUR`` by hour.
    """
    span = parse_span(query.get("since", "7d"), query.get("until"), now)
    if by == "hour" and span.until - span.since > MAX_DAYS_BY_HOUR * DAY_MS + HOUR_MS:
        raise UsageError(
            f"A series by hour has {MAX_DAYS_BY_HOUR} days at most; ask for it by day, or since "
            f"{MAX_DAYS_BY_HOUR}d."
        )
    return span


def compares(query: Mapping[str, str]) -> bool:
    """Whether the parameter ``compare`` asks for the span before. Raises UsageError."""
    return choice(query, "compare", "false", ("true", "false")) == "true"

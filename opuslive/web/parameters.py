"""The parameters of a query: those that are known, each once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from aiohttp import web

from opuslive.errors import UsageError
from opuslive.quantities import did_you_mean

#: What looks like a parameter's name. Anything else may be a secret, and is not repeated.
_NAME = re.compile(r"[A-Za-z_]{1,20}")


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

"""What a client is told that asks for a path which is not served: what it did wrong.

Base URLs are what clients are most often given wrong: some add "/v1" themselves, others don't;
some add a slash. Or they ask for an endpoint that nobody offers here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from aiohttp import web

from opuslive.dialects import Unserved
from opuslive.errors import Code
from opuslive.web.answers import Handler
from opuslive.web.errors import HttpProblem

_VERSION = "v1"


class Advice:
    """Says what is wrong with a path.

    ``served`` are the paths that are served, as aiohttp writes them: a part of a path in braces may
    be anything. ``offered`` is the first among them.
    """

    def __init__(self, served: Collection[str], unserved: Sequence[Unserved], offered: str) -> None:
        versioned = [path for path in served if path.startswith(f"/{_VERSION}/")]
        self._whole = frozenset(path for path in versioned if "{" not in path)
        self._open = tuple(path.partition("{")[0] for path in versioned if "{" in path)
        self._unserved = unserved
        self._offered = offered

    def on(self, path: str, base: str | None) -> str:
        """One sentence or two. ``base`` is the gateway's address, None if it is not known.

        Nothing of the path is in them.
        """
        base_url = f"the base URL to set is {base or 'the address of this gateway'}"
        parts = [part for part in path.split("/") if part]
        if (name := self._name_of(parts)) is not None:
            return f"{name} are not offered by this gateway; {base or ''}{self._offered} is."
        if not self._known(_behind_versions(parts)):
            return f"This path is not served here; {base_url}, with nothing behind it."
        if parts[:1] != [_VERSION] and _VERSION not in parts:
            more = "/v1" if base else " with /v1 behind it"
            return (
                f"/v1 is missing in this path: for a client that does not add it {base_url}{more}."
            )
        if parts.count(_VERSION) > 1:
            return f"/v1 stands twice in this path: {base_url}, without /v1."
        if parts[0] != _VERSION:
            return f"Something stands before /v1 in this path: {base_url}, with nothing behind it."
        return f"This path has a slash too many: {base_url}, without a slash at its end."

    def _name_of(self, parts: Sequence[str]) -> str | None:
        path = f"{_path(_behind_versions(parts))}/"
        for endpoint in self._unserved:
            if path.startswith(f"{endpoint.path}/"):
                return endpoint.name
        return None

    def _known(self, parts: Sequence[str]) -> bool:
        path = _path(parts)
        return path in self._whole or any(
            path.startswith(beginning) and path != beginning for beginning in self._open
        )


def not_served(advice: Advice, base: Callable[[web.Request], str | None]) -> Handler:
    """The handler of every path that is not served. ``base`` tells the gateway's address, as the
    client knows it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        sentence = advice.on(request.path, base(request))
        raise HttpProblem(404, sentence, code=Code.NOT_FOUND)

    return handle


def _behind_versions(parts: Sequence[str]) -> Sequence[str]:
    """What stands behind the last "/v1", if there is one."""
    versions = [index for index, part in enumerate(parts) if part == _VERSION]
    return parts[versions[-1] + 1 :] if versions else parts


def _path(parts: Sequence[str]) -> str:
    return "/" + "/".join((_VERSION, *parts))

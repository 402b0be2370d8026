"""Where a request goes: from a model name to the upstreams that serve it.

The order is that of the configuration alone: by priority, among equals by chance according to
their weights. How the upstreams are (``health``) has no part in it: one that is down keeps its
place. The next one is tried only if nothing of the request was written to the one before, which is
if that could not be connected to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from opuslive.dialects import Dialect, RawHeaders
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.upstreams.pool import UpstreamPool
from opuslive.gateway.upstreams.wire import UpstreamRequest
from opuslive.metering import Buffer


@dataclass(frozen=True, slots=True)
class Upstream:
    """A model provider's account, ready to be sent requests.

    ``authority`` is the value of the Host header; ``path_prefix`` stands before ``/v1/…``.
    """

    name: str
    dialect: Dialect
    pool: UpstreamPool
    authority: bytes
    path_prefix: bytes
    credential: RawHeaders = field(repr=False)
    models: tuple[str, ...]
    priority: int
    weight: int

    def request(
        self,
        method: str,
        path: str,
        query: bytes = b"",
        headers: RawHeaders = (),
        body: Sequence[Buffer] = (),
    ) -> UpstreamRequest:
        """Put a request together. ``headers`` are what goes on of the client's.

        Raises OpusLiveError (invalid_request) if a header could break out of its line.
        """
        target = self.path_prefix + path.encode("ascii")
        if query:
            target += b"?" + query
        lines = [b"%b %b HTTP/1.1" % (method.encode("ascii"), target), b"host: " + self.authority]
        lines += [b"%b: %b" % header for header in (*self.credential, *headers)]
        if method == "POST":
            lines.append(b"content-length: %d" % sum(len(piece) for piece in body))
        head = b"\r\n".join((*lines, b"", b""))
        ends = len(lines) + 1
        if head.count(b"\r") != ends or head.count(b"\n") != ends or b"\0" in head:
            raise OpusLiveError(
                Code.INVALID_REQUEST, "The request has a control character in its head."
            )
        return UpstreamRequest(method, head, body)

    def serves(self, model: str) -> bool:
        return any(fnmatchcase(model, glob) for glob in self.models)


class Router:
    """Model names, aliases, and which upstream serves what.

    ``listed`` gives the ids of the models that the upstreams' own lists name; ``priced_name``
    the name in the price table that a model goes by, if it has one there.
    """

    def __init__(
        self,
        upstreams: Iterable[Upstream],
        aliases: Mapping[str, str],
        priced_name: Callable[[str], str | None],
        pick: Callable[[Sequence[Upstream]], Upstream],
        listed: Callable[[], Collection[str]],
    ) -> None:
        self._upstreams = tuple(sorted(upstreams, key=lambda upstream: upstream.priority))
        self._aliases = dict(aliases)
        self._pick = pick
        self._listed = listed
        literal = {
            model for upstream in self._upstreams for model in upstream.models if not is_glob(model)
        }
        self._priced_name = priced_name
        self._literal = frozenset(literal | set(aliases) | set(aliases.values()))

    @property
    def upstreams(self) -> Sequence[Upstream]:
        return self._upstreams

    @property
    def aliases(self) -> Mapping[str, str]:
        return self._aliases

    def resolve(self, model: str) -> str:
        """The model that an alias stands for; any other name as it is."""
        return self._aliases.get(model, model)

    def candidates(self, model: str, dialect: Dialect) -> Sequence[Upstream]:
        """The upstreams to try for a (resolved) model, in order.

        Lower priority numbers first; among equals by weight. Raises OpusLiveError
        (model_not_found).
        """
        serving = [
            upstream
            for upstream in self._upstreams
            if upstream.dialect is dialect and upstream.serves(model)
        ]
        if not serving:
            raise model_not_found()
        if len(serving) == 1:
            return serving
        ordered: list[Upstream] = []
        while serving:
            first = [upstream for upstream in serving if upstream.priority == serving[0].priority]
            picked = self._pick(first)
            serving.remove(picked)
            ordered.append(picked)
        return ordered

    def kept_name(self, model: str | None) -> str | None:
        """The name to keep in a record: only one that the gateway itself knows.

        Whatever else a client writes into ``model`` is its own content, and is not kept; that
        a glob matches it does not make it known.
        """
        if model is None or model in self._literal or model in self._listed():
            return model
        return self._priced_name(model)

    def literal_models(self) -> Collection[str]:
        """The names that stand in the configuration: of models, not aliases."""
        return self._literal - set(self._aliases)


def allowed(globs: Sequence[str], model: str) -> bool:
    """Whether a key with these model globs may use the (resolved) model. None: any."""
    return not globs or any(fnmatchcase(model, glob) for glob in globs)


def is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def model_not_found() -> OpusLiveError:
    """One answer for a model that does not exist and one that the key may not use."""
    return OpusLiveError(
        Code.MODEL_NOT_FOUND,
        "This model does not exist here, or this API key may not use it; "
        "GET /v1/models lists those it may.",
    )

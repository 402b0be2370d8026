"""Where a request goes: from a model name to the upstreams that serve it.

The order is that of the configuration alone: by priority, among equals by chance according to
their weights. How the upstreams are (``health``) has no part in it: one that is down keeps its
place. The next one is tried only if nothing of the request was written to the one before, which is
if that could not be connected to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from opuslive.dialects import Dialect
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.quantities import is_glob, matches_glob


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
    return not globs or any(matches_glob(glob, model) for glob in globs)


def model_not_found() -> OpusLiveError:
    """One answer for a model that does not exist and one that the key may not use."""
    return OpusLiveError(
        Code.MODEL_NOT_FOUND,
        "This model does not exist here, or this API key may not use it; "
        "GET /v1/models lists those it may.",
    )

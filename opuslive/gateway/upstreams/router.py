"""Where a request may go: from a model name to the upstreams that serve the model.

The configuration alone decides that. (``balancing`` picks one of them, by their health, priorities
and weights.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from opuslive.dialects import Dialect
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.quantities import is_glob, matches_glob


class Router:
    """Knows model names, their aliases, and which upstream serves which model.

    ``listed`` returns the ids in the upstreams' own lists of models. ``priced_name`` returns the
    name under which the price table has a model, if the table has it.
    """

    def __init__(
        self,
        upstreams: Iterable[Upstream],
        aliases: Mapping[str, str],
        priced_name: Callable[[str], str | None],
        listed: Callable[[], Collection[str]],
    ) -> None:
        self._listed = listed
        self._priced_name = priced_name
        self.use(upstreams, aliases)

    def use(self, upstreams: Iterable[Upstream], aliases: Mapping[str, str]) -> None:
        """Route by these from now on. A request that was routed before keeps its upstreams."""
        self._upstreams = tuple(sorted(upstreams, key=lambda upstream: upstream.priority))
        self._aliases = dict(aliases)
        literal = {
            model for upstream in self._upstreams for model in upstream.models if not is_glob(model)
        }
        self._literal = frozenset(literal | set(aliases) | set(aliases.values()))

    def shift(self, delta: int) -> None:
        """Move the health of the upstreams along with the date, by ``delta`` ms."""
        for upstream in self._upstreams:
            upstream.health.shift(delta)

    @property
    def upstreams(self) -> Sequence[Upstream]:
        return self._upstreams

    @property
    def aliases(self) -> Mapping[str, str]:
        """Another object after each ``use``."""
        return self._aliases

    def resolve(self, model: str) -> str:
        """The model that an alias stands for; any other name as it is."""
        return self._aliases.get(model, model)

    def check_full_names(self, models: Iterable[str]) -> None:
        """Raises OpusLiveError (invalid_request) for an alias: only that in the member ``model`` of
        a request is replaced on its way upstream."""
        if any(model in self._aliases for model in models):
            raise OpusLiveError(
                Code.INVALID_REQUEST,
                "An alias of a model can stand in the top-level 'model' only; write the model's "
                "full name where the request names another model.",
            )

    def candidates(
        self, model: str, dialect: Dialect, others: Collection[str] = ()
    ) -> Sequence[Upstream]:
        """The upstreams of the dialect that serve a (resolved) model, lower priorities first.

        They also serve the ``others``, which may take part in the answer.

        Raises OpusLiveError (model_not_found) if there are none; it says so if upstreams of
        another dialect serve the model.
        """
        serving = [
            upstream
            for upstream in self._upstreams
            if upstream.dialect is dialect
            and upstream.serves(model)
            and all(upstream.serves(other) for other in others)
        ]
        if not serving:
            speaking = [each.dialect for each in self._upstreams if each.serves(model)]
            if speaking and dialect not in speaking:
                raise spoken_elsewhere(speaking[0].operations[0].path)
            raise model_not_found()
        return serving

    def kept_name(self, model: str | None) -> str | None:
        """The name to keep in a record; None for a name that the gateway itself does not know.

        Any other name is the client's own content, which is not kept. A glob that matches the
        name does not make the name known.
        """
        if model is None or model in self._literal or model in self._listed():
            return model
        return self._priced_name(model)

    def literal_models(self) -> Collection[str]:
        """The names of models, not of aliases, that stand in the configuration."""
        return self._literal - set(self._aliases)


def allowed(globs: Sequence[str], model: str) -> bool:
    """Whether a key with these globs may use the (resolved) model. Without globs it may use any."""
    return not globs or any(matches_glob(glob, model) for glob in globs)


def unrestricted(globs: Sequence[str]) -> bool:
    """Whether a key with these globs may use every model."""
    return not globs or any(not glob.strip("*") for glob in globs)


def model_not_found() -> OpusLiveError:
    """The same error for a model that does not exist and for a model that the key may not use."""
    return OpusLiveError(
        Code.MODEL_NOT_FOUND,
        "This model does not exist here, or this API key may not use it; "
        "GET /v1/models lists those it may.",
    )


def spoken_elsewhere(path: str) -> OpusLiveError:
    """The error for a model that is served in another format, at ``path``."""
    return OpusLiveError(
        Code.MODEL_NOT_FOUND,
        f"This model is served at {path} only: nothing is converted between formats.",
    )

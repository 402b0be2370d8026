"""The models that a key may ask for, by the format in which it has to ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from opuslive.config.sections import UpstreamConfig
from opuslive.dialects import registry
from opuslive.gateway.upstreams.catalog import Catalog
from opuslive.gateway.upstreams.router import Router, allowed
from opuslive.quantities import is_glob, matches_glob


class ModelNames:
    """Reads them out of the lists of the upstreams and of the configuration. ``upstreams`` returns
    those that are configured, also where none is asked for a list."""

    def __init__(
        self, router: Router, catalog: Catalog, upstreams: Callable[[], Sequence[UpstreamConfig]]
    ) -> None:
        self._router = router
        self._catalog = catalog
        self._upstreams = upstreams

    def by_dialect(self, globs: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Dialect → full names of models that a key with these globs may ask for, in no order but
        that the first suits most purposes. Every dialect of an upstream is there.

        Aliases are left out: clients have words such as ``opus`` for models of their own choice.
        Where nobody knows a model, the one is named that the dialect's provider is known to have.
        """
        router = self._router
        known = [model.id for model in self._catalog.models_for(router, ())]
        known += router.aliases.values()
        served: dict[str, list[str]] = {}
        for upstream in self._upstreams():
            served.setdefault(upstream.dialect, []).extend(upstream.models)
        found: dict[str, Sequence[str]] = {}
        for name, patterns in served.items():
            literal = [pattern for pattern in patterns if not is_glob(pattern)]
            names = [
                model
                for model in dict.fromkeys((*known, *literal))
                if model not in router.aliases and _serves(patterns, model)
            ]
            dialect = registry.DIALECTS[name]
            guess = dialect.known_model
            if not names and guess is not None and _serves(patterns, guess):
                names = [guess]
            names = [model for model in names if allowed(globs, model)]
            first = dialect.choose_model(names) if names else None
            found[name] = sorted(names, key=lambda model: model != first)
        return found

    def first_of(self, globs: Sequence[str]) -> Mapping[str, str | None]:
        """Dialect → the first of those models; None where there is none."""
        return {
            dialect: next(iter(names), None) for dialect, names in self.by_dialect(globs).items()
        }


def _serves(patterns: Sequence[str], model: str) -> bool:
    return any(matches_glob(glob, model) for glob in patterns)

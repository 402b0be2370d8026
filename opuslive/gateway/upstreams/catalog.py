"""The models that may be asked for: the upstreams' own lists, the configuration's names, aliases.

The lists are fetched from the upstreams in the background and kept in memory, so that a
client that looks for models is answered at once, whatever the upstream does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

from opuslive.dialects import Model
from opuslive.gateway.upstreams.answers import reason_of
from opuslive.gateway.upstreams.listing import MAX_MODELS, Listing, list_models
from opuslive.gateway.upstreams.monitor import Monitor
from opuslive.gateway.upstreams.router import Router, allowed
from opuslive.gateway.upstreams.upstream import Upstream

log = logging.getLogger(__name__)

#: Seconds between two fetches of a list, after one that worked and after one that did not; also
#: while the upstream refuses the gateway's account.
REFRESH_SECONDS = 3600.0
RETRY_SECONDS = 60.0
#: Sets of globs for which the usable models are remembered, at most; a set takes 16 KB of memory
#: for each 2,000 models.
MAX_REMEMBERED = 256

#: Name of an upstream, its format and its address: who gives a list. Another server's is another
#: list, also under the same name.
_Source = tuple[str, str, bytes, bytes]


class Catalog:
    """The upstreams' model lists, cached."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._lists: dict[_Source, tuple[Model, ...]] = {}
        self._ids: frozenset[str] = frozenset()
        #: What ``models_for`` found in the present lists: all models that the router's upstreams
        #: serve, and globs of keys → which of them these may ask for.
        self._aliases: Mapping[str, str] | None = None
        self._served: Mapping[str, Model] | None = None
        self._usable: dict[tuple[str, ...], Sequence[Model]] = {}
        #: What keeps the list of an upstream fresh.
        self._tasks: dict[Upstream, asyncio.Task[None]] = {}

    def listed(self) -> Collection[str]:
        """The ids that the upstreams' lists name."""
        return self._ids

    def use(self, upstreams: Sequence[Upstream]) -> None:
        """Fetch the lists of these upstreams, and no others, and keep them fresh until ``close``.

        A new upstream has the list of the one that had its name and address, until its own has
        come.
        """
        sources = {_source(upstream) for upstream in upstreams}
        self._lists = {source: list_ for source, list_ in self._lists.items() if source in sources}
        self._take_over()
        for upstream in set(self._tasks) - set(upstreams):
            self._tasks.pop(upstream).cancel()
        for upstream in upstreams:
            if upstream not in self._tasks:
                self._tasks[upstream] = asyncio.ensure_future(self._keep_fresh(upstream))

    def take(self, upstream: Upstream, models: tuple[Model, ...]) -> None:
        """The upstream has this list now."""
        source = _source(upstream)
        if models != self._lists.get(source):
            self._lists[source] = models
            self._take_over()

    async def close(self) -> None:
        tasks = self._tasks.values()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def models_for(self, router: Router, globs: Sequence[str]) -> Sequence[Model]:
        """What a key with these model globs may ask for, aliases included."""
        if router.aliases is not self._aliases:
            self._forget()
            self._aliases = router.aliases
        key = tuple(globs)
        usable = self._usable.get(key)
        if usable is None:
            if self._served is None:
                self._served = self._served_by(router)
            # Many globs times many models take 10 ms: not with each request.
            if len(self._usable) >= MAX_REMEMBERED:
                self._usable.clear()
            found = {name: model for name, model in self._served.items() if allowed(key, name)}
            usable = (*_alias_entries(router.aliases, found), *found.values())
            self._usable[key] = usable
        return usable

    def _served_by(self, router: Router) -> Mapping[str, Model]:
        """Name → model of all that an upstream serves, by the lists and by the configuration."""
        known: dict[str, Model] = {}
        for upstream in router.upstreams:
            for model in self._list_of(upstream):
                if model.id not in known and upstream.serves(model.id):
                    known[model.id] = model
        for name in sorted(router.literal_models()):
            if any(upstream.serves(name) for upstream in router.upstreams):
                known.setdefault(name, Model(name, name))
        return known

    def _list_of(self, upstream: Upstream) -> Sequence[Model]:
        return self._lists.get(_source(upstream), ())

    def _take_over(self) -> None:
        """The lists have changed."""
        self._ids = frozenset(model.id for list_ in self._lists.values() for model in list_)
        self._forget()

    def _forget(self) -> None:
        """The lists, or the router's upstreams, are no longer what ``models_for`` found its answers
        in."""
        self._served = None
        self._usable.clear()

    async def _keep_fresh(self, upstream: Upstream) -> None:
        while True:
            fetched = await self._fetch_list(upstream)
            models = fetched.models
            if not fetched.whole:
                # What did not come is as it was.
                models = {model.id: model for model in self._list_of(upstream)} | models
            self.take(upstream, tuple(models.values())[:MAX_MODELS])
            await asyncio.sleep(RETRY_SECONDS)
            left = REFRESH_SECONDS - RETRY_SECONDS if fetched.whole else 0.0
            # A list that is given tells that a credential works again.
            while left > 0 and upstream.health.refused_since is None:
                await asyncio.sleep(min(left, RETRY_SECONDS))
                left -= RETRY_SECONDS

    async def _fetch_list(self, upstream: Upstream) -> Listing:
        listing = await list_models(upstream)
        if listing.accepted:
            self._monitor.list_given(upstream)
        if listing.refused is not None:
            self._monitor.list_refused(upstream, listing.refused)
        if listing.error is not None:
            log.info(
                "upstream %s gave no list of models: %s (%s)",
                upstream.name,
                listing.error,
                reason_of(listing.error),
            )
        elif not listing.whole:
            log.info("upstream %s gave no list of models that can be read", upstream.name)
        return listing


def _source(upstream: Upstream) -> _Source:
    return upstream.name, upstream.dialect.name, upstream.authority, upstream.path_prefix


def _alias_entries(aliases: Mapping[str, str], usable: Mapping[str, Model]) -> Sequence[Model]:
    """The aliases, each by its own name beside that of its model: people pick from both."""
    return [
        Model(alias, f"{alias} ({usable[target].display_name})", usable[target].created_at)
        for alias, target in sorted(aliases.items())
        if target in usable
    ]

"""A new configuration for a gateway that runs.

Everything of the new configuration is made first: files are read, prices and limits prepared. Only
if all of that works it comes into force, in one synchronous step, so that every request finds
either the old configuration or the new one, whole. What is not used any more is closed
afterwards. What only a restart can change stays as it was, and is named.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from opuslive.bootstrap import (
    SOMEBODY,
    Gateway,
    alert_channels,
    check_channels,
    limit_policy,
    make_upstream,
    price_overrides,
    read_credential,
    upstream_tls,
)
from opuslive.config.changes import compare, upstream_key
from opuslive.config.files import Settings
from opuslive.config.in_force import shown
from opuslive.config.sections import Config, UpstreamConfig
from opuslive.dialects import registry
from opuslive.errors import Code, OpusLiveError
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.pricing.prices import Prices

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """What puts a part of the new configuration into force. It waits for nothing, and does not
    fail. ``changed`` are the keys whose files have other content than before."""

    apply: Callable[[], object]
    changed: Sequence[str] = ()


#: Makes a step of a configuration. Raises UsageError if that can't come into force.
Prepare = Callable[[Config], Step]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did. ``file`` is the configuration, which holds since ``since`` (ms since the
    epoch). ``changed`` and ``needs_restart`` are names of keys."""

    file: str | None
    since: int
    changed: Sequence[str]
    needs_restart: Sequence[str]


#: Reloads the configuration, as ``Reloader.reload`` does.
Reload = Callable[[], Awaitable[Reloaded]]


async def nothing_to_reload() -> Reloaded:
    """A ``Reload`` where no server runs: it raises OpusLiveError (conflict)."""
    raise OpusLiveError(Code.CONFLICT, "No server runs here that could reload its configuration.")


class Reloader:
    """Reloads the configuration of one gateway.

    ``load`` reads it as at the start; ``environ`` may have credentials of upstreams. ``parts``
    prepare what the gateway itself does not have.
    """

    def __init__(
        self,
        gateway: Gateway,
        load: Callable[[], Settings],
        environ: Mapping[str, str],
        parts: Iterable[Prepare] = (),
    ) -> None:
        self._gateway = gateway
        self._load = load
        self._environ = environ
        self._parts = tuple(parts)
        self._one_at_a_time = asyncio.Lock()
        self._closed = False
        self._under_way: set[asyncio.Task[Reloaded]] = set()
        #: A reload that has not read anything yet: whoever asks for one meanwhile shares it.
        self._next: asyncio.Task[Reloaded] | None = None

    async def reload(self) -> Reloaded:
        """Put the configuration into force as it is written now, once earlier reloads are over.

        It is carried through, also if the caller is cancelled. Raises UsageError for a
        configuration that can't come into force, and StorageUnavailable: all is as it was then.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(self._logged())
            self._under_way.add(self._next)
            self._next.add_done_callback(self._under_way.discard)
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """Wait for what is under way, and begin nothing more."""
        self._closed = True
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _logged(self) -> Reloaded:
        try:
            async with self._one_at_a_time:
                self._next = None
                reloaded = await self._reload()
        except OpusLiveError as error:
            log.error("The configuration from before stays in force: %s", error.message)
            raise
        changed = ", ".join(reloaded.changed) or "nothing"
        if reloaded.needs_restart:
            log.warning(
                "The configuration was reloaded; changed: %s; needs a restart: %s.",
                changed,
                ", ".join(reloaded.needs_restart),
            )
        else:
            log.info("the configuration was reloaded; changed: %s", changed)
        return reloaded

    async def _reload(self) -> Reloaded:
        if self._closed:
            raise OpusLiveError(Code.OVERLOADED, "The server is ending.")
        gateway, in_force = self._gateway, self._gateway.in_force
        settings = await asyncio.to_thread(self._load)
        if settings.warning is not None:
            log.warning(settings.warning)
        changes = compare(in_force.config, settings.config)
        config = changes.config
        steps = [prepare(config) for prepare in self._parts]
        upstreams, renewed = await self._upstreams(config, settings.folder)
        await asyncio.to_thread(check_channels, config.alerts, settings.folder)
        channels = alert_channels(config.alerts, settings.folder)
        prices, policy = Prices(price_overrides(config)), limit_policy(config)
        async with gateway.administration.keys_unchanged():
            # Last: from here to the end nothing else may fail.
            groups = await gateway.storage.group_changes()
            await gateway.admission.prepare_policy(policy, prices, groups)
            files = (*renewed, *(name for step in steps for name in step.changed))
            changed = tuple(dict.fromkeys((*changes.applied, *files)))
            if changed:
                in_force.use(config, gateway.clock.steady_ms())
            in_force.file = shown(settings.file)
            in_force.needs_restart = changes.needs_restart
            gateway.prices.use(prices)
            gateway.admission.apply_policy(policy)
            self._use_upstreams(upstreams, config)
            gateway.authenticator.contact = config.admin.contact or SOMEBODY
            gateway.administration.use_defaults(config.keys.prefix, config.keys.default_limits)
            gateway.channels.use(channels)
            for step in steps:
                step.apply()
        return Reloaded(in_force.file, in_force.since, changed, changes.needs_restart)

    async def _upstreams(
        self, config: Config, folder: Path
    ) -> tuple[Sequence[Upstream], Sequence[str]]:
        """The upstreams of a configuration, and the keys whose files have another credential.

        One that differs in nothing that its connections depend on keeps them, and its health.
        Raises UsageError if a credential is missing.
        """
        before = {each.name: each for each in self._gateway.in_force.config.upstreams}
        present = {each.name: each for each in self._gateway.router.upstreams}
        upstreams, renewed = [], []
        tls: ssl.SSLContext | None = None
        for each in config.upstreams:
            credential = await asyncio.to_thread(read_credential, each, folder, self._environ)
            old, was = present.get(each.name), before.get(each.name)
            if old is not None and was is not None and _connects_alike(was, each):
                if list(old.credential) == _credential_headers(each, credential):
                    upstreams.append(_routed_as(old, each))
                    continue
                if each.api_key_file is not None and each.api_key_file == was.api_key_file:
                    renewed.append(upstream_key(each.name, "api_key_file"))
            if tls is None and each.base_url.startswith("https:"):
                tls = await asyncio.to_thread(upstream_tls)
            upstreams.append(make_upstream(each, credential, tls))
        return upstreams, renewed

    def _use_upstreams(self, upstreams: Sequence[Upstream], config: Config) -> None:
        """Route to these from now on. Requests that run end where they were sent."""
        router, catalog = self._gateway.router, self._gateway.catalog
        pools = {each.pool for each in upstreams}
        unused = {each.pool for each in router.upstreams} - pools
        router.use(upstreams, config.aliases)
        catalog.use(router.upstreams)
        for each in upstreams:
            # Whatever was wrong with the account, this may be the end of it.
            each.health.try_again()
        for pool in unused:
            pool.retire()


def _connects_alike(was: UpstreamConfig, now: UpstreamConfig) -> bool:
    """Whether they differ at most in what they serve, in their order and in where the credential
    is read from."""
    return now == replace(
        was,
        models=now.models,
        priority=now.priority,
        weight=now.weight,
        api_key=now.api_key,
        api_key_env=now.api_key_env,
        api_key_file=now.api_key_file,
    )


def _credential_headers(
    upstream: UpstreamConfig, credential: str | None
) -> list[tuple[bytes, bytes]]:
    dialect = registry.DIALECTS[upstream.dialect]
    return [] if credential is None else list(dialect.credential_headers(credential))


def _routed_as(upstream: Upstream, config: UpstreamConfig) -> Upstream:
    """The same upstream, with its connections and its health; it serves what the configuration
    says."""
    routed = (config.models, config.priority, config.weight)
    if (upstream.models, upstream.priority, upstream.weight) == routed:
        return upstream
    return replace(upstream, models=config.models, priority=config.priority, weight=config.weight)

"""A new configuration for a gateway that runs.

Everything of the new configuration is made first: files are read, prices and limits prepared. Only
if all of that works it comes into force, in one synchronous step, so that every request finds
either the old configuration or the new one, whole. What is not used any more is closed
afterwards. What only a restart can change stays as it was, and is named.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from opuslive.bootstrap import SOMEBODY, Gateway, limit_policy, price_overrides
from opuslive.config.changes import compare
from opuslive.config.files import Settings
from opuslive.config.in_force import shown
from opuslive.config.sections import Config
from opuslive.errors import Code, OpusLiveError
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

    async def reload(self) -> Reloaded:
        """Put the configuration into force as it is written now, once earlier reloads are over.

        It is carried through, also if the caller is cancelled. Raises UsageError for a
        configuration that can't come into force, and StorageUnavailable: all is as it was then.
        """
        task = asyncio.ensure_future(self._logged())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for what is under way, and begin nothing more."""
        self._closed = True
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _logged(self) -> Reloaded:
        try:
            async with self._one_at_a_time:
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
        prices, policy = Prices(price_overrides(config)), limit_policy(config)
        async with gateway.administration.keys_unchanged():
            # Last: from here to the end nothing else may fail.
            groups = await gateway.storage.group_changes()
            await gateway.admission.prepare_policy(policy, prices, groups)
            changed = (*changes.applied, *(name for step in steps for name in step.changed))
            if changed:
                in_force.use(config, gateway.clock.steady_ms())
            in_force.file = shown(settings.file)
            in_force.needs_restart = changes.needs_restart
            gateway.prices.use(prices)
            gateway.admission.apply_policy(policy)
            gateway.authenticator.contact = config.admin.contact or SOMEBODY
            gateway.administration.use_defaults(config.keys.prefix, config.keys.default_limits)
            gateway.webhook.use(config.alerts.webhook)
            for step in steps:
                step.apply()
        return Reloaded(in_force.file, in_force.since, changed, changes.needs_restart)

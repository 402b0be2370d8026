"""The sandbox: a server whose only upstream is a simulated provider."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from opuslive.administration.keys import KeyChanges
from opuslive.bootstrap import Gateway
from opuslive.config.files import Settings
from opuslive.config.sections import PriceConfig, UpstreamConfig
from opuslive.errors import UsageError
from opuslive.sandbox import DIALECT, MODEL, SimulatedProvider

#: How long the sandbox's key works.
KEY_MS = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Simulation:
    """A provider that runs. ``url`` is that of the sandbox's database."""

    provider: SimulatedProvider
    url: str

    def over(self, settings: Settings) -> Settings:
        """The settings with the provider as the only upstream."""
        upstream = UpstreamConfig(name="sandbox", base_url=self.provider.base_url, dialect=DIALECT)
        # With a price, the pages show costs, and limits in USD can be tried.
        prices = {**settings.config.prices, MODEL: PriceConfig(input=3.0, output=15.0)}
        config = replace(settings.config, upstreams=(upstream,), prices=prices)
        return replace(settings, config=config)


@contextlib.asynccontextmanager
async def simulated(settings: Settings) -> AsyncIterator[Simulation]:
    """Run a simulated provider. The database is a temporary one unless one is configured.

    Raises UsageError if no folder for temporary files can be written to.
    """
    provider = SimulatedProvider()
    await provider.start()
    try:
        with contextlib.ExitStack() as stack:
            url = settings.config.storage.url
            if url is None:
                url = f"sqlite://{stack.enter_context(_temporary_folder())}/opuslive.db"
            yield Simulation(provider, url)
    finally:
        await provider.close()


async def make_key(gateway: Gateway) -> str:
    """The credential of a new key. It is printed on a terminal, and its database may be kept: so
    it expires."""
    names = {key.name for key in gateway.holders.all_keys()}
    candidates = itertools.chain(["sandbox"], (f"sandbox {n}" for n in itertools.count(2)))
    name = next(name for name in candidates if name not in names)
    expires_at = gateway.clock.wall_ms() + KEY_MS
    _, credential = await gateway.administration.create(
        KeyChanges(name=name, set_expiry=True, expires_at=expires_at)
    )
    return credential


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="opuslive-sandbox-")
    except OSError as error:
        raise UsageError(
            "Can't make a folder for the sandbox's database "
            f"({error.strerror or error}); set TMPDIR to one that can be written to."
        ) from None

"""How the process is doing: read once here, and rendered by every interface.

When the process is told to end (SIGTERM), it is *stopping*: it is not ready any more, so that
load balancers send requests elsewhere, and requests that come all the same are served. After
``[server] drain_notice`` it is *draining*, too: it listens no longer, running requests finish,
new ones are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from opuslive.administration.certificate import CertificateStatus
from opuslive.administration.version import version
from opuslive.gateway.exchanges import Exchanges
from opuslive.gateway.holder import Holders
from opuslive.gateway.upstreams.health import UpstreamState
from opuslive.gateway.upstreams.router import Router
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.storage import Storage
from opuslive.times import Clock

#: Why a process is not ready: the first of these that holds.
Unready = Literal["draining", "stopping", "storage", "upstream"]


class Configuration(Protocol):
    """The configuration in force, as far as it is shown. ``since`` is in ms since the epoch;
    ``file`` is None where there is none, ``needs_restart`` are the keys that it has otherwise."""

    file: str | None
    since: int
    needs_restart: Sequence[str]


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """An upstream and how it is doing; ``connections`` are open, ``idle`` ones of them wait for
    a request. Times are in ms since the epoch; None if it never happened. It is in its ``state``
    ``since``, where that is none of health; until ``out_until`` it is asked last."""

    name: str
    dialect: str
    authority: str
    models: Sequence[str]
    priority: int
    weight: int
    connections: int
    idle: int
    state: UpstreamState
    since: int | None
    out_until: int | None
    failures_in_a_row: int
    last_failure: str | None
    last_failure_at: int | None
    last_success_at: int | None


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """The running gateway.

    ``unrecorded_denials`` counts the requests that the gateway or a provider refused without a
    record since ``started_at`` (ms since the epoch). ``all_down`` says that no upstream would
    answer a request. ``certificate`` is the gateway's own, None without one. ``stopping`` and
    ``draining``: see the module.
    """

    version: str
    started_at: int
    configuration: Configuration
    in_flight: int
    unrecorded_denials: int
    stopping: bool
    draining: bool
    storage_healthy: bool
    all_down: bool
    keys: int
    upstreams: Sequence[UpstreamStatus]
    certificate: CertificateStatus | None = None

    @property
    def unready(self) -> Unready | None:
        """Why load balancers should send no requests here, if they should not."""
        if self.draining:
            return "draining"
        if self.stopping:
            return "stopping"
        if not self.storage_healthy:
            return "storage"
        return "upstream" if self.all_down else None

    @property
    def ready(self) -> bool:
        """Whether load balancers should send requests here."""
        return self.unready is None

    @property
    def upstreams_up(self) -> int:
        """How many upstreams are not aside."""
        return sum(each.out_until is None for each in self.upstreams)

    @property
    def out(self) -> Sequence[str]:
        """The upstreams that failed too often in a row."""
        return [each.name for each in self.upstreams if each.state is UpstreamState.OUT]

    @property
    def without_account(self) -> Sequence[str]:
        """The upstreams that refuse the gateway's credential, or say that its credit is used up."""
        return [
            each.name for each in self.upstreams if each.state is UpstreamState.CREDENTIAL_REFUSED
        ]


class StatusReader:
    """Reads how the process is doing."""

    def __init__(
        self,
        exchanges: Exchanges,
        storage: Storage,
        router: Router,
        holders: Holders,
        configuration: Configuration,
        clock: Clock,
        certificate: Callable[[], CertificateStatus] | None = None,
    ) -> None:
        self._exchanges = exchanges
        self._storage = storage
        self._router = router
        self._holders = holders
        self._configuration = configuration
        self._clock = clock
        self._certificate = certificate

    def read(self) -> ProcessStatus:
        now, upstreams = self._clock.steady_ms(), self._router.upstreams
        return ProcessStatus(
            version=version(),
            started_at=self._clock.started_at,
            configuration=self._configuration,
            in_flight=self._exchanges.running,
            unrecorded_denials=self._exchanges.unrecorded_denials,
            stopping=self._exchanges.stopping,
            draining=self._exchanges.draining,
            storage_healthy=self._storage.healthy,
            all_down=bool(upstreams) and all(each.health.is_down(now) for each in upstreams),
            keys=len(self._holders),
            upstreams=[_upstream_status(upstream, now) for upstream in upstreams],
            certificate=None if self._certificate is None else self._certificate(),
        )


def _upstream_status(upstream: Upstream, now: int) -> UpstreamStatus:
    health = upstream.health
    return UpstreamStatus(
        name=upstream.name,
        dialect=upstream.dialect.name,
        authority=upstream.authority.decode("ascii"),
        models=upstream.models,
        priority=upstream.priority,
        weight=upstream.weight,
        connections=upstream.pool.open_connections,
        idle=upstream.pool.idle_connections,
        state=health.state(now),
        since=health.since(now),
        out_until=health.aside_until(now) or None,
        failures_in_a_row=health.failures_in_a_row,
        last_failure=health.failure_text,
        last_failure_at=health.last_failure_at,
        last_success_at=health.last_success_at,
    )

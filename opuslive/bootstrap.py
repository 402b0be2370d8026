"""The composition root: from a configuration to a running gateway.

The server, the commands and the tests all come through here. The objects that read the clock,
chance or a credential are made here and passed to the classes that use them. (``config.files``
reads the configuration.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import structs

from opuslive.administration.certificate import CertificateStatus
from opuslive.administration.keys import Administration
from opuslive.config.alerts import AlertsConfig, SmtpConfig
from opuslive.config.files import Settings, exposure_warning, metrics_token, others_may_read
from opuslive.config.in_force import ConfigInForce, shown
from opuslive.config.sections import Config, UpstreamConfig
from opuslive.dialects import Dialect, registry
from opuslive.errors import Code, UsageError
from opuslive.gateway.admission.admission import Admission
from opuslive.gateway.admission.bulkheads import counting_bulkhead
from opuslive.gateway.alerts.alerts import Alerts, Message
from opuslive.gateway.alerts.channels import ChannelName, Channels
from opuslive.gateway.alerts.delivery import Channel
from opuslive.gateway.alerts.expiries import Expiries
from opuslive.gateway.alerts.formats import format_of
from opuslive.gateway.alerts.mail import Mail
from opuslive.gateway.alerts.webhook import Webhook
from opuslive.gateway.authenticator import Authenticator
from opuslive.gateway.exchanges import Exchanges
from opuslive.gateway.forwarding import Forwarder
from opuslive.gateway.holder import Holder, Holders
from opuslive.gateway.metrics import Metrics
from opuslive.gateway.prover import Prover
from opuslive.gateway.settlement import Recorder
from opuslive.gateway.timekeeping import Timekeeper
from opuslive.gateway.upstreams.balancing import Balancer
from opuslive.gateway.upstreams.catalog import Catalog
from opuslive.gateway.upstreams.failures import FailureLog
from opuslive.gateway.upstreams.monitor import Monitor
from opuslive.gateway.upstreams.pool import Endpoint, UpstreamPool
from opuslive.gateway.upstreams.router import Router
from opuslive.gateway.upstreams.upstream import Upstream
from opuslive.gateway.upstreams.wire import Timeouts
from opuslive.keys import Key
from opuslive.limits.policy import LimitPolicy
from opuslive.ownership import check_at_hand, check_file
from opuslive.pricing.prices import PriceOverride, Prices
from opuslive.quantities import matches_glob
from opuslive.storage import Storage, open_storage
from opuslive.times import Clock
from opuslive.usage import UsageRecord

log = logging.getLogger(__name__)

#: Whom holders ask, where the configuration does not say.
SOMEBODY = "the administrator"


def system_clock() -> Clock:
    """The machine's clocks."""
    # It goes on while the machine sleeps, where there is such a clock.
    steady = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    offset = time.time_ns() - time.clock_gettime_ns(steady)
    return Clock(
        wall_ms=lambda: time.time_ns() // 1_000_000,
        elapsed_ms=lambda: (offset + time.clock_gettime_ns(steady)) // 1_000_000,
        passed_ns=time.perf_counter_ns,
    )


@dataclass(frozen=True, slots=True)
class Origin:
    """What a gateway was opened from. ``url`` is that of the database."""

    settings: Settings
    url: str
    environ: Mapping[str, str] = field(repr=False)
    serving: bool


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of a running gateway.

    ``simulated_model`` is the model of a simulated provider, where that is the only upstream.
    ``origin`` is None unless it was opened by ``open_gateway``. ``metrics_token`` opens the
    metrics, beside the administrator's password; None if nothing does. ``certificate`` tells how
    the gateway's own certificate stands, where it has one.
    """

    in_force: ConfigInForce
    clock: Clock
    storage: Storage
    holders: Holders
    authenticator: Authenticator
    admission: Admission
    router: Router
    catalog: Catalog
    exchanges: Exchanges
    administration: Administration
    channels: Channels
    expiries: Expiries
    prices: Prices
    timekeeper: Timekeeper
    metrics: Metrics
    metrics_token: str | None = field(default=None, repr=False)
    simulated_model: str | None = None
    origin: Origin | None = None
    certificate: Callable[[], CertificateStatus] | None = None

    def start(self) -> None:
        """Begin what goes on in the background."""
        self.catalog.use(self.router.upstreams)
        self.exchanges.start()
        self.timekeeper.start()
        self.channels.start()
        self.expiries.start()

    async def close(self) -> None:
        """Let go of everything; what was recorded is on disk when this returns."""
        self.timekeeper.stop()
        self.exchanges.stop()
        await self.expiries.stop()
        await self.catalog.close()
        for upstream in self.router.upstreams:
            upstream.pool.close()
        self.authenticator.close()
        await self.storage.close()
        await self.channels.close()


async def open_gateway(
    settings: Settings,
    url: str,
    *,
    environ: Mapping[str, str],
    serving: bool = True,
    clock: Clock | None = None,
    simulated_model: str | None = None,
) -> Gateway:
    """Put a gateway together on the database at ``url``.

    ``simulated_model``: the upstream of the settings is a simulated one, with this model.
    Without ``serving`` it has no upstreams, needs no credential of any, and records nothing of its
    own accord, so that commands can read where nothing can be written. Raises UsageError,
    DatabaseInUse if another process has the database, and StorageUnavailable.
    """
    config = settings.config
    configured = config.upstreams if serving else ()
    upstreams = _upstreams(configured, settings.folder, environ)
    token = metrics_token(config, environ) if serving else None
    channels = alert_channels(config.alerts, settings.folder)
    if serving:
        check_channels(config.alerts, settings.folder)
    storage = await open_storage(url)
    try:
        gateway = await _put_together(
            settings, storage, upstreams, clock or system_clock(), serving=serving
        )
        gateway.channels.use(channels)
        origin = Origin(settings, url, environ, serving)
        return replace(gateway, metrics_token=token, simulated_model=simulated_model, origin=origin)
    except BaseException:
        # It holds the lock, and threads.
        await storage.close()
        raise


async def _put_together(
    settings: Settings,
    storage: Storage,
    upstreams: Sequence[Upstream],
    clock: Clock,
    *,
    serving: bool,
) -> Gateway:
    config = settings.config
    prices = Prices(price_overrides(config))
    if serving:
        await _close_open_records(storage, prices)
    gateway = wire(config, storage, await storage.keys(), upstreams, prices, clock)
    gateway.in_force.file = shown(settings.file)
    await gateway.admission.load(await storage.group_changes())
    return gateway


def wire(
    config: Config,
    storage: Storage,
    keys: Iterable[Key],
    upstreams: Sequence[Upstream],
    prices: Prices,
    clock: Clock,
    deliver: Callable[[Message], object] | None = None,
) -> Gateway:
    """Make the parts of a gateway, and give each what it uses. Nothing is awaited or begun.

    ``deliver`` gets the alerts, by default the channels, of which there are none yet.
    """
    now_ms = clock.steady_ms
    in_force = ConfigInForce(config, now_ms())
    holders = Holders(Holder(key, now_ms()) for key in keys)
    authenticator = Authenticator(
        holders,
        storage.checksum_key,
        Prover(clock.elapsed_ms),
        clock.wall_ms,
        config.admin.contact or SOMEBODY,
    )
    channels = Channels({})
    alerts = Alerts(now_ms, deliver or channels.send)
    metrics = Metrics(by_key=config.metrics.keys)
    admission = Admission(
        limit_policy(config),
        holders,
        prices,
        storage,
        now_ms,
        alerts.threshold_crossed,
        metrics.refused,
    )
    failures = FailureLog(clock.elapsed_ms)
    monitor = Monitor(failures, alerts.account_rejected, now_ms)
    catalog = Catalog(monitor)
    router = Router(upstreams, config.aliases, prices.priced_name, catalog.listed)
    exchanges = Exchanges(
        authenticator,
        router,
        admission,
        Forwarder(Balancer(now_ms), monitor, failures, clock.wall_ms),
        Recorder(storage, router.kept_name, prices.tier_of, now_ms, clock.passed_ns, metrics),
        counting_bulkhead(),
    )
    administration = Administration(
        storage,
        holders,
        admission,
        clock,
        key_prefix=config.keys.prefix,
        default_limits=config.keys.default_limits,
    )
    timekeeper = Timekeeper(
        clock,
        (admission, holders, exchanges, router, alerts, in_force),
        asyncio.get_running_loop().call_later,
    )
    return Gateway(
        in_force=in_force,
        clock=clock,
        storage=storage,
        holders=holders,
        authenticator=authenticator,
        admission=admission,
        router=router,
        catalog=catalog,
        exchanges=exchanges,
        administration=administration,
        channels=channels,
        expiries=Expiries(holders.all_keys, storage, clock.wall_ms, alerts.key_expires),
        prices=prices,
        timekeeper=timekeeper,
        metrics=metrics,
    )


async def _close_open_records(storage: Storage, prices: Prices) -> None:
    """Settle the requests that ran when an earlier process was killed."""

    def closed(record: UsageRecord) -> UsageRecord:
        own, *parts = (
            structs.replace(part, tier=prices.tier_of(part.model, part.tokens, record.time))
            for part in record.by_model
        )
        return structs.replace(
            record, status=Code.OVERLOADED.status, tier=own.tier, parts=tuple(parts)
        )

    count = await storage.close_open_records(closed)
    if count:
        log.warning(
            "%d requests were running when this gateway last ended without being told to; they "
            "are recorded as far as their usage was known",
            count,
        )


def price_overrides(
    config: Config, dialects: Mapping[str, Dialect] = registry.DIALECTS
) -> Mapping[str, PriceOverride]:
    """Model → the price that the configuration gives it.

    What the configuration does not say about caches is what the model's provider charges for
    them. The provider is the first upstream, by priority, that serves the model. ``dialects``:
    name → dialect.
    """
    upstreams = sorted(config.upstreams, key=lambda upstream: upstream.priority)

    def dialect_of(model: str) -> Dialect:
        for upstream in upstreams:
            if any(matches_glob(glob, model) for glob in upstream.models):
                return dialects[upstream.dialect]
        return registry.DEFAULT

    return {
        model: PriceOverride(
            price.input,
            price.output,
            price.cache_read,
            price.cache_write_5m,
            price.cache_write_1h,
            dialect_of(model).cache_factors,
        )
        for model, price in config.prices.items()
    }


def limit_policy(config: Config) -> LimitPolicy:
    """What the configuration says of limits."""
    limits = config.limits
    return LimitPolicy(
        reserve_output=limits.reserve_output,
        # As a fraction, so that 0.1 is a tenth.
        cache_read_weight=Fraction(str(limits.cache_read_weight)),
        max_wait=limits.max_wait,
        gateway=limits.gateway,
        groups=limits.groups,
        contact=config.admin.contact or SOMEBODY,
        default_request_limit=config.keys.default_request_limit,
    )


def _upstreams(
    configured: Sequence[UpstreamConfig],
    folder: Path,
    environ: Mapping[str, str],
) -> Sequence[Upstream]:
    tls: ssl.SSLContext | None = None
    upstreams = []
    for upstream in configured:
        if tls is None and upstream.base_url.startswith("https:"):
            tls = upstream_tls()
        upstreams.append(make_upstream(upstream, read_credential(upstream, folder, environ), tls))
    return upstreams


def alert_channels(config: AlertsConfig, folder: Path) -> Mapping[ChannelName, Channel]:
    """The channels that the configuration has. No file is read yet."""
    channels: dict[ChannelName, Channel] = {}
    if config.webhook is not None:
        host = urlsplit(config.webhook).hostname or ""
        form = format_of(host) if config.format == "auto" else config.format
        channels["webhook"] = Webhook(config.webhook, form)
    if config.smtp is not None:
        channels["mail"] = mail_channel(config.smtp, folder)
    return channels


def mail_channel(smtp: SmtpConfig, folder: Path) -> Mail:
    """The channel through an SMTP server; its password is read when it is needed."""

    def login() -> tuple[str, str] | None:
        return None if smtp.user is None else (smtp.user, mail_password(smtp, folder))

    return Mail(
        host=smtp.host,
        port=smtp.port_in_use,
        encryption=smtp.tls,
        sender=smtp.from_,
        recipients=smtp.to,
        login=login,
        tls=ssl.create_default_context,
    )


def check_channels(config: AlertsConfig, folder: Path) -> None:
    """Raise UsageError if the password of the mail server can't be read; the log has a warning if
    others may read it."""
    if config.smtp is not None and config.smtp.password_file is not None:
        mail_password(config.smtp, folder)
        _warn_of_readers(folder / config.smtp.password_file)


def mail_password(smtp: SmtpConfig, folder: Path) -> str:
    """The first line of the password's file. Raises UsageError."""
    assert smtp.password_file is not None
    path = folder / smtp.password_file
    try:
        check_file(path, "The password in", "name another file in password_file of [alerts.smtp]")
        check_at_hand(path)
        password = path.read_text("utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError):
        password = ""
    if not password or not password.isprintable():
        raise UsageError(
            f"The password of the mail server is missing; put it into the file {path}."
        )
    return password


def upstream_tls() -> ssl.SSLContext:
    """TLS towards upstreams, with the authorities that this machine trusts."""
    tls = ssl.create_default_context()
    tls.set_alpn_protocols(["http/1.1"])
    return tls


def make_upstream(
    upstream: UpstreamConfig, credential: str | None, tls: ssl.SSLContext | None
) -> Upstream:
    """An upstream as requests go there. ``tls`` counts where its address is an https one."""
    dialect = registry.DIALECTS[upstream.dialect]
    url = urlsplit(upstream.base_url)
    assert url.hostname is not None
    secure = url.scheme == "https"
    return Upstream(
        name=upstream.name,
        dialect=dialect,
        pool=UpstreamPool(
            Endpoint(url.hostname, url.port or (443 if secure else 80), tls if secure else None),
            Timeouts(
                upstream.connect_timeout,
                upstream.first_byte_timeout,
                upstream.idle_timeout,
            ),
            asyncio.get_running_loop(),
        ),
        authority=url.netloc.encode("ascii"),
        path_prefix=url.path.encode("ascii"),
        credential=() if credential is None else dialect.credential_headers(credential),
        models=upstream.models,
        priority=upstream.priority,
        weight=upstream.weight,
    )


def read_credential(
    upstream: UpstreamConfig, folder: Path, environ: Mapping[str, str]
) -> str | None:
    """The same as ``credential_of``; the log has a warning if others may read its file."""
    credential = credential_of(upstream, folder, environ)
    if upstream.api_key_file is not None:
        _warn_of_readers(folder / upstream.api_key_file)
    return credential


def credential_of(upstream: UpstreamConfig, folder: Path, environ: Mapping[str, str]) -> str | None:
    """The upstream's credential, from wherever the configuration says it is.

    Raises UsageError if it is missing, or in a file that another user could change.
    """
    if upstream.api_key_env is not None:
        credential = environ.get(upstream.api_key_env, "").strip()
        where = f"the environment variable {upstream.api_key_env}"
    elif upstream.api_key_file is not None:
        path = folder / upstream.api_key_file
        where = f"the file {path}"
        try:
            check_file(path, "The credential in", "name another file in api_key_file")
            check_at_hand(path)
            credential = path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            credential = ""
    else:
        return upstream.api_key
    if not credential or not (credential.isascii() and credential.isprintable()):
        raise UsageError(
            f"The credential of the upstream {upstream.name!r} is missing; "
            f"put the provider's API key into {where}."
        )
    return credential


def _warn_of_readers(path: Path) -> None:
    """Log it if others may read a file with a credential."""
    with contextlib.suppress(OSError):
        status = path.stat()
        if others_may_read(status):
            log.warning(exposure_warning(path, status))

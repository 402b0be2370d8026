"""The configuration: every section, every key, its default, and what may stand there.

``parse_config`` turns the tables of a TOML file into a ``Config``. It reads no file and
no environment: a key such as ``api_key_env`` is the *name* of a variable here, paths are
as they were written, and ``bootstrap`` resolves both. Durations are in seconds, sizes in
bytes. ``config.reader`` explains how a section is declared; ``config.example.toml``
explains every key to the administrator.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Literal
from urllib.parse import urlsplit

from opuslive.config.alerts import AlertsConfig
from opuslive.config.origins import origin
from opuslive.config.reader import (
    Place,
    boolean,
    converted,
    duration,
    host_name,
    integer,
    is_loopback,
    mapping,
    matching,
    number,
    one_of,
    read_table,
    sequence,
    size,
    string,
    table,
    tables,
    text,
    web_url,
)
from opuslive.config.tls import TlsConfig, check_by_itself, check_tls
from opuslive.dialects import registry
from opuslive.errors import UsageError
from opuslive.keys import MAX_PREFIX_LENGTH
from opuslive.limits.grammar import Limit, Metric, parse_limit, parse_limits
from opuslive.limits.policy import ReserveOutput
from opuslive.quantities import GB, KB, MB, is_glob, nearest, shown

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

_MINUTE = 60.0
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
#: The longest window of the limit of requests that no record is kept for, in seconds.
_MAX_DEFAULT_WINDOW = 3600
_DEFAULT_REQUEST_LIMIT = Limit(Metric.REQUESTS, 6000, 60)
#: The shortest that a network deadline may be, in seconds.
_INSTANT = 0.001

#: What may stand in a bearer credential (RFC 6750, b64token); a dash in front would make
#: the credential look like an option to a command.
_PREFIX = rf"(?!-)[A-Za-z0-9._~+/-]{{0,{MAX_PREFIX_LENGTH}}}"
_BCRYPT_HASH = r"\$2[aby]\$(0[4-9]|1[0-9]|2[0-9]|3[01])\$[./A-Za-z0-9]{53}"

_environment_name = matching(
    "[A-Za-z_][A-Za-z0-9_]{0,200}",
    'the name of an environment variable, such as "ANTHROPIC_API_KEY"',
)


def _public_url(value: object, place: Place) -> str:
    return web_url(value, place).geturl()


def read_base_url(value: object, place: Place) -> str:
    url = web_url(value, place)
    # The dialects' paths begin with /v1, so it must not stand here a second time.
    return url._replace(path=url.path.removesuffix("/v1").rstrip("/")).geturl()


def _contact(value: object, place: Place) -> str:
    contact = text(value, place)
    if "x-api-key" in contact.lower():
        raise place.error(
            'must not contain "x-api-key": Claude Code hides the sentences in which it stands'
        )
    return contact


def _storage_url(value: object, place: Place) -> str:
    url = text(value, place)
    if re.fullmatch(r"sqlite:///.*[^/]", url) is None:
        raise place.error(
            "must be sqlite:// and an absolute path, such as "
            '"sqlite:///var/lib/opuslive/opuslive.db"'
        )
    return url


def _limits(value: object, place: Place) -> tuple[Limit, ...]:
    return converted(parse_limits, sequence(string)(value, place), place)


def _request_limit(value: object, place: Place) -> Limit | None:
    written = string(value, place)
    if not written:
        return None
    limit = converted(parse_limit, written, place)
    if limit.metric is not Metric.REQUESTS or (limit.window_seconds or _DAY) > _MAX_DEFAULT_WINDOW:
        raise place.error(
            "must be a number of requests in a rolling window of an hour at most, such as "
            '"6000 requests/1m", or "" for no limit'
        )
    return limit


def _hosts(value: object, place: Place) -> tuple[str, ...]:
    if not isinstance(value, list):
        return (host_name(value, place),)
    if not value:
        raise place.error('an empty list would listen nowhere; name an address, as in "127.0.0.1"')
    return sequence(host_name)(value, place)


def _dialect(value: object, place: Place) -> str:
    spoken = " and ".join(shown(name) for name in registry.DIALECTS)
    if not isinstance(value, str):
        raise place.wrong_type(value, f"a dialect that this version speaks ({spoken})")
    if value not in registry.DIALECTS:
        meant = nearest(value, registry.DIALECTS)
        hint = f"did you mean {shown(meant)}?" if meant else "correct it or remove the upstream"
        raise place.error(f"this version speaks {spoken}, not {shown(value)}; {hint}")
    return value


def _globs(value: object, place: Place) -> tuple[str, ...]:
    globs = sequence(text)(value, place)
    if not globs:
        raise place.error('an empty list would serve no model; write ["*"] for all of them')
    return globs


def _model_name(value: object, place: Place) -> str:
    name = text(value, place)
    if is_glob(name):
        raise place.error("must be the full name of a model, without the * of globs")
    return name


def _aliases(value: object, place: Place) -> Mapping[str, str]:
    aliases = mapping(_model_name, _model_name)(value, place)
    for alias, model in aliases.items():
        if model in aliases:
            raise place.key(alias).error(
                f"{shown(model)} is an alias itself; write the name of a model"
            )
    return aliases


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """``host`` is every address to listen on; ``max_body`` in bytes; ``drain`` and
    ``drain_notice`` in seconds."""

    host: Annotated[tuple[str, ...], _hosts] = ("127.0.0.1",)
    port: Annotated[int, integer(0, 65535)] = 8080
    public_url: Annotated[str | None, _public_url] = None
    behind_proxy: Annotated[bool, boolean] = False
    max_body: Annotated[int, size(KB, GB)] = 32 * MB
    drain: Annotated[float, duration(0, _DAY)] = 10 * _MINUTE
    drain_notice: Annotated[float, duration(0, _HOUR)] = 0.0
    cors_origins: Annotated[tuple[str, ...], sequence(origin)] = ()
    tls: Annotated[TlsConfig | None, table(TlsConfig, check_tls)] = None


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """Without a ``password_hash`` nobody can sign in over HTTP."""

    password_hash: Annotated[
        str | None, matching(_BCRYPT_HASH, "a bcrypt hash, as 'opuslive admin password' writes it")
    ] = field(default=None, repr=False)
    contact: Annotated[str | None, _contact] = None


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """``url`` is ``None`` for the place that the XDG rules give."""

    url: Annotated[str | None, _storage_url] = None


@dataclass(frozen=True, slots=True)
class KeysConfig:
    """How new keys look, the limits of those made without any, and the limit of requests of keys
    that have limits, but none of requests; ``None`` for no such limit."""

    prefix: Annotated[
        str,
        matching(
            _PREFIX,
            f"at most {MAX_PREFIX_LENGTH} characters of A-Z a-z 0-9 . _ ~ + / - (no dash in front)",
        ),
    ] = "sk-ant-ol-"
    default_limits: Annotated[tuple[Limit, ...], _limits] = ()
    default_request_limit: Annotated[Limit | None, _request_limit] = _DEFAULT_REQUEST_LIMIT


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Limits on all keys together and on groups; ``max_wait`` in seconds."""

    reserve_output: Annotated[ReserveOutput, one_of("adaptive", "max_tokens")] = "adaptive"
    cache_read_weight: Annotated[float, number(0, 1)] = 0.0
    max_wait: Annotated[float, duration(0, 10 * _MINUTE)] = 5.0
    gateway: Annotated[tuple[Limit, ...], _limits] = ()
    groups: Annotated[Mapping[str, tuple[Limit, ...]], mapping(text, _limits)] = field(
        default_factory=lambda: MappingProxyType({})
    )


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """A model provider. Timeouts are in seconds.

    ``base_url`` has neither a trailing slash nor a trailing ``/v1``. At most one of
    ``api_key_env`` (a variable's name), ``api_key_file`` (a path) and ``api_key`` is set;
    none of them means that requests go there without a credential.
    """

    name: Annotated[str, text]
    base_url: Annotated[str, read_base_url]
    dialect: Annotated[str, _dialect] = registry.DEFAULT.name
    insecure: Annotated[bool, boolean] = False
    api_key_env: Annotated[str | None, _environment_name] = None
    api_key_file: Annotated[str | None, text] = None
    api_key: Annotated[
        str | None, matching("[!-~]{1,1000}", "the provider's key: ASCII characters, no spaces")
    ] = field(default=None, repr=False)
    models: Annotated[tuple[str, ...], _globs] = ("*",)
    priority: Annotated[int, integer(-1000, 1000)] = 0
    weight: Annotated[int, integer(1, 1000)] = 1
    connect_timeout: Annotated[float, duration(_INSTANT, _HOUR)] = 5.0
    first_byte_timeout: Annotated[float, duration(_INSTANT, _DAY)] = 600.0
    idle_timeout: Annotated[float, duration(_INSTANT, _DAY)] = 300.0


DEFAULT_CREDENTIAL_VARIABLE = "ANTHROPIC_API_KEY"
#: The upstream of a gateway whose configuration names none.
DEFAULT_UPSTREAM = UpstreamConfig(
    name="anthropic",
    base_url="https://api.anthropic.com",
    api_key_env=DEFAULT_CREDENTIAL_VARIABLE,
)


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged; ``access`` is one line a request."""

    level: Annotated[LogLevel, one_of("debug", "info", "warning", "error")] = "info"
    format: Annotated[LogFormat, one_of("text", "json")] = "text"
    access: Annotated[bool, boolean] = False


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """``token_env`` names the variable with the bearer token of ``/metrics``; ``keys`` says whether
    it shows counts of each key, under the key's id."""

    token_env: Annotated[str | None, _environment_name] = None
    keys: Annotated[bool, boolean] = False


@dataclass(frozen=True, slots=True)
class PriceConfig:
    """USD per million tokens. What is ``None`` follows from ``input``, by the rule of pricing."""

    input: Annotated[float, number(0, 1_000_000)]
    output: Annotated[float, number(0, 1_000_000)]
    cache_read: Annotated[float | None, number(0, 1_000_000)] = None
    cache_write_5m: Annotated[float | None, number(0, 1_000_000)] = None
    cache_write_1h: Annotated[float | None, number(0, 1_000_000)] = None


def _check_server(server: ServerConfig, place: Place) -> None:
    check_by_itself(server.tls, server.public_url, server.port, place)


def _check_upstream(upstream: UpstreamConfig, place: Place) -> None:
    url = urlsplit(upstream.base_url)
    local = is_loopback(url.hostname or "")
    if url.scheme == "http" and not local and not upstream.insecure:
        raise place.key("base_url").error(
            "plain http would send prompts and the credential in clear; write https://, or set "
            "insecure = true if the way there is protected by other means"
        )
    given = [name for name in ("api_key_env", "api_key_file", "api_key") if getattr(upstream, name)]
    if len(given) > 1:
        raise place.error(f"{' and '.join(given)} are both set; keep one of them")
    if not given and not local:
        raise place.error(
            "no credential; set api_key_env, api_key_file or api_key (only an upstream on this "
            "machine may do without)"
        )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. ``Config()`` is the defaults, with no upstream."""

    server: Annotated[ServerConfig, table(ServerConfig, _check_server)] = field(
        default_factory=ServerConfig
    )
    admin: Annotated[AdminConfig, table(AdminConfig)] = field(default_factory=AdminConfig)
    storage: Annotated[StorageConfig, table(StorageConfig)] = field(default_factory=StorageConfig)
    keys: Annotated[KeysConfig, table(KeysConfig)] = field(default_factory=KeysConfig)
    limits: Annotated[LimitsConfig, table(LimitsConfig)] = field(default_factory=LimitsConfig)
    upstreams: Annotated[tuple[UpstreamConfig, ...], tables(UpstreamConfig, _check_upstream)] = ()
    aliases: Annotated[Mapping[str, str], _aliases] = field(
        default_factory=lambda: MappingProxyType({})
    )
    log: Annotated[LogConfig, table(LogConfig)] = field(default_factory=LogConfig)
    metrics: Annotated[MetricsConfig, table(MetricsConfig)] = field(default_factory=MetricsConfig)
    alerts: Annotated[AlertsConfig, table(AlertsConfig)] = field(default_factory=AlertsConfig)
    prices: Annotated[Mapping[str, PriceConfig], mapping(_model_name, table(PriceConfig))] = field(
        default_factory=lambda: MappingProxyType({})
    )

    @property
    def holds_secret(self) -> bool:
        """Whether a secret stands in the file itself, so that only its owner should read it."""
        return bool(
            self.admin.password_hash
            or self.alerts.webhook
            or any(upstream.api_key for upstream in self.upstreams)
        )


def parse_config(data: Mapping[str, object], *, source: str) -> Config:
    """Read the tables of a TOML file. ``source`` is the file's name, for messages.

    Raises UsageError for the first unknown key, wrong type or bad value: one sentence with
    the file, the key and what would be right.
    """
    return read_table(Config, data, Place(source))


def parse_config_text(toml: str, *, source: str) -> Config:
    """The same for the text of the file. Raises UsageError, also if it is not TOML."""
    try:
        data = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: not valid TOML: {error}; correct the file there") from None
    except (ValueError, RecursionError):
        # A number of thousands of digits, or brackets nested thousands deep: no place is known.
        raise UsageError(
            f"{source}: not valid TOML: a number too long or nesting too deep; shorten it"
        ) from None
    return parse_config(data, source=source)


def with_default_upstream(config: Config, environ: Mapping[str, str]) -> Config:
    """The configuration with the default upstream, if no upstream is written in it and the
    environment has the default one's credential; else the configuration as it is.
    """
    if config.upstreams or not environ.get(DEFAULT_CREDENTIAL_VARIABLE, "").strip():
        return config
    return replace(config, upstreams=(DEFAULT_UPSTREAM,))


def check_listen(server: ServerConfig) -> None:
    """Raise UsageError if listening on one of the hosts would let keys cross a network in clear."""
    beyond = next((host for host in server.host if not is_loopback(host)), None)
    if beyond is not None and not (server.tls or server.behind_proxy):
        raise UsageError(
            f"Listening on {shown(beyond)} without TLS would send keys over the network in "
            "clear; set certificate and private_key, or acme, in [server.tls], or behind_proxy = "
            "true in [server] if a reverse proxy in front does TLS, or listen on 127.0.0.1."
        )

"""Every key of the configuration, and a value of each that is another than its default."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from opuslive.config.sections import Config, PriceConfig, UpstreamConfig

HASH = "$2b$04$" + "a" * 53
#: The configuration that single keys are changed of.
BASE: Mapping[str, Any] = MappingProxyType(
    {
        "upstreams": [{"name": "one", "base_url": "http://127.0.0.1:9", "api_key": "first"}],
        "prices": {"m": {"input": 1.0, "output": 2.0}},
    }
)
#: A key → what stands there instead. Keys of upstreams are those of the upstream ``one``, keys of
#: prices those of the model ``m``.
OTHER: Mapping[str, Any] = MappingProxyType(
    {
        "server.host": "127.0.0.2",
        "server.port": 81,
        "server.public_url": "https://ai.example.com",
        "server.behind_proxy": True,
        "server.max_body": "1MB",
        "server.drain": "1s",
        "server.drain_notice": "1s",
        "server.cors_origins": ["https://app.example.com"],
        "server.tls": {"certificate": "c.pem", "private_key": "k.pem"},
        "admin.password_hash": HASH,
        "admin.contact": "ops@example.com",
        "storage.url": "sqlite:///other.db",
        "keys.prefix": "other-",
        "keys.default_limits": ["5 requests/day"],
        "keys.default_request_limit": "7 requests/1m",
        "limits.reserve_output": "max_tokens",
        "limits.cache_read_weight": 0.5,
        "limits.max_wait": "1s",
        "limits.gateway": ["9 requests/day"],
        "limits.groups": {"friends": ["3 requests/day"]},
        "upstreams.name": "two",
        "upstreams.base_url": "http://127.0.0.1:10",
        "upstreams.dialect": "openai",
        "upstreams.insecure": True,
        "upstreams.api_key_env": "OTHER_CREDENTIAL",
        "upstreams.api_key_file": "other.key",
        "upstreams.api_key": "second",
        "upstreams.models": ["claude-other"],
        "upstreams.priority": 3,
        "upstreams.weight": 4,
        "upstreams.connect_timeout": "1s",
        "upstreams.first_byte_timeout": "2s",
        "upstreams.idle_timeout": "3s",
        "aliases": {"short": "claude-long"},
        "log.level": "error",
        "log.format": "json",
        "log.access": True,
        "metrics.token_env": "METRICS_TOKEN",
        "metrics.keys": True,
        "alerts.webhook": "https://hooks.example.com/x",
        "alerts.format": "slack",
        "alerts.smtp": {"host": "mail.example.com", "from": "a@example.com", "to": "b@example.com"},
        "prices.input": 5.0,
        "prices.output": 6.0,
        "prices.cache_read": 7.0,
        "prices.cache_write_5m": 8.0,
        "prices.cache_write_1h": 9.0,
    }
)


def all_keys() -> Iterator[str]:
    """Every key there is, by its declaration."""
    of_tables = {"upstreams": UpstreamConfig, "prices": PriceConfig}
    defaults = Config()
    for section in dataclasses.fields(Config):
        declared = of_tables.get(section.name, getattr(defaults, section.name))
        if not dataclasses.is_dataclass(declared):
            yield section.name
            continue
        for key in dataclasses.fields(declared):
            yield f"{section.name}.{key.name}"


def tables_with(key: str) -> dict[str, Any]:
    """The tables of ``BASE`` with the other value of this key."""
    section, _, name = key.partition(".")
    tables = {name: value for name, value in BASE.items() if name != section}
    if section == "upstreams":
        (upstream,) = BASE["upstreams"]
        if name in ("api_key_env", "api_key_file"):
            upstream = {key: value for key, value in upstream.items() if key != "api_key"}
        tables[section] = [upstream | {name: OTHER[key]}]
    elif section == "prices":
        tables[section] = {"m": BASE["prices"]["m"] | {name: OTHER[key]}}
    else:
        tables[section] = {name: OTHER[key]} if name else OTHER[key]
    return tables

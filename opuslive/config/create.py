"""The text of a new configuration, for one provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from opuslive.config.edit import new_text, upstream_members
from opuslive.config.sections import DEFAULT_UPSTREAM, UpstreamConfig, parse_config_text

#: The providers that are known by name, by that.
PROVIDERS: Mapping[str, UpstreamConfig] = MappingProxyType(
    {
        DEFAULT_UPSTREAM.name: DEFAULT_UPSTREAM,
        "openai": UpstreamConfig(
            name="openai",
            base_url="https://api.openai.com",
            dialect="openai",
            api_key_env="OPENAI_API_KEY",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the gateway listens, and how clients reach it. None and false say nothing, so that
    the default holds. ``acme`` is the mail address of an account at a certificate authority."""

    host: str
    port: int
    public_url: str | None = None
    behind_proxy: bool = False
    acme: str | None = None


@dataclass(frozen=True, slots=True)
class Installation:
    """What a new configuration says; None says nothing. ``database`` is an absolute path."""

    upstream: UpstreamConfig
    listening: Listening
    password_hash: str | None = field(default=None, repr=False)
    contact: str | None = None
    database: str | None = None


def configuration_text(installation: Installation, source: str) -> str:
    """The text of the configuration, which is a valid one. ``source`` is its file, for messages.

    Raises UsageError.
    """
    made = installation
    listening = made.listening
    server: Mapping[str, object] = {
        "host": listening.host,
        "port": listening.port,
        "public_url": listening.public_url,
        "behind_proxy": listening.behind_proxy,
        "tls": None if listening.acme is None else {"acme": listening.acme},
    }
    tables: Mapping[str, Mapping[str, object]] = {
        "server": server,
        "admin": {"password_hash": made.password_hash, "contact": made.contact},
        "storage": {"url": None if made.database is None else f"sqlite://{made.database}"},
    }
    said = {name: _said(members) for name, members in tables.items()}
    text = new_text(
        {name: members for name, members in said.items() if members}
        | {"upstreams": [upstream_members(made.upstream)]}
    )
    parse_config_text(text, source=source)
    return text


def _said(members: Mapping[str, object]) -> Mapping[str, object]:
    return {name: value for name, value in members.items() if value not in (None, False)}

"""What differs between two configurations, and what of it a running gateway can take.

A change has the name of its key as errors have it: ``limits.gateway``, ``aliases.opus``,
``upstreams.anthropic.weight``. Values are not told: some are secrets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opuslive.config.reader import Place
from opuslive.config.sections import Config, UpstreamConfig

#: Keys and whole sections that the listeners, the memory for bodies, the store and the metrics are
#: made from, once. All other keys change while the gateway runs.
NEEDS_RESTART = frozenset(
    {
        "server.host",
        "server.port",
        "server.behind_proxy",
        "server.max_body",
        "server.cors_origins",
        "server.tls",
        "storage.url",
        "metrics",
    }
)


@dataclass(frozen=True, slots=True)
class Changes:
    """``config`` is the new configuration, but for what ``needs_restart``, which is as it was.
    ``applied`` and ``needs_restart`` are names of keys."""

    config: Config
    applied: Sequence[str]
    needs_restart: Sequence[str]


def compare(old: Config, new: Config) -> Changes:
    """What a gateway that runs with the old configuration takes of the new one."""
    applied: list[str] = []
    needs_restart: list[str] = []
    sections: dict[str, Any] = {}
    for section in dataclasses.fields(Config):
        name = section.name
        before, after = getattr(old, name), getattr(new, name)
        place = Place("").key(name)
        if dataclasses.is_dataclass(after):
            kept: dict[str, object] = {}
            for key in dataclasses.fields(after):
                was, is_ = getattr(before, key.name), getattr(after, key.name)
                if not NEEDS_RESTART.isdisjoint((name, f"{name}.{key.name}")):
                    kept[key.name] = was
                    needs_restart += _differing(was, is_, place.key(key.name))
                else:
                    applied += _differing(was, is_, place.key(key.name))
            after = dataclasses.replace(after, **kept)  # type: ignore[type-var]  # asked above
        elif name == "upstreams":
            applied += _differing_upstreams(before, after, place)
        else:
            applied += _differing(before, after, place)
        sections[name] = after
    return Changes(Config(**sections), tuple(applied), tuple(needs_restart))


def upstream_key(upstream: str, key: str) -> str:
    """The name of a key of an upstream."""
    return Place("").key("upstreams").key(upstream).key(key).path


def _differing(before: object, after: object, place: Place) -> Iterator[str]:
    """The keys at the place or below it whose values differ."""
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys((*before, *after)):
            if before.get(name) != after.get(name):
                yield place.key(name).path
    else:
        yield place.path


def _differing_upstreams(
    before: Sequence[UpstreamConfig], after: Sequence[UpstreamConfig], place: Place
) -> Iterator[str]:
    """Upstreams that came or went, and the keys that changed of the others."""
    old, new = ({each.name: each for each in upstreams} for upstreams in (before, after))
    for name in dict.fromkeys((*old, *new)):
        if name not in old or name not in new:
            yield place.key(name).path
            continue
        for key in dataclasses.fields(UpstreamConfig):
            was, is_ = getattr(old[name], key.name), getattr(new[name], key.name)
            yield from _differing(was, is_, place.key(name).key(key.name))
    stayed = [[name for name in names if name in old and name in new] for names in (old, new)]
    if stayed[0] != stayed[1]:
        # Of equal priority and weight, the first one is asked for what the configuration
        # leaves open.
        yield place.path

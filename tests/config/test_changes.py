"""What differs between two configurations, and what needs a restart."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from opuslive.config.changes import NEEDS_RESTART, compare
from opuslive.config.sections import Config, parse_config
from tests.support.config_keys import BASE, HASH, OTHER, all_keys, tables_with

#: A key → the name of its change, where that is another.
NAMES = {
    "limits.groups": "limits.groups.friends",
    "aliases": "aliases.short",
    **{key: "prices.m" for key in OTHER if key.startswith("prices.")},
    **{
        key: key.replace("upstreams", "upstreams.one")
        for key in OTHER
        if key.startswith("upstreams.")
    },
}


def read(tables: Any) -> Config:
    return parse_config(tables, source="c.toml")


def differing(old: Any, new: Any) -> list[str]:
    """What changes from these tables to those; none of it needs a restart."""
    changes = compare(read(old), read(new))
    assert not changes.needs_restart
    assert changes.config == read(new)
    return list(changes.applied)


def test_every_key_has_another_value_here() -> None:
    assert set(all_keys()) == set(OTHER)


@pytest.mark.parametrize("key", OTHER)
def test_every_key_is_either_applied_or_needs_a_restart(key: str) -> None:
    old, new = read(BASE), read(tables_with(key))
    changes = compare(old, new)
    if key == "upstreams.name":
        assert changes.applied == ("upstreams.one", "upstreams.two")
    elif changes.needs_restart:
        assert (changes.applied, changes.needs_restart) == ((), (key,))
        assert {key, key.partition(".")[0]} & NEEDS_RESTART
        assert changes.config == old
    else:
        name = NAMES.get(key, key)
        moved = {"upstreams.api_key_env", "upstreams.api_key_file"}
        also = ("upstreams.one.api_key",) if key in moved else ()
        assert set(changes.applied) == {name, *also}
        assert changes.config == new
    # Once the changes are in force, nothing is left to apply.
    assert compare(changes.config, new).applied == ()


def test_what_is_the_same_has_not_changed() -> None:
    for key in OTHER:
        config = read(tables_with(key))
        assert compare(config, config) == dataclasses.replace(compare(config, config))
        assert compare(config, read(tables_with(key))).applied == ()


def test_what_needs_a_restart_stays_and_the_rest_of_its_section_changes() -> None:
    server = {"port": 81, "drain": "1s", "tls": {"certificate": "c", "private_key": "k"}}
    changes = compare(read(BASE), read({**BASE, "server": server}))
    assert (changes.applied, changes.needs_restart) == (
        ("server.drain",),
        ("server.port", "server.tls"),
    )
    assert (changes.config.server.port, changes.config.server.drain) == (8080, 1.0)
    assert changes.config.server.tls is None


def test_entries_of_tables_are_named_that_came_went_or_changed() -> None:
    old = {"limits": {"groups": {"stays": ["1 concurrent"], "goes": [], "a b": ["2 concurrent"]}}}
    new = {"limits": {"groups": {"stays": ["1 concurrent"], "comes": [], "a b": []}}}
    assert differing(old, new) == [
        "limits.groups.goes",
        "limits.groups.'a b'",
        "limits.groups.comes",
    ]


def test_upstreams_are_known_by_their_names() -> None:
    one, two, three = ({"name": name, "base_url": "http://localhost"} for name in ("1", "2", "3"))
    assert differing({"upstreams": [one, two]}, {"upstreams": [two | {"weight": 2}, three]}) == [
        "upstreams.1",
        "upstreams.2.weight",
        "upstreams.3",
    ]
    assert differing({"upstreams": [one, two]}, {"upstreams": [two, one]}) == ["upstreams"]
    assert differing({"upstreams": [one, two]}, {"upstreams": [two]}) == ["upstreams.1"]


def test_no_change_tells_a_value() -> None:
    secret = "canary-of-a-secret"
    new = {
        "admin": {"password_hash": HASH},
        "alerts": {"webhook": f"https://hooks.example.com/{secret}"},
        "upstreams": [{**BASE["upstreams"][0], "api_key": secret}],
    }
    changes = compare(read(BASE), read(new))
    told = repr((changes.applied, changes.needs_restart))
    assert secret not in told
    assert HASH not in told


@pytest.mark.parametrize("file", ["config.example.toml", ".github/docs/configuration.md"])
def test_what_needs_a_restart_is_told(file: str) -> None:
    text = " ".join(Path(__file__).parents[2].joinpath(file).read_text().replace("#", "").split())
    sentence = re.search(r"(?:Only a restart changes|need a restart, which).*?\.(?: |$)", text)
    assert sentence is not None
    for key in NEEDS_RESTART:
        section, _, name = key.partition(".")
        assert f"[{section}]" in sentence[0]
        assert section == "storage" or name in sentence[0]

"""config.example.toml has every key, its default, and works as it stands."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from opuslive.config.sections import Config, parse_config
from tests.support.toml import known_keys, parse

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


def switched_on(text: str, *, without: str) -> str:
    """The example with every setting that is switched off switched on, but those that match."""
    return re.sub(rf"^#(?=[a-z\[])(?!{without})", "", text, flags=re.MULTILINE)


def documented() -> Mapping[str, str | None]:
    """The default in the comment before each key of the example, by its dotted path.

    ``None`` for a key without such a comment: one of a table of free names, or a repetition.
    """
    found: dict[str, str | None] = {}
    section = ""
    comment = ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            comment += line + "\n"
        elif header := re.fullmatch(r"#?\[+([^\]]+)\]+", line):
            section = re.sub(r'"[^"]+"', "*", header[1])
        elif key := re.fullmatch(r"#?([a-z_0-9]+) = .*", line):
            name = "*" if section in ("aliases", "limits.groups") else key[1]
            said = re.search(r"^# (?:Default: (.*)|(Required) in .*)\.$", comment, re.MULTILINE)
            found.setdefault(f"{section}.{name}", None)
            if said:
                assert found[f"{section}.{name}"] is None, f"{section}.{name} is explained twice"
                found[f"{section}.{name}"] = said[1] or said[2]
        if not line.startswith("# "):
            comment = ""
    return found


def test_every_key_has_a_line_in_the_example_and_no_other_has() -> None:
    assert set(documented()) == {path for path, _ in known_keys(Config)}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        pytest.param(path, field, id=path)
        for path, field in known_keys(Config)
        if "*" not in path[-1]
    ],
)
def test_the_documented_default_is_the_real_one(path: str, field: dataclasses.Field[Any]) -> None:
    said = documented()[path]
    assert said is not None, f"{path} has no line 'Default: ….' or 'Required in ….'"
    if said == "Required":
        assert field.default is dataclasses.MISSING
    elif said.startswith("none"):
        assert field.default is None
    else:
        value = tomllib.loads(f"value = {said}")["value"]
        section, _, key = path.rpartition(".")
        table: dict[str, object] = {key: value}
        config: Any
        if section == "upstreams":
            table |= {"name": "x", "base_url": "http://127.0.0.1"}
            config = parse_config({"upstreams": [table]}, source="").upstreams[0]
        elif section == "server.tls":
            server = {"public_url": "https://ai.example.com", "tls": {"acme": "a@b.c"} | table}
            config = parse_config({"server": server}, source="").server.tls
        elif section == "alerts.smtp":
            smtp = {"host": "localhost", "from": "a@b.c", "to": "a@b.c"} | table
            config = parse_config({"alerts": {"smtp": smtp}}, source="").alerts.smtp
        else:
            config = getattr(parse_config({section: table}, source=""), section)
        assert getattr(config, key) == field.default


def test_the_example_works_as_it_stands_and_with_everything_switched_on() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    as_it_stands = parse(text)
    assert [upstream.name for upstream in as_it_stands.upstreams] == ["anthropic"]
    assert dataclasses.replace(as_it_stands, upstreams=()) == Config()
    # A certificate comes from files, or by itself.
    by_itself = parse(switched_on(text, without="certificate|private_key"))
    assert by_itself.server.tls
    assert by_itself.server.tls.acme
    everything = parse(switched_on(text, without="acme"))
    assert [upstream.name for upstream in everything.upstreams] == [
        "anthropic",
        "second",
        "reserve",
        "lab",
    ]
    assert everything.server.tls
    assert everything.alerts.smtp
    assert everything.aliases
    assert everything.limits.groups
    assert everything.prices

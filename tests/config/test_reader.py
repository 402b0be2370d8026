"""Reading values: what is refused, by which file, key and remedy; nothing but a UsageError."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.config.sections import Config, parse_config
from opuslive.errors import UsageError
from tests.support.toml import known_keys, parse, refusal, upstream, with_key


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("prot = 1", "config.toml: no such key 'prot'; known are server, admin, storage"),
        ("[sever]", "config.toml: no such key 'sever'; did you mean 'server'?"),
        ("[server]\nprot = 1", "config.toml: server: no such key 'prot'; did you mean 'port'?"),
        ("[log]\nzzz = 1", "config.toml: log: no such key 'zzz'; known are level, format, access"),
        ("server = 1", "config.toml: server: must be a table, not a number"),
        ("[upstreams]", "config.toml: upstreams: must be an array of tables, each beginning with"),
        ("upstreams = [1]", "config.toml: [[upstreams]] 1: must be a table, not a number"),
        ("[server]\nport = '80'", "config.toml: server.port: must be a whole number from 0 to"),
        ("[server]\nport = true", "not true or false"),
        ("[server]\nport = 65536", "server.port: must be a whole number from 0 to 65535"),
        ("[server]\nport = -1", "server.port: must be a whole number from 0 to 65535"),
        ("[server]\nport = 2026-12-31", "not a date or time"),
        ("[server]\nport = 0x" + "f" * 9000, "server.port: must be a whole number"),
        ("[server]\nport = " + "9" * 9000, "config.toml: not valid TOML: a number too long"),
        ("[server]\nhost = ''", "server.host: must be a host name or an IP address"),
        ("[server]\nhost = '[::1]'", "without brackets or port"),
        ("[server]\nhost = '127.0.0.1:80'", "without brackets or port"),
        ("[server]\nbehind_proxy = 'yes'", "must be true or false, without quotes, not text"),
        ("[server]\nmax_body = 1024", 'server.max_body: must be a size in quotes, such as "64KB"'),
        ("[server]\nmax_body = '1023B'", "must be a size from '1KB' to '1GB'"),
        ("[server]\nmax_body = '2GB'", "must be a size from '1KB' to '1GB'"),
        ("[server]\nmax_body = '32 MB'", "server.max_body: '32 MB' is not a size; write"),
        ("[server]\ndrain = 10", 'server.drain: must be a duration in quotes, such as "90s"'),
        ("[server]\ndrain = '10x'", "server.drain: '10x' is not a duration; write"),
        ("[server]\ndrain = '2d'", "server.drain: must be a duration from '0s' to '1d'"),
        ("[server]\npublic_url = 'ai.example.com'", 'such as "https://api.example.com"'),
        ("[server]\npublic_url = 'ftp://example.com'", "server.public_url: must be an address"),
        ("[server.tls]\ncertificate = 'a.pem'", "server.tls: the key 'private_key' is missing"),
        ("[admin]\ncontact = ''", "admin.contact: must be one line"),
        ('[admin]\ncontact = "a\\nb"', "admin.contact: must be one line"),
        ("[keys]\ndefault_limits = '8 concurrent'", "keys.default_limits: must be a list"),
        ("[keys]\ndefault_limits = [8]", "keys.default_limits: must be text in quotes"),
        ("[limits]\nreserve_output = 'max'", "'max' is not possible; "),
        ("[limits]\ncache_read_weight = 1.1", "must be a number from 0 to 1"),
        ("[limits]\ncache_read_weight = nan", "must be a number from 0 to 1"),
        ("[limits]\ncache_read_weight = inf", "must be a number from 0 to 1"),
        ("[log]\nlevel = 'inof'", "log.level: 'inof' is not possible; did you mean 'info'?"),
        ("[log]\nformat = 1", 'log.format: must be "text" or "json", not a number'),
        ("[prices.m]\ninput = 1", "prices.m: the key 'output' is missing"),
        ("[prices.m]\ninput = 1\noutput = 0x" + "f" * 9000, "prices.m.output: must be a number"),
    ],
)
def test_a_refusal_names_the_file_the_key_and_what_would_be_right(toml: str, message: str) -> None:
    assert message in refusal(toml)
    assert refusal(toml).startswith("config.toml: ")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "//api.example.com",
        "https://",
        "https:///v1",
        "https://a b",
        "https://user:hunter2@example.com",
        "https://hunter2@example.com",
        "https://a/?hunter2",
        "https://a/#hunter2",
        "https://a?",
        "https://a#",
        "https://a:99999",
        "https://a:x",
        "https://a:0",
        "https://[::1",
        "https://[hunter2]",
        "https://é.example",
        "ftp://a",
        "https://a\\\\b",
        "https://a\\tb",
        "https://-a",
        "https://*",
        "unix:/run/x",
    ],
)
def test_bad_addresses_are_refused_and_not_shown(url: str) -> None:
    message = refusal(with_key(url))
    assert ": base_url: must be " in message
    assert "hunter2" not in message


def test_upstreams_have_names_of_their_own() -> None:
    toml = upstream('api_key_env = "KEY"')
    assert refusal(toml + toml) == (
        "config.toml: [[upstreams]] 2 (name 'one'): another one has this name already; "
        "give each a name of its own"
    )
    assert "'name' is missing" in refusal("[[upstreams]]\nbase_url = 'https://a'")


def test_what_is_not_toml_is_one_sentence_with_the_place() -> None:
    message = refusal("[server]\nport 8080")
    assert message.startswith("config.toml: not valid TOML: ")
    assert "line 2" in message
    assert "\n" not in message
    assert "nesting too deep" in refusal("a = " + "[" * 100_000)


# Anything at all

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.dates() | st.times() | st.sampled_from(["5s", "1MB", "8 concurrent", "http://x", "a"])
)  # fmt: skip
KEYS = st.text(max_size=5) | st.sampled_from(
    sorted({part for path, _ in known_keys(Config) for part in path.split(".")})
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def _section(path: str) -> st.SearchStrategy[dict[str, object]]:
    keys = [key for key, _ in known_keys(Config) if key.startswith(path)]
    names = st.sampled_from([key.split(".")[1] for key in keys if "." in key] or ["x"])
    return st.dictionaries(names | KEYS, VALUES, max_size=4)


CONFIGS = st.dictionaries(KEYS, VALUES, max_size=4) | st.fixed_dictionaries(
    {},
    optional={
        field.name: _section(field.name) | st.lists(_section(field.name), max_size=3)
        for field in dataclasses.fields(Config)
    },
)


@given(CONFIGS)
def test_any_tables_are_a_configuration_or_a_usage_error(data: dict[str, object]) -> None:
    message = message_of(lambda: parse_config(data, source="config.toml"))
    assert message is None or (message.startswith("config.toml: ") and message.isprintable())


@given(st.text() | st.text("[]{}=\"'.,#\n abc019-:T\\"))
def test_any_text_is_a_configuration_or_a_usage_error(text: str) -> None:
    message = message_of(lambda: parse(text))
    assert message is None or message.startswith("config.toml: ")


def message_of(read: Callable[[], object]) -> str | None:
    """The message of the UsageError that reading ends in; ``None`` if it succeeds."""
    try:
        read()
    except UsageError as error:
        return error.message
    return None

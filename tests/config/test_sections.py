"""The configuration: defaults, rules, errors that name file, key and remedy, and the example."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuslive.config.reader import is_loopback
from opuslive.config.sections import (
    Config,
    ServerConfig,
    TlsConfig,
    UpstreamConfig,
    check_listen,
    default_config,
    parse_config,
    parse_config_text,
)
from opuslive.errors import UsageError
from opuslive.limits.grammar import parse_limits

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"

#: The example of the specification, as an administrator would copy it.
FULL = """
[server]
host = "127.0.0.1"
port = 8080
public_url = "https://ai.example.com"
behind_proxy = false
max_body = "32MB"
drain = "10m"
drain_notice = "0s"
[server.tls]
certificate = "fullchain.pem"
private_key = "privkey.pem"
[admin]
password_hash = "$2b$12$....................................................."
contact = "ops@example.com"
[storage]
url = "sqlite:///var/lib/opuslive/opuslive.db"
[keys]
prefix = "sk-ant-ol-"
default_limits = ["60 requests/60s"]
[limits]
reserve_output = "adaptive"
cache_read_weight = 0.0
max_wait = "5s"
gateway = ["200 usd/month"]
[limits.groups]
friends = ["50 usd/month", "10M tokens/day"]
[[upstreams]]
name = "anthropic"
dialect = "anthropic"
base_url = "https://api.anthropic.com"
api_key_env = "ANTHROPIC_API_KEY"
models = ["claude-*"]
priority = 0
weight = 1
connect_timeout = "5s"
first_byte_timeout = "600s"
idle_timeout = "300s"
[aliases]
opus = "claude-opus-4-8"
[log]
level = "info"
format = "text"
access = false
[metrics]
token_env = "METRICS_TOKEN"
[alerts]
webhook = "https://hooks.example.com/T0?token=abc"
[prices."my-model"]
input = 3.0
output = 15
"""


def parse(toml: str) -> Config:
    return parse_config_text(toml, source="config.toml")


def refusal(toml: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(toml)
    return caught.value.message


def upstream(keys: str, *, url: str = "https://api.example.com") -> str:
    return f'[[upstreams]]\nname = "one"\nbase_url = "{url}"\n{keys}\n'


def with_key(url: str) -> str:
    return upstream('api_key_env = "KEY"', url=url)


# What is read


def test_an_empty_file_is_all_defaults() -> None:
    assert parse("") == parse_config({}, source="config.toml") == Config()


def test_every_key_arrives_where_it_belongs() -> None:
    config = parse(FULL)
    assert config.server == ServerConfig(
        public_url="https://ai.example.com",
        max_body=33_554_432,
        drain=600.0,
        tls=TlsConfig("fullchain.pem", "privkey.pem"),
    )
    assert (
        config.admin.password_hash == "$2b$12$....................................................."
    )
    assert config.admin.contact == "ops@example.com"
    assert config.storage.url == "sqlite:///var/lib/opuslive/opuslive.db"
    assert config.keys.prefix == "sk-ant-ol-"
    assert config.keys.default_limits == parse_limits(["60 requests/1m"])
    assert config.limits.gateway == parse_limits(["200 usd/month"])
    assert config.limits.groups == {"friends": parse_limits(["50 usd/month", "10M tokens/day"])}
    assert config.limits.max_wait == 5.0
    assert config.upstreams == (
        UpstreamConfig(
            name="anthropic",
            base_url="https://api.anthropic.com",
            api_key_env="ANTHROPIC_API_KEY",
            models=("claude-*",),
        ),
    )
    assert config.aliases == {"opus": "claude-opus-4-8"}
    assert config.metrics.token_env == "METRICS_TOKEN"
    assert config.alerts.webhook == "https://hooks.example.com/T0?token=abc"
    price = config.prices["my-model"]
    assert (price.input, price.output, price.cache_read) == (3.0, 15.0, None)


@pytest.mark.parametrize("path", ["/a/?t=1", "/a/", "/a%2fb", ""])
def test_a_webhook_stays_as_it_was_written(path: str) -> None:
    toml = f"[alerts]\nwebhook = 'https://hooks.example.com{path}'"
    config = parse_config_text(toml, source="config.toml")
    assert config.alerts.webhook == f"https://hooks.example.com{path}"


def test_a_configuration_can_not_be_changed() -> None:
    config = parse(FULL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.server.port = 1  # type: ignore[misc]
    for mapping in (config.aliases, config.limits.groups, config.prices, Config().aliases):
        assert isinstance(mapping, MappingProxyType)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com"),
        ("https://api.anthropic.com/", "https://api.anthropic.com"),
        ("https://api.anthropic.com/v1", "https://api.anthropic.com"),
        ("https://api.anthropic.com/v1/", "https://api.anthropic.com"),
        ("HTTPS://API.Example.com:8443/Team/v1", "https://api.example.com:8443/Team"),
        ("https://gateway.example.com/v1/account/anthropic", None),
        ("https://openrouter.example.com/api/v1", "https://openrouter.example.com/api"),
        ("https://example.com/v1beta", None),
        ("https://v1", None),
        ("https://v1/v1", "https://v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://localhost:11434", None),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
    ],
)
def test_base_urls_become_uniform(written: str, kept: str | None) -> None:
    assert parse(with_key(written)).upstreams[0].base_url == (kept or written)


def test_only_an_upstream_on_this_machine_may_do_without_credential() -> None:
    assert parse(upstream("", url="http://127.0.0.1:9")).upstreams[0].api_key is None
    assert "no credential; set api_key_env" in refusal(upstream(""))


def test_plain_http_to_another_machine_must_be_asked_for() -> None:
    message = refusal(with_key("http://models.lab:8000"))
    assert message.startswith("config.toml: [[upstreams]] 1 (name 'one'): base_url: plain http")
    assert "insecure = true" in message
    insecure = parse(with_key("http://models.lab:8000") + "insecure = true")
    assert insecure.upstreams[0].base_url == "http://models.lab:8000"


def test_brackets_and_question_marks_are_ordinary_in_names_of_models() -> None:
    config = parse(
        '[aliases]\n"opus?" = "claude-opus-4-8[1m]"\n'
        "[prices.'what?[1m]']\ninput = 1\noutput = 1\n"
    )
    assert config.aliases == {"opus?": "claude-opus-4-8[1m]"}
    assert set(config.prices) == {"what?[1m]"}


# What is refused, and how


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
        ("[admin]\npassword_hash = 'hunter2'", "admin.password_hash: must be a bcrypt hash"),
        ("[admin]\ncontact = ''", "admin.contact: must be one line"),
        ('[admin]\ncontact = "a\\nb"', "admin.contact: must be one line"),
        ("[storage]\nurl = 'postgres://x/y'", "storage.url: must be sqlite:// and an absolute"),
        ("[storage]\nurl = 'sqlite:///'", "storage.url: must be sqlite://"),
        ("[storage]\nurl = 'sqlite://opus.db'", "storage.url: must be sqlite://"),
        ("[keys]\nprefix = 'a-prefix-of-21-chars-'", "keys.prefix: must be at most 20 characters"),
        ("[keys]\nprefix = 'sk ant'", "keys.prefix: must be at most 20"),
        ("[keys]\nprefix = 'schlüssel-'", "keys.prefix: must be at most 20"),
        ("[keys]\nprefix = '-sk-'", "no dash in front"),
        ("[keys]\ndefault_limits = '8 concurrent'", "keys.default_limits: must be a list"),
        ("[keys]\ndefault_limits = [8]", "keys.default_limits: must be text in quotes"),
        ("[limits]\ngateway = ['5 token/1m']", "limits.gateway: no such metric 'token'; did you"),
        ("[limits]\ngateway = ['1 usd/day', '2 usd/day']", "limit the same thing"),
        ("[limits.groups]\n'a b' = ['x']", "limits.groups.'a b': 'x' is not a limit"),
        ("[limits.groups]\n'' = []", "limits.groups.'': must be one line"),
        ("[limits]\nreserve_output = 'max'", "'max' is not possible; "),
        ("[limits]\ncache_read_weight = 1.1", "must be a number from 0 to 1"),
        ("[limits]\ncache_read_weight = nan", "must be a number from 0 to 1"),
        ("[limits]\ncache_read_weight = inf", "must be a number from 0 to 1"),
        ("[limits]\nmax_wait = '11m'", "limits.max_wait: must be a duration from '0s' to '10m'"),
        ("[aliases]\nopus = 1", "aliases.opus: must be text in quotes, not a number"),
        ("[aliases]\na = 'b'\nb = 'c'", "aliases.a: 'b' is an alias itself; write the name"),
        ("[aliases]\na = 'a'", "aliases.a: 'a' is an alias itself"),
        ("[aliases]\na = 'claude-*'", "aliases.a: must be the full name of a model"),
        ("[aliases]\n'claude-*' = 'a'", "aliases.'claude-*': must be the full name of a model"),
        ("[prices.'gpt-*']\ninput = 1\noutput = 1", "prices.'gpt-*': must be the full name of a"),
        ("[log]\nlevel = 'inof'", "log.level: 'inof' is not possible; did you mean 'info'?"),
        ("[log]\nformat = 1", 'log.format: must be "text" or "json", not a number'),
        ("[alerts]\nwebhook = 'http://example.com/x'", "alerts.webhook: must begin with https://"),
        ("[prices.m]\ninput = 1", "prices.m: the key 'output' is missing"),
        ("[prices.'a.b']\ninput = -1\noutput = 1", "prices.'a.b'.input: must be a number from 0"),
        ("[prices.m]\ninput = 1\noutput = 0x" + "f" * 9000, "prices.m.output: must be a number"),
    ],
)
def test_a_refusal_names_the_file_the_key_and_what_would_be_right(toml: str, message: str) -> None:
    assert message in refusal(toml)
    assert refusal(toml).startswith("config.toml: ")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("first_byte_timeout = '5x'", "first_byte_timeout: '5x' is not a duration; write"),
        ("idle_timeout = '0s'", "idle_timeout: must be a duration from '1ms' to '1d'"),
        ("weight = 0", "weight: must be a whole number from 1 to 1000"),
        ("priority = 1.5", "priority: must be a whole number from -1000 to 1000, not a number"),
        ("models = []", 'models: an empty list would serve no model; write ["*"]'),
        ("models = ['']", "models: must be one line"),
        ("dialect = 'openia'", "dialect: 'openia' is not possible; did you mean 'openai'?"),
        ("api_key_env = 'sk-ant-api03'", "api_key_env: must be the name of an environment"),
        ("api_key = ''", "api_key: must be the provider's key"),
        ("api_key = 'a'\napi_key_env = 'A'", "api_key_env and api_key are both set; keep one"),
        ("api_keyenv = 'A'", "no such key 'api_keyenv'; did you mean 'api_key_env'?"),
    ],
)
def test_a_refusal_says_which_upstream_it_is_about(keys: str, message: str) -> None:
    first = upstream('api_key_env = "KEY"')
    second = upstream(keys).replace('"one"', '"two"')
    assert refusal(first + second).startswith(
        f"config.toml: [[upstreams]] 2 (name 'two'): {message}"
    )


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


# Secrets


@pytest.mark.parametrize(
    "toml",
    [
        "[admin]\npassword_hash = '$2b$12$" + "s" * 53 + "'",
        "[alerts]\nwebhook = 'https://hooks.example.com/sssss'",
        upstream("api_key = 'sssss'"),
    ],
)
def test_a_secret_in_the_file_is_known_and_never_shown(toml: str) -> None:
    config = parse(toml)
    assert config.holds_secret
    assert "sssss" not in repr(config)


@pytest.mark.parametrize(
    "toml", ["", upstream('api_key_env = "K"'), upstream('api_key_file = "k"')]
)
def test_the_name_of_a_secret_is_none(toml: str) -> None:
    assert not parse(toml).holds_secret


@pytest.mark.parametrize(
    "toml",
    [
        "[admin]\npassword_hash = 'hunter2'",
        "[alerts]\nwebhook = 'hunter2'",
        "[alerts]\nwebhook = 'https://u:hunter2@example.com/'",
        "[metrics]\ntoken_env = 'hunter2-token'",
        upstream("api_key = 'hunter2 '"),
        upstream("api_key_env = 'hunter2-key'"),
    ],
)
def test_a_refused_secret_is_not_shown(toml: str) -> None:
    assert "hunter2" not in refusal(toml)


# Without a file, and where to listen


def test_without_a_file_anthropic_is_the_upstream_if_its_key_is_there() -> None:
    assert default_config({}) == default_config({"ANTHROPIC_API_KEY": " "}) == Config()
    config = default_config({"ANTHROPIC_API_KEY": "sk-ant-secret"})
    assert config == parse(
        '[[upstreams]]\nname = "anthropic"\nbase_url = "https://api.anthropic.com"\n'
        'api_key_env = "ANTHROPIC_API_KEY"'
    )
    assert "sk-ant-secret" not in repr(config)


LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST."]
BEYOND = ["0.0.0.0", "::", "192.168.1.2", "::ffff:10.0.0.1", "example.com", "localhost.evil.com"]
BEYOND += ["", "*", "127.1", "2130706433"]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_may_be_listened_on_as_it_is(host: str) -> None:
    assert is_loopback(host)
    check_listen(ServerConfig(host))


@pytest.mark.parametrize("host", BEYOND)
def test_beyond_loopback_takes_tls_or_a_proxy_in_front(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(UsageError, match=r"\[server.tls\], or behind_proxy = true"):
        check_listen(ServerConfig(host))
    check_listen(ServerConfig(host, behind_proxy=True))
    check_listen(ServerConfig(host, tls=TlsConfig("a.pem", "b.pem")))


# The example file


def switched_on(text: str) -> str:
    """The example with every setting that is switched off switched on."""
    return re.sub(r"^#(?=[a-z\[])", "", text, flags=re.MULTILINE)


def known_keys(section: type, path: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Every key that the code knows, by its dotted path; ``*`` stands for names of one's own."""
    hints = get_type_hints(section)
    for field in dataclasses.fields(section):
        inner = [part for part in _parts(hints[field.name]) if dataclasses.is_dataclass(part)]
        here = f"{path}{field.name}"
        if "Mapping" in str(hints[field.name]):
            here += ".*"
        # Limit is a value that is written as text, not a section.
        if inner and isinstance(inner[0], type) and inner[0].__module__ == Config.__module__:
            yield from known_keys(inner[0], f"{here}.")
        else:
            yield here, field


def _parts(hint: object) -> Iterator[object]:
    yield hint
    for argument in get_args(hint):
        yield from _parts(argument)


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
        if section == "upstreams":
            table |= {"name": "x", "base_url": "http://127.0.0.1"}
            config: Any = parse_config({"upstreams": [table]}, source="").upstreams[0]
        else:
            config = getattr(parse_config({section: table}, source=""), section)
        assert getattr(config, key) == field.default


def test_the_example_works_as_it_stands_and_with_everything_switched_on() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    as_it_stands = parse(text)
    assert [upstream.name for upstream in as_it_stands.upstreams] == ["anthropic"]
    assert dataclasses.replace(as_it_stands, upstreams=()) == Config()
    everything = parse(switched_on(text))
    assert [upstream.name for upstream in everything.upstreams] == ["anthropic", "openai", "lab"]
    assert everything.server.tls
    assert everything.aliases
    assert everything.limits.groups
    assert everything.prices


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

"""The sections: defaults, what each key takes, rules about several keys, and no secret shown."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import pytest

from opuslive.config.reader import is_loopback
from opuslive.config.sections import (
    Config,
    ServerConfig,
    UpstreamConfig,
    check_listen,
    parse_config,
    parse_config_text,
    with_default_upstream,
)
from opuslive.config.tls import LETS_ENCRYPT, TlsConfig, certified_name
from opuslive.errors import UsageError
from opuslive.limits.grammar import parse_limit, parse_limits
from tests.support.toml import parse, refusal, upstream, with_key

#: The example of the specification, as an administrator would copy it.
SMTP = "[alerts.smtp]\nhost = 'mail.example.com'\nfrom = 'me@b.example'\nto = 'you@b.example'"
FULL = """
[server]
host = "127.0.0.1"
port = 8080
public_url = "https://ai.example.com"
behind_proxy = false
max_body = "32MB"
drain = "10m"
drain_notice = "0s"
cors_origins = []
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
default_request_limit = "2k requests/30s"
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
    assert config.keys.default_request_limit == parse_limit("2k requests/30s")
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


def test_the_default_limit_of_requests_can_be_switched_off() -> None:
    assert Config().keys.default_request_limit == parse_limit("6000 requests/1m")
    assert parse("[keys]\ndefault_request_limit = ''").keys.default_request_limit is None
    written = parse("[keys]\ndefault_request_limit = '9 requests/1h'")
    assert written.keys.default_request_limit == parse_limit("9 requests/1h")


# What is refused, and how


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[admin]\npassword_hash = 'hunter2'", "admin.password_hash: must be a bcrypt hash"),
        ("[admin]\ncontact = 'send X-Api-Key'", "admin.contact: must not contain"),
        ("[storage]\nurl = 'postgres://x/y'", "storage.url: must be sqlite:// and an absolute"),
        ("[storage]\nurl = 'sqlite:///'", "storage.url: must be sqlite://"),
        ("[storage]\nurl = 'sqlite://opus.db'", "storage.url: must be sqlite://"),
        ("[keys]\nprefix = 'a-prefix-of-21-chars-'", "keys.prefix: must be at most 20 characters"),
        ("[keys]\nprefix = 'sk ant'", "keys.prefix: must be at most 20"),
        ("[keys]\nprefix = 'schlüssel-'", "keys.prefix: must be at most 20"),
        ("[keys]\nprefix = '-sk-'", "no dash in front"),
        ("[keys]\ndefault_request_limit = '9'", "default_request_limit: '9' is not a limit"),
        ("[keys]\ndefault_request_limit = '9 concurrent'", "must be a number of requests in a"),
        ("[keys]\ndefault_request_limit = '9 tokens/1m'", "must be a number of requests in a"),
        ("[keys]\ndefault_request_limit = '9 requests/2h'", "window of an hour at most"),
        ("[keys]\ndefault_request_limit = '9 requests/day'", "window of an hour at most"),
        ("[keys]\ndefault_request_limit = []", "default_request_limit: must be text in quotes"),
        ("[limits]\ngateway = ['5 token/1m']", "limits.gateway: no such metric 'token'; did you"),
        ("[limits]\ngateway = ['1 usd/day', '2 usd/day']", "limit the same thing"),
        ("[limits.groups]\n'a b' = ['x']", "limits.groups.'a b': 'x' is not a limit"),
        ("[limits.groups]\n'' = []", "limits.groups.'': must be one line"),
        ("[limits]\nmax_wait = '11m'", "limits.max_wait: must be a duration from '0s' to '10m'"),
        ("[aliases]\nopus = 1", "aliases.opus: must be text in quotes, not a number"),
        ("[aliases]\na = 'b'\nb = 'c'", "aliases.a: 'b' is an alias itself; write the name"),
        ("[aliases]\na = 'a'", "aliases.a: 'a' is an alias itself"),
        ("[aliases]\na = 'claude-*'", "aliases.a: must be the full name of a model"),
        ("[aliases]\n'claude-*' = 'a'", "aliases.'claude-*': must be the full name of a model"),
        ("[prices.'gpt-*']\ninput = 1\noutput = 1", "prices.'gpt-*': must be the full name of a"),
        ("[alerts]\nwebhook = 'http://example.com/x'", "alerts.webhook: must begin with https://"),
        (
            "[alerts]\nformat = 'slak'",
            "alerts.format: 'slak' is not possible; did you mean 'slack'?",
        ),
        (f"{SMTP}\ntls = 'none'", "alerts.smtp.tls: only a mail server on this machine"),
        (f"{SMTP}\nuser = 'me'", "alerts.smtp: the key 'password_file' is missing"),
        (f"{SMTP}\npassword_file = 'p'", "alerts.smtp: the key 'user' is missing"),
        (f"{SMTP}\nfrom_ = 'a@b.c'", "alerts.smtp: no such key 'from_'; did you mean 'from'?"),
        ("[alerts.smtp]\nhost = 'x'", "alerts.smtp: the key 'from' is missing"),
        (SMTP.replace("'you@b.example'", "[]"), "alerts.smtp.to: must have 1 to 20 addresses"),
        (
            SMTP.replace("'you@b.example'", r'"you@b.example\r\nBcc: x@y.z"'),
            "alerts.smtp.to: must be a mail address",
        ),
        ("[prices.'a.b']\ninput = -1\noutput = 1", "prices.'a.b'.input: must be a number from 0"),
    ],
)
def test_a_value_that_a_key_does_not_take_is_refused(toml: str, message: str) -> None:
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
        (
            "dialect = 'antropic'",
            "dialect: this version speaks 'anthropic' and 'openai', not 'antropic'; "
            "did you mean 'anthropic'?",
        ),
        (
            "dialect = 'ollama'",
            "dialect: this version speaks 'anthropic' and 'openai', not 'ollama'; correct",
        ),
        (
            "dialect = 1",
            "dialect: must be a dialect that this version speaks ('anthropic' and 'openai'), not a",
        ),
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
    for environ in ({}, {"ANTHROPIC_API_KEY": " "}):
        assert with_default_upstream(Config(), environ) == Config()
    config = with_default_upstream(Config(), {"ANTHROPIC_API_KEY": "sk-ant-secret"})
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
    check_listen(ServerConfig((host,)))


@pytest.mark.parametrize("host", BEYOND)
def test_beyond_loopback_takes_tls_or_a_proxy_in_front(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(UsageError, match=r"\[server.tls\], or behind_proxy = true"):
        check_listen(ServerConfig((host,)))
    check_listen(ServerConfig((host,), behind_proxy=True))
    check_listen(ServerConfig((host,), tls=TlsConfig("a.pem", "b.pem")))


@pytest.mark.parametrize(
    ("written", "hosts"),
    [
        ("'::'", ("::",)),
        ("['127.0.0.1', '::1']", ("127.0.0.1", "::1")),
        ("['localhost']", ("localhost",)),
    ],
)
def test_one_address_or_several_may_be_listened_on(written: str, hosts: tuple[str, ...]) -> None:
    assert parse(f"[server]\nhost = {written}").server.host == hosts


@pytest.mark.parametrize("written", ["[]", "['']", "['::1', 7]", "7", "[['::1']]"])
def test_what_is_no_address_nor_a_list_of_them_is_refused(written: str) -> None:
    assert "server.host: " in refusal(f"[server]\nhost = {written}")


@pytest.mark.parametrize(
    "hosts", [("127.0.0.1", "::"), ("10.0.0.1", "::1"), ("::1", "example.com")]
)
def test_one_address_beyond_loopback_is_enough_to_need_tls(hosts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="without TLS"):
        check_listen(ServerConfig(hosts))
    check_listen(ServerConfig(hosts, behind_proxy=True))


ACME = "[server.tls]\nacme = 'you@example.com'\n"
NAMED = "[server]\npublic_url = 'https://AI.Example.com.:8443/'\n"


def test_a_certificate_may_be_got_by_itself_for_the_host_of_the_public_url() -> None:
    config = parse(NAMED + ACME).server
    assert config.tls == TlsConfig(
        acme="you@example.com", acme_directory=LETS_ENCRYPT, acme_ca=None, acme_http_port=80
    )
    assert certified_name(config.public_url or "") == "ai.example.com"
    check_listen(dataclasses.replace(config, host=("::",)))


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (ACME, "server.public_url: is missing, and [server.tls] acme gets a certificate"),
        *(
            (f"[server]\npublic_url = '{url}'\n{ACME}", f"server.public_url: {message}")
            for url, message in [
                ("http://ai.example.com", "must begin with https://"),
                ("https://192.0.2.1", "names no host that"),
                ("https://[2001:db8::1]:8443", "names no host that"),
                ("https://1.2", "names no host that"),
                ("https://localhost", "names no host that"),
                ("https://LOCALHOST.", "names no host that"),
                ("https://ai.localhost", "names no host that"),
                ("https://127.0.0.1:8443", "names no host that"),
                ("https://a_b.example.com", "[server.tls] acme needs a host name"),
                ("https://a..example.com", "[server.tls] acme needs a host name"),
            ]
        ),
        *(
            (f"{NAMED}[server.tls]\n{keys}", f"server.tls{message}")
            for keys, message in [
                ("", ": the key 'certificate' is missing; set certificate and private_key, or ac"),
                ("private_key = 'k'", ": the key 'certificate' is missing"),
                ("acme_http_port = 8080", ": the key 'certificate' is missing"),
                ("acme = 'a@b.c'\ncertificate = 'c'", ": acme gets a certificate by itself, and"),
                ("acme = 'a@b.c'\nprivate_key = 'k'", ": acme gets a certificate by itself, and"),
                (
                    "certificate = 'c'\nprivate_key = 'k'\nacme_ca = 'ca.pem'",
                    ": acme_ca is set without acme",
                ),
                ("acme = true", ".acme: must be a mail address"),
                ("acme = 'example.com'", ".acme: must be a mail address"),
                ("acme = 'a@b.c,d@e.f'", ".acme: must be a mail address"),
                ("acme = 'a@b.c?x'", ".acme: must be a mail address"),
                ("acme = 'a?b@c.d'", ".acme: must be a mail address"),
                ("acme = 'a@b.c'\nacme_directory = 'http://ca/dir'", ".acme_directory: must begin"),
                ("acme = 'a@b.c'\nacme_directory = 'ca'", ".acme_directory: must be an address"),
                ("acme = 'a@b.c'\nacme_http_port = 0", ".acme_http_port: must be a whole number"),
            ]
        ),
        (f"{NAMED}port = 80\n{ACME}", "server.port: is the port of [server.tls] acme_http_port"),
        (NAMED + ACME + "acme_http_port = 8080", "server.port: is the port of"),
    ],
)
def test_what_leads_to_no_certificate_is_refused(toml: str, message: str) -> None:
    assert message in refusal(toml)


@pytest.mark.parametrize(
    ("tls", "port"), [("", 587), ("tls = 'starttls'", 587), ("tls = 'tls'", 465)]
)
def test_mail_goes_to_the_port_of_its_encryption_unless_one_is_named(tls: str, port: int) -> None:
    smtp = parse(f"{SMTP}\n{tls}").alerts.smtp
    assert smtp is not None
    assert (smtp.port_in_use, smtp.from_, smtp.to) == (port, "me@b.example", ("you@b.example",))
    named = parse(f"{SMTP}\n{tls}\nport = 2525").alerts.smtp
    assert named is not None
    assert named.port_in_use == 2525


def test_mail_without_encryption_stays_on_this_machine() -> None:
    for host in LOOPBACK:
        smtp = parse(f"{SMTP.replace('mail.example.com', host)}\ntls = 'none'").alerts.smtp
        assert smtp is not None
        assert smtp.port_in_use == 25
    for host in BEYOND:
        refusal(f"{SMTP.replace('mail.example.com', host)}\ntls = 'none'")

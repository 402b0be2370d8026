"""``opuslive serve``: what is refused before anything is opened, in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.workplace import UPSTREAM, MakeWorkplace, Workplace


def refusal(work: Workplace, *options: str) -> str:
    """What ``serve`` complains of; it comes to no log."""
    return work.run("serve", "--port", "0", *options).complaint


def test_a_configuration_that_is_not_toml_is_named(workplace: Workplace) -> None:
    workplace.config_file.write_text("[server\nport = 1")
    complaint = refusal(workplace)
    assert str(workplace.config_file) in complaint
    assert "not valid TOML" in complaint


@pytest.mark.parametrize(
    ("section", "members", "named"),
    [
        ("server", {"prot": 80}, "server: no such key 'prot'"),
        ("server", {"port": "80"}, "server.port"),
        ("server", {"host": "0.0.0.0"}, "TLS"),
        ("upstream", {"base_url": "http://example.com"}, "base_url"),
        ("aliases", {"a": "b", "b": "c"}, "aliases.a"),
    ],
)
def test_a_wrong_value_is_named(
    make_workplace: MakeWorkplace, section: str, members: dict[str, Any], named: str
) -> None:
    assert named in refusal(make_workplace(UPSTREAM, **{section: members}))


def test_a_missing_configuration_is_named(workplace: Workplace) -> None:
    workplace.config_file.unlink()
    assert "can't be read: No such file" in refusal(workplace)


def test_without_an_upstream_two_ways_to_go_on_are_named(make_workplace: MakeWorkplace) -> None:
    complaint = refusal(make_workplace(None))
    assert "has no [[upstreams]]" in complaint
    assert "ANTHROPIC_API_KEY is not set" in complaint
    assert "--sandbox" in complaint
    blank = make_workplace(None).run("serve", "--port", "0", ANTHROPIC_API_KEY=" ")
    assert blank.complaint == complaint


def test_without_upstreams_in_the_file_the_key_of_the_default_one_is_enough(
    make_workplace: MakeWorkplace,
) -> None:
    work = make_workplace(None, server={"behind_proxy": True})
    # It comes to listening, and no further: the default upstream is not asked for anything.
    command = ("serve", "--port", "0", "--host", "192.0.2.1")
    assert "Can't listen on 192.0.2.1" in work.run(*command, ANTHROPIC_API_KEY="sk").complaint
    assert "There is no upstream" in work.run(*command).complaint


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_listening_beyond_this_machine_without_tls_is_refused(
    workplace: Workplace, host: str
) -> None:
    complaint = refusal(workplace, "--host", host)
    assert "TLS" in complaint
    assert "behind_proxy" in complaint


@pytest.mark.parametrize("hosts", [["127.0.0.1", "::"], ["0.0.0.0", "::1"], ["localhost", "::2"]])
def test_no_address_of_several_may_be_beyond_this_machine_without_tls(
    make_workplace: MakeWorkplace, hosts: list[str]
) -> None:
    (beyond,) = {"::", "0.0.0.0", "::2"} & set(hosts)
    options = [word for host in hosts for word in ("--host", host)]
    assert f"Listening on '{beyond}' without TLS" in refusal(make_workplace(), *options)
    configured = make_workplace(UPSTREAM, server={"host": hosts})
    assert f"Listening on '{beyond}' without TLS" in refusal(configured)


@pytest.mark.parametrize("host", ["", "[::1]", "127.0.0.1:80", "a,b", "http://a"])
def test_what_is_no_address_is_refused(workplace: Workplace, host: str) -> None:
    assert refusal(workplace, "--host", host).startswith("--host: must be a host name or an IP")


def test_wrong_usage_prints_nothing_and_ends_with_2(workplace: Workplace) -> None:
    outcome = workplace.run("serve", "--nonsense")
    assert (outcome.status, outcome.out) == (2, "")

"""Putting a gateway together: what it leaves behind when that fails, and what commands may do."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from opuslive.bootstrap import Gateway, open_gateway, price_overrides
from opuslive.config.files import Settings
from opuslive.config.sections import Config, PriceConfig, UpstreamConfig, parse_config
from opuslive.dialects.anthropic.dialect import AnthropicDialect
from opuslive.errors import UsageError
from opuslive.gateway.alerts.mail import Mail
from opuslive.pricing.prices import CacheFactors
from opuslive.storage import open_storage
from tests.support.keys import a_key, a_record


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path / 'opuslive.db'}"


async def opened(url: str, *, serving: bool) -> Gateway:
    upstream = {"name": "p", "base_url": "http://127.0.0.1:9", "api_key": "k"}
    config = parse_config({"upstreams": [upstream]}, source="test")
    return await open_gateway(Settings(config), url, environ={}, serving=serving)


@pytest.mark.parametrize("serving", [False, True])
async def test_a_failure_leaves_the_database_to_others(url: str, serving: bool) -> None:
    storage = await open_storage(url)
    await storage.add_key(a_key(limits=("nonsense",)))
    await storage.close()
    with pytest.raises(UsageError, match="is not a limit"):
        await opened(url, serving=serving)
    storage = await open_storage(url)
    assert [key.id for key in await storage.keys()] == [a_key().id]
    await storage.close()


async def test_what_ran_when_a_process_was_killed_is_closed_by_the_next_server_alone(
    url: str,
) -> None:
    """A command only looks, and needs no room on the disk for that."""
    storage = await open_storage(url)
    await storage.add_key(a_key())
    storage.keep_open(a_record(status=None))
    await storage.close()
    gateway = await opened(url, serving=False)
    records, _ = await gateway.storage.records(a_key().id)
    await gateway.close()
    assert [record.status for record in records] == [None]
    gateway = await opened(url, serving=True)
    records, _ = await gateway.storage.records(a_key().id)
    await gateway.close()
    assert [record.status for record in records] == [503]


ANTHROPICS = CacheFactors(read=Decimal("0.1"), write_5m=Decimal("1.25"), write_1h=Decimal(2))
OTHERS = CacheFactors(read=Decimal("0.5"))


class OtherDialect(AnthropicDialect):
    cache_factors = OTHERS


def factors_of(model: str, *upstreams: tuple[str, str, int]) -> CacheFactors:
    """By which an overridden price is filled in; ``upstreams``: dialect, glob, priority."""
    config = Config(
        upstreams=tuple(
            UpstreamConfig(
                str(number), "http://127.0.0.1:9", dialect, models=(glob,), priority=priority
            )
            for number, (dialect, glob, priority) in enumerate(upstreams)
        ),
        prices={model: PriceConfig(1.0, 2.0)},
    )
    dialects = {"anthropic": AnthropicDialect(), "openai": OtherDialect()}
    return price_overrides(config, dialects)[model].factors


def test_cache_prices_follow_the_dialect_of_the_upstream_that_serves_the_model() -> None:
    claude, gpt = ("anthropic", "claude-*", 0), ("openai", "gpt-*", 0)
    assert factors_of("claude-9", gpt, claude) == ANTHROPICS
    assert factors_of("gpt-9", claude, gpt) == OTHERS
    assert factors_of("gpt-9", ("anthropic", "*", 0), ("openai", "*", -1)) == OTHERS


def test_cache_prices_of_a_model_that_no_upstream_serves_are_anthropics() -> None:
    assert factors_of("own") == ANTHROPICS
    assert factors_of("own", ("openai", "gpt-*", 0)) == ANTHROPICS


@pytest.mark.parametrize("serving", [False, True])
async def test_commands_price_cached_tokens_as_the_server_does(url: str, serving: bool) -> None:
    upstream = {"name": "p", "base_url": "http://127.0.0.1:9", "api_key": "k"}
    prices = {"own": {"input": 1.0, "output": 2.0}}
    config = parse_config({"upstreams": [upstream], "prices": prices}, source="test")
    gateway = await open_gateway(Settings(config), url, environ={}, serving=serving)
    price = gateway.prices.price_of("own", 0)
    await gateway.close()
    assert price is not None
    (tier,) = price.tiers
    assert (tier.cache_read, tier.cache_write_5m, tier.cache_write_1h) == (
        100_000,
        1_250_000,
        2_000_000,
    )


async def test_the_password_of_the_mail_server_is_needed_to_serve_and_read_for_each_mail(
    url: str, tmp_path: Path
) -> None:
    smtp = {"host": "mail.example.com", "from": "a@b.example", "to": "c@d.example"}
    smtp |= {"user": "a@b.example", "password_file": "smtp.password"}
    config = parse_config({"alerts": {"smtp": smtp}}, source="test")
    settings = Settings(config, tmp_path)
    with pytest.raises(UsageError, match=r"put it into the file .*smtp\.password"):
        await open_gateway(settings, url, environ={})
    # Commands of others must not fail for it.
    gateway = await open_gateway(settings, url, environ={}, serving=False)
    channel = gateway.channels._deliveries["mail"].channel
    assert isinstance(channel, Mail)
    with pytest.raises(UsageError):
        channel.login()
    for password in ("first", "second one"):
        (tmp_path / "smtp.password").write_text(f" {password}\nno part of it\n")
        (tmp_path / "smtp.password").chmod(0o600)
        assert channel.login() == ("a@b.example", password)
    (tmp_path / "smtp.password").chmod(0o666)
    with pytest.raises(UsageError, match="name another file in password_file"):
        channel.login()
    assert "second one" not in repr(channel)
    await gateway.close()

"""A gateway that took a new configuration is as one that was started with it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opuslive.bootstrap import Gateway, open_gateway
from opuslive.config.changes import NEEDS_RESTART
from opuslive.config.files import Settings
from opuslive.config.sections import Config, parse_config
from opuslive.errors import OpusLiveError, UsageError
from opuslive.gateway.alerts.mail import Mail
from opuslive.reloading import Reloader, Step
from opuslive.storage import StorageUnavailable
from tests.support.config_keys import BASE, OTHER, tables_with
from tests.support.waiting import PATIENCE, eventually

ENVIRON = {"OTHER_CREDENTIAL": "of-the-environment"}
LIVE = [key for key in OTHER if not {key, key.partition(".")[0]} & NEEDS_RESTART]


def settings_of(tables: Any, folder: Path) -> Settings:
    return Settings(parse_config(tables, source="c.toml"), folder, file=folder / "c.toml")


async def opened(settings: Settings, name: str = "opuslive.db") -> Gateway:
    url = f"sqlite://{settings.folder / name}"
    return await open_gateway(settings, url, environ=ENVIRON)


def facts(gateway: Gateway) -> dict[str, Any]:
    """What the parts of a gateway go by, each where it looks."""
    config, admission = gateway.in_force.config, gateway.admission
    shared = admission.shared_limits()
    upstreams = [
        (
            *(each.name, each.dialect.name, each.authority, each.path_prefix),
            *(list(each.credential), each.models, each.priority, each.weight),
            *(each.pool._timeouts, each.pool._endpoint),
        )
        for each in gateway.router.upstreams
    ]
    return {
        # Looked at with each use: by the gate, the drain, the pages.
        "in force": (config.server, config.admin, config.log, config.alerts, config.keys),
        "contact": gateway.authenticator.contact,
        "new keys": (
            gateway.administration._key_prefix,
            gateway.administration._default_limits,
        ),
        "policy": (admission._policy, admission._charging.cache_read_weight),
        "waiting": admission._queues.max_wait,
        "gateway": [status.limit for status in shared.gateway],
        "groups": {
            name: [status.limit for status in statuses] for name, statuses in shared.groups.items()
        },
        "upstreams": upstreams,
        "models": (gateway.router.aliases, gateway.router.literal_models()),
        "channels": {
            name: _comparable(each.channel) for name, each in gateway.channels._deliveries.items()
        },
        "price": gateway.prices.price_of("m", 0),
    }


def _comparable(channel: object) -> object:
    """The channel, but for what reads its password."""
    if isinstance(channel, Mail):
        return replace(channel, login=no_login)
    return channel


def no_login() -> None:
    return None


@pytest.mark.parametrize("key", LIVE)
async def test_each_key_takes_force(key: str, tmp_path: Path) -> None:
    (tmp_path / "other.key").write_text("of-a-file")
    (tmp_path / "other.key").chmod(0o600)
    new = settings_of(tables_with(key), tmp_path)
    fresh = await opened(new, "fresh.db")
    running = await opened(settings_of(BASE, tmp_path))
    before = facts(running)
    try:
        await Reloader(running, lambda: new, ENVIRON).reload()
        assert facts(running) == facts(fresh)
        # "insecure" allows an address, and changes nothing else.
        assert (facts(running) != before) == (key != "upstreams.insecure")
    finally:
        await fresh.close()
        await running.close()


async def test_what_needs_a_restart_is_named_until_the_file_has_it_as_before(
    tmp_path: Path,
) -> None:
    gateway = await opened(settings_of(BASE, tmp_path))
    before = gateway.in_force.config
    reading = settings_of({**BASE, "server": {"port": 81}}, tmp_path)
    reloader = Reloader(gateway, lambda: reading, ENVIRON)
    for _ in range(2):
        reloaded = await reloader.reload()
        assert (reloaded.changed, reloaded.needs_restart) == ((), ("server.port",))
        assert gateway.in_force.needs_restart == ("server.port",)
        assert gateway.in_force.config == before
    reading = settings_of(BASE, tmp_path)
    await reloader.reload()
    assert gateway.in_force.needs_restart == ()
    await gateway.close()


async def test_since_is_the_last_reload_that_changed_something(tmp_path: Path) -> None:
    gateway = await opened(settings_of(BASE, tmp_path))
    started = gateway.in_force.since
    reading = settings_of(BASE, tmp_path)
    reloader = Reloader(gateway, lambda: reading, ENVIRON)
    await eventually(lambda: gateway.clock.steady_ms() > started)
    assert (await reloader.reload()).since == started
    reading = settings_of({**BASE, "aliases": {"a": "claude-b"}}, tmp_path)
    reloaded = await reloader.reload()
    assert reloaded.since > started
    assert reloaded.file == str(tmp_path / "c.toml")
    await gateway.close()


async def bad_storage() -> None:
    raise StorageUnavailable


@pytest.mark.parametrize("wrong", ["file", "credential", "part", "storage"])
async def test_whatever_is_wrong_nothing_changes(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await opened(settings_of(BASE, tmp_path))
    before, since = facts(gateway), gateway.in_force.since
    upstreams = [{"name": "two", "base_url": "http://127.0.0.1:9"}]
    if wrong == "credential":
        upstreams[0]["api_key_env"] = "MISSING"
    tables = {
        "upstreams": upstreams,
        "aliases": {"a": "claude-b"},
        "admin": {"contact": "new"},
        "limits": {"gateway": ["1 requests/day"], "groups": {"g": ["1 tokens/day"]}},
        "keys": {"default_limits": ["1 requests/day"]},
        "alerts": {"webhook": "https://hooks.example.com/x"},
    }
    applied: list[str] = []

    def load() -> Settings:
        if wrong == "file":
            raise UsageError("The file is bad.")
        return settings_of(tables, tmp_path)

    def part(config: Config) -> Step:
        if wrong == "part":
            raise UsageError("The certificate is bad.")
        return Step(lambda: applied.append("part"))

    if wrong == "storage":
        monkeypatch.setattr(gateway.storage, "flush", bad_storage)
    reloader = Reloader(gateway, load, {}, [part])
    with pytest.raises(OpusLiveError) as raised:
        await reloader.reload()
    assert facts(gateway) == before
    assert gateway.in_force.since == since
    assert not applied
    assert f"stays in force: {raised.value.message}" in caplog.text
    monkeypatch.undo()
    # The next one is not in the way of the one that failed.
    wrong = "nothing"
    upstreams[0].pop("api_key_env", None)
    await reloader.reload()
    assert applied == ["part"]
    assert facts(gateway) != before
    await gateway.close()


async def test_two_reloads_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    """All who ask while one reads the file share the next one."""
    gateway = await opened(settings_of(BASE, tmp_path))
    numbers = iter(range(1, 100))
    reading, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def load() -> Settings:
        loop.call_soon_threadsafe(reading.set)
        assert go_on.wait(PATIENCE)
        limits = {"gateway": [f"{next(numbers)} tokens/1m"]}
        return settings_of({**BASE, "limits": limits}, tmp_path)

    reloader = Reloader(gateway, load, ENVIRON)
    first = asyncio.create_task(reloader.reload())
    await reading.wait()
    first.cancel()  # Its caller has left; it is carried through.
    reloads = [asyncio.create_task(reloader.reload()) for _ in range(5)]
    await asyncio.sleep(0)
    go_on.set()
    done = await asyncio.gather(*reloads)
    assert [each.changed for each in done] == [("limits.gateway",)] * 5
    assert next(numbers) == 3
    (status,) = gateway.admission.shared_limits().gateway
    assert status.limit.amount == 2
    await reloader.close()
    with pytest.raises(OpusLiveError, match="ending"):
        await reloader.reload()
    await gateway.close()


class TestUpstreams:
    """One that stays keeps its connections and its health."""

    @staticmethod
    def tables(**more: Any) -> dict[str, Any]:
        return {
            "upstreams": [
                {"name": "one", "base_url": "http://127.0.0.1:9", "api_key_file": "key"} | more,
                {"name": "two", "base_url": "http://127.0.0.1:9"},
            ]
        }

    @staticmethod
    def write(folder: Path, credential: str) -> None:
        (folder / "key").write_text(credential)
        (folder / "key").chmod(0o600)

    async def test_that_differ_in_nothing_stay(self, tmp_path: Path) -> None:
        self.write(tmp_path, "first")
        gateway = await opened(settings_of(self.tables(), tmp_path))
        before = gateway.router.upstreams
        await Reloader(gateway, lambda: settings_of(self.tables(), tmp_path), {}).reload()
        assert [a is b for a, b in zip(before, gateway.router.upstreams, strict=True)] == [True] * 2
        await gateway.close()

    async def test_that_serve_something_else_keep_their_connections(self, tmp_path: Path) -> None:
        self.write(tmp_path, "first")
        gateway = await opened(settings_of(self.tables(), tmp_path))
        one, two = gateway.router.upstreams
        new = self.tables(weight=5, priority=-1, models=["a"])
        await Reloader(gateway, lambda: settings_of(new, tmp_path), {}).reload()
        changed, same = gateway.router.upstreams
        assert (changed.pool, changed.health) == (one.pool, one.health)
        assert (changed.weight, changed.priority, changed.models) == (5, -1, ("a",))
        assert same is two
        await gateway.close()

    async def test_whose_credential_is_another_in_the_same_file_are_new(
        self, tmp_path: Path
    ) -> None:
        self.write(tmp_path, "first")
        gateway = await opened(settings_of(self.tables(), tmp_path))
        one, two = gateway.router.upstreams
        self.write(tmp_path, "second")
        reloader = Reloader(gateway, lambda: settings_of(self.tables(), tmp_path), {})
        reloaded = await reloader.reload()
        assert reloaded.changed == ("upstreams.one.api_key_file",)
        renewed, same = gateway.router.upstreams
        assert renewed.pool is not one.pool
        assert dict(renewed.credential)[b"x-api-key"] == b"second"
        assert same is two
        assert (await reloader.reload()).changed == ()
        await gateway.close()

    async def test_that_were_refused_are_asked_again(self, tmp_path: Path) -> None:
        self.write(tmp_path, "first")
        gateway = await opened(settings_of(self.tables(), tmp_path))
        one, _ = gateway.router.upstreams
        now = gateway.clock.steady_ms()
        one.health.refused(now)
        assert one.health.aside_until(now)
        await Reloader(gateway, lambda: settings_of(self.tables(), tmp_path), {}).reload()
        assert not one.health.aside_until(now)
        await gateway.close()

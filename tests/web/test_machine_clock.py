"""The machine's clock is set while the gateway runs: what clients, holders and administrators see.

What belongs to it: a clock that was behind and one that was ahead; records of requests that ran
before, after, and in between; limits of a day and of an hour; the headers of answers; the log; the
time of the start; and what a gateway makes of it that is started anew.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from opuslive.times import DAY_MS, HOUR_MS, Clock, iso_ms, iso_seconds
from tests.support.app import App, Apps
from tests.support.clock import NOW, Machine
from tests.support.provider import ScriptedUpstream, anthropic_answer
from tests.support.wire import message_body

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("delta", [3 * DAY_MS, -3 * DAY_MS]),
]


@pytest.fixture(autouse=True)
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opuslive.gateway.timekeeping.LOOK_SECONDS", 0.001)


async def start(apps: Apps, upstream: ScriptedUpstream, clock: Clock) -> App:
    app = apps.make(upstream.base_url)
    app.clock = clock
    await app.start()
    return app


async def limits(app: App, key: str) -> list[tuple[Any, Any, Any]]:
    """Of each limit: what is used and reserved, and when it frees."""
    usage = await app.request("GET", "/v1/usage", key=key)
    return [
        (limit["used"], limit["reserved"], limit["frees_at"]) for limit in usage.json()["limits"]
    ]


async def test_dates_become_right_and_windows_do_not_jump(
    apps: Apps, upstream: ScriptedUpstream, delta: int
) -> None:
    machine = Machine()
    app = await start(apps, upstream, machine.clock)
    key = await app.holder(limits=["4 requests/day", "9 requests/1h", "4k tokens/1h"])
    assert (await app.messages(key, message_body())).status == 200
    machine.pass_time(1_000)
    finish = asyncio.Event()
    upstream.will(lambda request: [finish, *anthropic_answer({})])
    running = asyncio.ensure_future(app.messages(key, message_body()))
    await upstream.request(1)
    machine.pass_time(500)
    before = await limits(app, key)

    await machine.set_clock(delta)
    now = NOW + delta + 1_500
    midnight = (now // DAY_MS + 1) * DAY_MS
    day, hour, tokens = await limits(app, key)
    assert day == (2, 0, iso_seconds(midnight))
    assert [limit[:2] for limit in (hour, tokens)] == [limit[:2] for limit in before[1:]]
    # To the second that is shown: it frees after as long as it would have.
    frees_at = NOW // 60_000 * 60_000 + HOUR_MS + 60_000
    assert before[1][2] == iso_seconds(frees_at)
    assert hour[2] == iso_seconds(frees_at + delta)

    machine.pass_time(1_000)
    finish.set()
    assert (await running).status == 200
    last = await app.messages(key, message_body())
    found = {
        name.removeprefix("anthropic-ratelimit-requests-"): value
        for name, value in last.headers
        if name.startswith("anthropic-ratelimit-requests-")
    }
    assert found == {"limit": "4", "remaining": "1", "reset": iso_seconds(midnight)}
    records = await app.records(key)
    assert sorted((record["time"], record["latency_ms"]) for record in records) == sorted(
        [
            (iso_ms(NOW), 0),  # It keeps the old date.
            (iso_ms(NOW + 1_000 + delta), 1_500),
            (iso_ms(NOW + 2_500 + delta), 0),
        ]
    )
    status = await app.admin("GET", "status")
    assert status["started_at"] == iso_seconds(NOW + delta)
    assert app.log.count("The machine's clock was set") == 1
    line = f"clock was set, from {iso_seconds(NOW + 1_500)} to {iso_seconds(NOW + 1_500 + delta)}"
    assert line in app.log


async def test_a_limit_is_as_full_as_it_was(
    apps: Apps, upstream: ScriptedUpstream, delta: int
) -> None:
    machine = Machine()
    app = await start(apps, upstream, machine.clock)
    key = await app.holder(limits=["1 requests/day"])
    assert (await app.messages(key, message_body())).status == 200
    await machine.set_clock(delta)
    denied = await app.messages(key, message_body())
    assert denied.status == 429
    midnight = (machine.wall // DAY_MS + 1) * DAY_MS
    assert f"it frees at {iso_seconds(midnight)}" in denied.message
    machine.pass_time(midnight - machine.wall)
    assert (await app.messages(key, message_body())).status == 200


async def test_what_was_recorded_since_is_what_a_restart_finds(
    apps: Apps, upstream: ScriptedUpstream, delta: int
) -> None:
    machine = Machine()
    app = await start(apps, upstream, machine.clock)
    key = await app.holder(limits=["9 requests/day", "9 requests/1h"])
    await machine.set_clock(delta)
    assert (await app.messages(key, message_body())).status == 200
    await app.stop()
    app.clock = Clock(lambda: machine.wall, lambda: machine.wall)
    await app.start()
    assert [used for used, _, _ in await limits(app, key)] == [1, 1]

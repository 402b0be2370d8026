"""A key expires for everybody at once: where it is shown as where it is refused."""

from __future__ import annotations

import re

import pytest

from opuslive.administration.keys import KeyChanges
from opuslive.config.sections import AdminConfig, Config
from opuslive.errors import OpusLiveError
from opuslive.times import HOUR_MS, Clock
from tests.support.admin_pages import HASH, RIGHT
from tests.support.app import OpenApp
from tests.support.clock import NOW

SIGNED_IN = {"Authorization": RIGHT}


@pytest.mark.parametrize(
    ("wall", "steady", "state", "title"),
    [
        (NOW + HOUR_MS, NOW - HOUR_MS, "expired", "This key has expired"),
        (NOW - HOUR_MS, NOW + HOUR_MS, "enabled", "This key works"),
    ],
    ids=["the wall clock is ahead", "the wall clock is behind"],
)
async def test_the_wall_clock_decides_everywhere_whether_a_key_has_expired(
    open_app: OpenApp, wall: int, steady: int, state: str, title: str
) -> None:
    """The clock of windows is on the other side of the expiry."""
    config = Config(admin=AdminConfig(password_hash=HASH))
    gateway, client = await open_app(config, clock=Clock(lambda: wall, lambda: steady))
    changes = KeyChanges(name="between the clocks", set_expiry=True, expires_at=NOW)
    key, credential = await gateway.administration.create(changes)

    if state == "expired":
        with pytest.raises(OpusLiveError, match="has expired"):
            await gateway.authenticator.authenticate([credential])
    else:
        await gateway.authenticator.authenticate([credential])
    usage = await client.get("/v1/usage", headers={"x-api-key": credential})
    assert (await usage.json())["key"]["state"] == state
    page = await client.post("/usage", data={"key": credential})
    assert f"<strong>{title}.</strong>" in await page.text()

    shown = await client.get(f"/admin/api/keys/{key.id}", headers=SIGNED_IN)
    assert (await shown.json())["state"] == state
    listed = await client.get("/admin/api/keys", headers=SIGNED_IN)
    assert [each["state"] for each in (await listed.json())["items"]] == [state]
    key_page = await client.get(f"/admin/keys/{key.id}", headers=SIGNED_IN)
    assert f"<strong>{title}.</strong>" in await key_page.text()
    table = await client.get(f"/admin/keys?state={state}", headers=SIGNED_IN)
    assert re.findall(r'<span class="state state-(\w+)">', await table.text()) == [state]

"""The forms of the administration's pages that change several keys, and that raise limits."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.admin_pages import FORM, RIGHT, SECTIONS, get, hidden_in, make, post, text_of
from tests.support.app import App
from tests.support.wire import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return dict(SECTIONS)


async def send(server: App, what: str, keys: list[str], **fields: str) -> Answer:
    """Tick these keys and press a button."""
    body = urlencode([*(("key", key) for key in keys), *fields.items()]).encode()
    headers = [("Authorization", RIGHT), ("content-type", FORM)]
    return await server.request("POST", f"/admin/many/{what}", headers=headers, body=body)


async def made(server: App, *names: str, **fields: str) -> list[str]:
    return [(await make(server, name, **fields))[0] for name in names]


async def erase(server: App, keys: list[str]) -> None:
    for key in keys:
        await server.admin("DELETE", "keys", key)


async def states(server: App, keys: list[str]) -> list[bool]:
    return [(await server.admin("GET", "keys", key))["enabled"] for key in keys]


async def test_the_table_has_a_box_for_each_key_and_buttons_for_those_ticked(gateway: App) -> None:
    (key,) = await made(gateway, "boxed <b>")
    body = (await get(gateway, "/admin/keys")).body.decode()
    assert f'type="checkbox" form="many" name="key" value="{key}"' in body
    assert 'aria-label="Choose boxed &lt;b&gt;"' in body
    actions = re.findall(r'formaction="([^"]+)"', body)
    assert actions == [f"/admin/many/{what}" for what in ("disable", "enable", "rotate")]
    await erase(gateway, [key])


async def test_keys_are_disabled_and_enabled_together(gateway: App) -> None:
    keys = await made(gateway, "t1", "t2", "t3")
    answer = await send(gateway, "disable", keys[:2])
    assert (answer.status, answer.header("location")) == (303, "/admin/keys?done=disabled_many")
    assert await states(gateway, keys) == [False, False, True]
    assert "The keys are disabled" in text_of(await get(gateway, "/admin/keys?done=disabled_many"))
    await send(gateway, "enable", keys)
    assert await states(gateway, keys) == [True, True, True]
    await erase(gateway, keys)


@pytest.mark.parametrize("what", ["disable", "enable", "change", "rotate"])
async def test_without_a_key_that_there_is_nothing_happens(gateway: App, what: str) -> None:
    keys = await made(gateway, "w1")
    answer = await send(gateway, what, [])
    assert answer.status == 400
    assert "Name a key at least" in text_of(answer)
    answer = await send(gateway, what, [*keys, "gone0000"])
    assert answer.status == 404
    assert "Nothing was changed, because of 'gone0000'" in text_of(answer)
    assert await states(gateway, keys) == [True]
    await erase(gateway, keys)


async def test_what_is_filled_in_is_changed_of_all(gateway: App) -> None:
    keys = await made(gateway, "f1", "f2", limits="9 concurrent\n2M tokens/5h")
    form = await send(gateway, "change", keys)
    assert form.status == 200
    assert "2 keys: f1 , f2 ." in text_of(form)
    fields = {"add_limits": "8 concurrent\n60 requests/1m", "to_group": "friends"}
    fields |= {"expires": "2099-12-31", "raise": "4M tokens/5h", "until": "2099-01-01"}
    answer = await send(gateway, "change", keys, sent="yes", models="claude-*", **fields)
    assert (answer.status, answer.header("location")) == (303, "/admin/keys?done=changed_many")
    for key in keys:
        shown = await gateway.admin("GET", "keys", key)
        assert shown["limits"] == ["2M tokens/5h", "8 concurrent", "60 requests/1m"]
        assert (shown["group"], shown["models"]) == ("friends", ["claude-*"])
        assert shown["expires_at"] == "2100-01-01T00:00:00Z"
        assert [each["limit"] for each in shown["raises"]] == ["4M tokens/5h"]
    await erase(gateway, keys)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "Fill in what is to change"),
        ({"add_limits": "many tokens/5h"}, "is not an amount"),
        ({"raise": "4M tokens/5h"}, "say when"),
        ({"until": "1d"}, "A raise needs"),
        ({"raise": "4M tokens/5h", "until": "1d"}, "because of the key 'e2': The key has no limit"),
    ],
)
async def test_what_is_wrong_is_said_and_stays_filled_in(
    gateway: App, fields: dict[str, str], said: str
) -> None:
    keys = await made(gateway, "e1", limits="2M tokens/5h")
    keys += await made(gateway, "e2", limits="9 concurrent")
    answer = await send(gateway, "change", keys, sent="yes", to_group="", **fields)
    assert answer.status == 400
    assert said in text_of(answer)
    for value in fields.values():
        assert value in html.unescape(answer.body.decode())
    assert (await gateway.admin("GET", "keys", keys[0]))["raises"] == []
    await erase(gateway, keys)


async def test_new_secrets_are_shown_once_each_with_its_key(gateway: App) -> None:
    keys = [await make(gateway, name, group="to rotate") for name in ("s1", "s2")]
    form = await post(gateway, "/admin/many/rotate", {"group": "to rotate"})
    assert "All 2 keys of the group to rotate : s1 , s2 ." in text_of(form)
    hidden = hidden_in(form)
    answer = await post(gateway, "/admin/many/rotate", hidden | {"grace": "1h"})
    assert answer.status == 200
    assert answer.header("cache-control") == "no-store"
    shown = dict(
        re.findall(r'<code id="secret-(\w{8})">(sk-ant-ol-[^<]+)</code>', answer.body.decode())
    )
    assert shown.keys() == {key_id for key_id, _ in keys}
    for key_id, old in keys:
        for credential in (old, shown[key_id]):
            assert (await gateway.request("GET", "/v1/usage", key=credential)).status == 200
    # The same form again would void the secrets that were just promised a grace.
    again = await post(gateway, "/admin/many/rotate", hidden | {"grace": "1h"})
    assert again.status == 409
    assert "Nothing was changed now." in text_of(again)
    assert "Of 2 an old secret still works." in text_of(again)
    wrong = await post(gateway, "/admin/many/rotate", hidden_in(again) | {"grace": "a while"})
    assert wrong.status == 400
    assert "is not a duration" in text_of(wrong)
    await erase(gateway, [key_id for key_id, _ in keys])


async def test_a_limit_is_raised_on_the_page_of_its_key_and_taken_back(gateway: App) -> None:
    (key,) = await made(gateway, "lifted", limits="2M tokens/5h\n9 concurrent")
    page = f"/admin/keys/{key}"
    form = await get(gateway, f"{page}/raise")
    assert "It has 2M tokens/5h , 9 concurrent ." in text_of(form)
    fields = {"limit": "4M tokens/5h", "until": "2099-12-31"}
    answer = await post(gateway, f"{page}/raise", fields)
    assert (answer.status, answer.header("location")) == (303, f"{page}?done=raised")
    text = text_of(await get(gateway, f"{page}?done=raised"))
    assert "Raised from 2M tokens/5h until 1 Jan 2100, 00:00:00 UTC." in text
    assert "Raised until 4M tokens/5h 1 Jan 2100" in text
    assert "The limit is raised" in text
    assert "of 4M tokens/5h , raised" in text_of(await get(gateway, "/admin/keys"))
    assert "2M tokens/5h to 4M tokens/5h until" in text_of(await get(gateway, f"{page}/raise"))
    answer = await post(gateway, f"{page}/lower")
    assert answer.header("location") == f"{page}?done=lowered"
    assert "Raised" not in text_of(await get(gateway, page))
    await erase(gateway, [key])


@pytest.mark.parametrize(
    ("limit", "until", "said"),
    [
        ("1M tokens/5h", "1d", "is no raise"),
        ("4M tokens/1h", "1d", "its limits are: 2M tokens/5h"),
        ("4M tokens/5h", "2001-01-01", "over already"),
        ("4M tokens/5h", "", "say when"),
        ("", "1d", "A raise needs"),
    ],
)
async def test_a_raise_that_can_not_be_is_said_beside_its_field(
    gateway: App, limit: str, until: str, said: str
) -> None:
    (key,) = await made(gateway, "not lifted", limits="2M tokens/5h")
    answer = await post(gateway, f"/admin/keys/{key}/raise", {"limit": limit, "until": until})
    assert answer.status == 400
    assert said in text_of(answer)
    (field,) = re.findall(r'<input id="limit"[^>]*>', answer.body.decode())
    assert f'value="{limit}"' in field
    assert 'aria-invalid="true"' in field
    await erase(gateway, [key])


async def test_a_holder_sees_the_raise_on_the_page_of_usage(gateway: App) -> None:
    key_id, credential = await make(gateway, "holder", limits="2M tokens/5h")
    fields = {"limit": "4M tokens/5h", "until": "2099-12-31"}
    await post(gateway, f"/admin/keys/{key_id}/raise", fields)
    answer = await post(gateway, "/usage", {"key": credential}, auth=None)
    text = text_of(answer)
    assert "Raised from 2M tokens/5h until 1 Jan 2100, 00:00:00 UTC." in text
    assert "4M left" in text
    await erase(gateway, [key_id])

"""The administration's forms over HTTP: what they change, what they refuse, what they say."""

from __future__ import annotations

import asyncio
import html
import re
import secrets
from typing import Any

import pytest

from tests.support.admin_pages import (
    FORM,
    RIGHT,
    SECTIONS,
    get,
    hidden_in,
    make,
    pages_of,
    post,
    rotate,
    text_of,
)
from tests.support.app import App
from tests.support.wire import message_body, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return dict(SECTIONS)


class TestForms:
    async def test_a_key_is_shown_once_and_in_no_address(self, gateway: App) -> None:
        fields = {"name": "once", "limits": "60 requests/1m\n\n 8 concurrent ", "expires": "30d"}
        answer = await post(gateway, "/admin/keys/new", fields | {"models": "claude-opus-*"})
        assert answer.status == 201
        assert answer.header("location") is None
        assert answer.header("cache-control") == "no-store"
        shown = html.unescape(answer.body.decode())
        credential = re.findall(r"sk-ant-ol-\w{8}-\w{40}", shown)[0]
        assert f"ANTHROPIC_AUTH_TOKEN={credential}\n" in shown
        assert "export ANTHROPIC_BASE_URL=http://gateway.localhost\n" in shown
        assert f"-H 'x-api-key: {credential}'" in shown
        assert not re.search(rf'(?:href|src|action|value)="[^"]*{credential}', shown)
        key = await gateway.admin("GET", "keys", "once")
        assert key["limits"] == ["60 requests/1m", "8 concurrent"]
        assert key["models"] == ["claude-opus-*"]
        assert key["expires_at"] is not None
        secret = credential.rpartition("-")[2]
        for path in pages_of(key["id"]):
            assert secret not in (await get(gateway, path)).body.decode()
        assert secret not in gateway.log

    async def test_default_limits_are_offered_and_can_be_taken_away(self, gateway: App) -> None:
        assert "90 requests/1m</textarea>" in (await get(gateway, "/admin/keys/new")).body.decode()
        key_id, _ = await make(gateway, "without any limit", limits="")
        assert (await gateway.admin("GET", "keys", key_id))["limits"] == []

    @pytest.mark.parametrize(
        ("field", "typed", "says"),
        [
            ("name", "", "1 to 100 printable characters"),
            ("name", "x" * 101, "1 to 100 printable characters"),
            ("limits", "8 concurrent\n60 request/1m", "Line 2: No such metric 'request'"),
            ("limits", "5 requests/1m\n6 requests/60s", "limit the same thing"),
            ("limits", "\n".join(f"5 requests/{n}s" for n in range(1, 60)), "at most 50 limits"),
            ("models", "claude opus", "A model glob is"),
            ("expires", "yesterday", "'yesterday' is neither a span"),
            ("expires", "2020-01-01", "has passed already"),
            ("group", "a\tb", "A group's name has"),
        ],
    )
    async def test_errors_stand_beside_what_was_typed(
        self, gateway: App, field: str, typed: str, says: str
    ) -> None:
        key_id, _ = await make(gateway, f"to change {secrets.token_hex(4)}")
        fields = {"name": "never made", "limits": "7 concurrent", "expires": "9d", field: typed}
        for path in ("/admin/keys/new", f"/admin/keys/{key_id}/change"):
            answer = await post(gateway, path, fields)
            assert answer.status == 400
            markup = html.unescape(answer.body.decode())
            assert re.search(rf'id="{field}-error">.*?{re.escape(says)}', markup)
            marked = re.search(rf'<(?:input|textarea) id="{field}"[^>]*>', markup)
            assert marked is not None
            assert 'aria-invalid="true"' in marked[0]
            assert f'aria-describedby="{field}-hint {field}-error"' in marked[0]
            assert markup.count('aria-invalid="true"') == 1
            if field != "name":
                assert 'value="never made"' in markup
            if field != "limits":
                assert "7 concurrent</textarea>" in markup
        listed = (await gateway.admin("GET", "keys"))["items"]
        assert "never made" not in [key["name"] for key in listed]

    async def test_a_name_that_is_taken_is_refused_with_a_link_to_its_key(
        self, gateway: App
    ) -> None:
        key_id, _ = await make(gateway, "taken")
        other, _ = await make(gateway, "other")
        for path in ("/admin/keys/new", f"/admin/keys/{other}/change"):
            answer = await post(gateway, path, {"name": "taken"})
            assert answer.status == 409
            assert 'id="name-error"' in answer.body.decode()
            assert f'<a href="/admin/keys/{key_id}">' in answer.body.decode()
            assert ("rotate it" in text_of(answer)) == path.endswith("new")
        assert (await gateway.admin("GET", "keys", "taken"))["id"] == key_id

    async def test_a_change_is_stored_and_confirmed(self, gateway: App) -> None:
        key_id, _ = await make(gateway, "before", limits="5 concurrent", expires="30d")
        before = await gateway.admin("GET", "keys", key_id)
        form = html.unescape((await get(gateway, f"/admin/keys/{key_id}/change")).body.decode())
        assert f'value="{before["expires_at"]}"' in form
        fields = {"name": "after", "limits": "6 concurrent", "group": " friends "}
        answer = await post(
            gateway, f"/admin/keys/{key_id}/change", fields | {"expires": before["expires_at"]}
        )
        assert answer.status == 303
        assert answer.header("location") == f"/admin/keys/{key_id}?done=changed"
        assert "hold from the next request on" in text_of(
            await get(gateway, f"/admin/keys/{key_id}?done=changed")
        )
        after = await gateway.admin("GET", "keys", key_id)
        assert (after["name"], after["limits"], after["group"]) == (
            "after",
            ["6 concurrent"],
            "friends",
        )
        assert after["expires_at"] == before["expires_at"]
        shown = text_of(await get(gateway, f"/admin/keys/{key_id}"))
        assert "Shared with the group friends 5M tokens a day" in shown
        assert "Shared with all keys 900M tokens a month" in shown
        await post(gateway, f"/admin/keys/{key_id}/change", {"name": "after"})
        emptied = await gateway.admin("GET", "keys", key_id)
        assert (emptied["limits"], emptied["group"], emptied["expires_at"]) == ([], None, None)

    async def test_rotation_shows_the_new_secret_and_when_the_old_one_ends(
        self, gateway: App
    ) -> None:
        key_id, old = await make(gateway, "rotated")
        bad = await rotate(gateway, key_id, "a day")
        assert bad.status == 400
        assert 'value="a day"' in bad.body.decode()
        answer = await rotate(gateway, key_id, "1h")
        assert answer.status == 200
        assert answer.header("cache-control") == "no-store"
        assert old not in answer.body.decode()
        assert "The old secret works until" in text_of(answer)
        assert (await gateway.messages(old, message_body())).status == 200
        form = await get(gateway, f"/admin/keys/{key_id}/rotate")
        assert "An old secret still works until" in text_of(form)
        assert "has stopped working" in text_of(await rotate(gateway, key_id, ""))
        assert (await gateway.messages(old, message_body())).status == 401

    async def test_a_form_that_is_sent_twice_rotates_once(self, gateway: App) -> None:
        key_id, old = await make(gateway, "rotated twice")
        path = f"/admin/keys/{key_id}/rotate"
        form = {"grace": "1h"} | hidden_in(await get(gateway, path))
        both = await asyncio.gather(post(gateway, path, form), post(gateway, path, form))
        assert sorted(answer.status for answer in both) == [200, 409]
        again = await post(gateway, path, form)
        assert again.status == 409
        assert "Nothing was changed now." in text_of(again)
        assert 'id="secret"' not in again.body.decode()
        assert (await gateway.messages(old, message_body())).status == 200
        # What is shown with that is a form that works.
        assert (await post(gateway, path, {"grace": ""} | hidden_in(again))).status == 200

    async def test_a_change_leaves_alone_what_somebody_else_changed(self, gateway: App) -> None:
        key_id, _ = await make(gateway, "of two", limits="5 concurrent", models="claude-*")
        path = f"/admin/keys/{key_id}/change"
        opened = hidden_in(await get(gateway, path))
        await gateway.admin("PATCH", "keys", key_id, limits=["1 concurrent"], group="friends")
        typed = {name.removeprefix("shown_"): value for name, value in opened.items()}
        wrong = await post(gateway, path, opened | typed | {"models": "a b"})
        assert wrong.status == 400
        assert hidden_in(wrong) == opened
        answer = await post(gateway, path, opened | typed | {"models": "claude-opus-*"})
        assert answer.status == 303
        after = await gateway.admin("GET", "keys", key_id)
        assert after["models"] == ["claude-opus-*"]
        assert (after["limits"], after["group"]) == (["1 concurrent"], "friends")

    async def test_deleting_asks_for_the_name(self, gateway: App) -> None:
        key_id, credential = await make(gateway, "to be deleted")
        for name in ("", "To be deleted", key_id):
            answer = await post(gateway, f"/admin/keys/{key_id}/delete", {"name": name})
            assert answer.status == 400
            assert "Nothing was deleted" in text_of(answer)
        answer = await post(gateway, f"/admin/keys/{key_id}/delete", {"name": "to be deleted"})
        assert (answer.status, answer.header("location")) == (303, "/admin/keys?done=deleted")
        assert (await gateway.messages(credential, message_body())).status == 401
        for path in pages_of(key_id)[3:]:
            assert (await get(gateway, path)).status == 404

    @pytest.mark.parametrize(
        ("kind", "size", "status"),
        [
            ("text/plain", 10, 400),
            ("multipart/form-data; boundary=x", 10, 400),
            (FORM, 300_000, 413),
        ],
    )
    async def test_a_body_that_is_no_form_is_refused_with_a_page(
        self, gateway: App, kind: str, size: int, status: int
    ) -> None:
        answer = await post(gateway, "/admin/keys/new", {"name": "x" * size}, kind=kind)
        assert answer.status == status
        assert answer.header("content-type") == "text/html; charset=utf-8"

    async def test_forms_come_after_the_password(self, gateway: App) -> None:
        """Who is not let in need not send a form, and it is not read."""
        async with await gateway.connect() as wire:
            headers = [
                ("content-type", FORM),
                ("content-length", "90000"),
                ("expect", "100-continue"),
            ]
            await wire.send(request_bytes("POST", "/admin/keys/new", headers=headers))
            assert (await wire.answer()).status == 401

    async def test_are_asked_for_if_they_can_be_ones(self, gateway: App) -> None:
        key_id, _ = await make(gateway, "asked for")
        for path, length, status in (
            ("new", 900_000, 413),
            (f"{key_id}/disable", 0, 303),
        ):
            async with await gateway.connect() as wire:
                headers = [
                    ("authorization", RIGHT),
                    ("content-type", FORM),
                    ("content-length", str(length)),
                    ("expect", "100-continue"),
                ]
                await wire.send(request_bytes("POST", f"/admin/keys/{path}", headers=headers))
                assert (await wire.answer()).status == status


class TestWhatLimitsMean:
    async def test_limits_are_explained_line_by_line(self, gateway: App) -> None:
        text = "2000000 tokens / 300m\r\n\r\n60 request/1m\r\n3M tokens/5h"
        answer = await post(gateway, "/admin/limits", {"limits": text})
        assert answer.status == 200
        first, second, third = answer.json()["lines"]
        assert first == {
            "line": 1,
            "text": "2M tokens/5h",
            "meaning": "2M tokens in any 5 hours",
            "error": None,
        }
        assert (second["line"], second["text"]) == (3, "60 request/1m")
        assert "did you mean 'requests'?" in second["error"]
        assert "limit the same thing" in third["error"]
        assert (await post(gateway, "/admin/limits")).json() == {"lines": []}

    async def test_the_explanation_of_limits_is_for_the_administrator_alone(
        self, gateway: App
    ) -> None:
        assert (await post(gateway, "/admin/limits", {"limits": "x"}, auth=None)).status == 401
        foreign = [("Origin", "https://evil.example")]
        assert (await post(gateway, "/admin/limits", headers=foreign)).status == 403

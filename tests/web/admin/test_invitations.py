"""Invitations as an administrator makes them: over the API and on the pages."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.admin_pages import FORM, RIGHT, SECTIONS, get, make, post, text_of
from tests.support.app import App
from tests.support.wire import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINK = re.compile(r"https://ai\.example\.com/invite#[0-9A-Za-z]{32}")


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {**SECTIONS, "server": {"public_url": "https://ai.example.com"}}


def link_in(answer: Answer) -> str:
    found = re.search(r'<code id="link">([^<]+)</code>', answer.body.decode())
    assert found is not None, answer
    link = html.unescape(found[1])
    assert LINK.fullmatch(link)
    return link


async def redeem(gateway: App, link: str) -> Answer:
    """What the holder's browser does with the link."""
    url = urlsplit(link)
    body = f"code={url.fragment}".encode()
    return await gateway.request("POST", url.path, headers=[("content-type", FORM)], body=body)


class TestApi:
    async def test_a_key_is_made_with_an_invitation(self, gateway: App) -> None:
        made = await gateway.admin("POST", "keys", name="alice", invite=True)
        assert LINK.fullmatch(made["link"])
        assert "key" not in made
        shown = await gateway.admin("GET", "keys", "alice")
        assert shown["state"] == "invited"
        assert shown["invitation_expires_at"] == made["invitation_expires_at"]
        assert (await redeem(gateway, made["link"])).status == 200
        shown = await gateway.admin("GET", "keys", "alice")
        assert (shown["state"], shown["invitation_expires_at"]) == ("enabled", None)

    @pytest.mark.parametrize("invite", [False, None])
    async def test_without_one_there_is_the_key(self, gateway: App, invite: bool | None) -> None:
        made = await gateway.admin("POST", "keys", name=f"plain {invite}", invite=invite)
        assert made["key"].startswith(made["prefix"])
        assert "link" not in made

    async def test_a_key_is_invited_again_and_the_invitation_called_back(
        self, gateway: App
    ) -> None:
        made = await gateway.admin("POST", "keys", name="bob", invite=True)
        again = await gateway.admin("POST", "keys", made["id"], "invitation")
        assert (await redeem(gateway, made["link"])).status == 404
        back = await gateway.admin("DELETE", "keys", made["id"], "invitation")
        assert (back["state"], back["invitation_expires_at"]) == ("lapsed", None)
        assert (await redeem(gateway, again["link"])).status == 404
        sent = [("Authorization", RIGHT)]
        path = f"/admin/api/keys/{made['id']}/invitation"
        assert (await gateway.request("DELETE", path, headers=sent)).status == 404

    async def test_a_holder_sees_that_there_is_one(self, gateway: App) -> None:
        made = await gateway.admin("POST", "keys", name="carol")
        await gateway.admin("POST", "keys", made["id"], "invitation")
        seen = (await gateway.request("GET", "/v1/usage", key=made["key"])).json()["key"]
        assert seen["state"] == "enabled"
        assert seen["invitation_expires_at"] is not None


class TestPages:
    async def test_a_button_of_the_form_makes_an_invitation(self, gateway: App) -> None:
        form = (await get(gateway, "/admin/keys/new")).body.decode()
        assert 'formaction="/admin/keys/new/invite"' in form
        answer = await post(
            gateway, "/admin/keys/new/invite", {"name": "dora", "limits": "9 concurrent"}
        )
        assert answer.status == 201
        assert answer.header("cache-control") == "no-store"
        link = link_in(answer)
        key = await gateway.admin("GET", "keys", "dora")
        assert (key["state"], key["limits"]) == ("invited", ["9 concurrent"])
        page = await get(gateway, f"/admin/keys/{key['id']}")
        assert "This key has no secret yet" in text_of(page)
        assert link.rpartition("#")[2] not in page.body.decode()
        listed = await get(gateway, "/admin/keys?state=invited")
        assert "dora" in text_of(listed)
        assert (await redeem(gateway, link)).status == 200

    async def test_what_was_typed_stays_if_it_is_wrong(self, gateway: App) -> None:
        await make(gateway, "taken")
        answer = await post(gateway, "/admin/keys/new/invite", {"name": "taken"})
        assert answer.status == 409
        # The other button makes a key all the same.
        assert 'action="/admin/keys/new">' in answer.body.decode()
        assert (await post(gateway, "/admin/keys/new/invite", {"name": ""})).status == 400

    async def test_a_key_is_invited_and_the_link_called_back(self, gateway: App) -> None:
        key_id, credential = await make(gateway, "emil")
        path = f"/admin/keys/{key_id}/invite"
        assert "There is a link already" not in text_of(await get(gateway, path))
        first = link_in(await post(gateway, path))
        assert "There is a link already" in text_of(await get(gateway, path))
        second = link_in(await post(gateway, path))
        assert (await redeem(gateway, first)).status == 404
        back = await post(gateway, f"{path}/revoke")
        assert back.status == 303
        assert back.header("location") == f"/admin/keys/{key_id}?done=revoked"
        assert "called back" in text_of(await get(gateway, back.header("location") or ""))
        assert (await redeem(gateway, second)).status == 404
        assert (await post(gateway, f"{path}/revoke")).status == 404
        assert (await gateway.request("GET", "/v1/models", key=credential)).status == 200

    async def test_a_page_of_another_site_invites_nobody(self, gateway: App) -> None:
        key_id, _ = await make(gateway, "fritz")
        foreign = [("Origin", "https://evil.example")]
        for path in ("/admin/keys/new/invite", f"/admin/keys/{key_id}/invite"):
            answer = await post(gateway, path, {"name": "x"}, headers=foreign)
            assert answer.status == 403

    async def test_a_key_without_a_secret_can_be_rotated(self, gateway: App) -> None:
        made = await gateway.admin("POST", "keys", name="greta", invite=True)
        path = f"/admin/keys/{made['id']}/rotate"
        form = (await get(gateway, path)).body.decode()
        tag = re.search(r'name="replacing" value="(\w+)"', form)
        assert tag is not None
        fields = {"grace": "1h", "replacing": tag[1]}
        assert (await post(gateway, path, fields)).status == 200
        assert (await post(gateway, path, fields)).status == 409
        assert (await gateway.admin("GET", "keys", "greta"))["state"] == "enabled"
        assert (await redeem(gateway, made["link"])).status == 404

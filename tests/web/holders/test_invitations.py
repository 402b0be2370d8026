"""The page of an invitation: who gets a key there, once, and who does not."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient

from opuslive.administration.invitations import DAYS, Invited
from opuslive.administration.keys import KeyChanges
from opuslive.bootstrap import Gateway
from opuslive.config.sections import Config, KeysConfig, ServerConfig, UpstreamConfig
from opuslive.errors import Code, OpusLiveError
from opuslive.keys import hash_code, new_credential
from opuslive.times import DAY_MS, HOUR_MS
from tests.support.app import OpenApp
from tests.support.clock import Machine
from tests.support.stores import full_disk

PUBLIC_URL = "https://ai.example.com/gateway/"
LINK = re.compile(r"https://ai\.example\.com/gateway/invite#([0-9A-Za-z]{32})")
CONFIG = Config(
    server=ServerConfig(public_url=PUBLIC_URL),
    keys=KeysConfig(prefix="our-"),
    upstreams=(UpstreamConfig("provider", "http://127.0.0.1:9"),),
)
KEY = re.compile(r'<code id="secret">([^<]+)</code>')


class Site:
    """A gateway with an address, and what its visitors do."""

    def __init__(
        self,
        gateway: Gateway,
        client: TestClient[web.Request, web.Application],
        machine: Machine,
    ) -> None:
        self.gateway = gateway
        self.client = client
        self.machine = machine

    async def invited(self, name: str = "alice", **changes: Any) -> Invited:
        return await self.gateway.invitations.create(KeyChanges(name=name, **changes))

    async def post(self, code: str, **headers: str) -> ClientResponse:
        """Press the button on the page."""
        return await self.client.post("/invite", data={"code": code}, headers=headers)

    async def post_json(self, body: object) -> ClientResponse:
        return await self.client.post("/invite", json=body)

    async def pressed(self, code: str) -> str:
        """The key that comes of it."""
        answer = await self.post(code)
        assert answer.status == 200
        found = KEY.search(await answer.text())
        assert found is not None
        return html.unescape(found[1])

    async def works(self, credential: str) -> bool:
        answer = await self.client.get("/v1/models", headers={"x-api-key": credential})
        assert answer.status in (200, 401)
        return answer.status == 200


@pytest_asyncio.fixture
async def site(open_app: OpenApp) -> AsyncIterator[Site]:
    machine = Machine()
    gateway, client = await open_app(CONFIG, clock=machine.clock)
    yield Site(gateway, client, machine)


def code_of(invited: Invited) -> str:
    found = LINK.fullmatch(invited.link)
    assert found is not None
    return found[1]


class TestBefore:
    async def test_nothing_proves_a_key_whose_secret_nobody_has_made(self, site: Site) -> None:
        """Not even what whoever has the database could make."""
        invited = await site.invited()
        assert invited.key.secret_hash is None
        storage = site.gateway.storage
        crafted = new_credential("our-", invited.key.id, storage.checksum_key)
        for credential in (crafted, code_of(invited), f"our-{invited.key.id}-" + "0" * 40):
            assert not await site.works(credential)
        for path in ("/v1/usage", "/v1/usage/export"):
            answer = await site.client.get(path, headers={"x-api-key": crafted})
            assert answer.status == 401
        assert (await site.client.post("/usage", data={"key": crafted})).status == 401

    async def test_the_page_uses_nothing_up_and_tells_nothing(self, site: Site) -> None:
        invited = await site.invited("a name that is nobody's business")
        for method in ("GET", "HEAD", "GET"):
            answer = await site.client.request(method, "/invite")
            assert answer.status == 200
            text = await answer.text()
            assert invited.key.name not in text
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Referrer-Policy"] == "same-origin"
            policy = answer.headers["Content-Security-Policy"]
            assert "script-src 'self'" in policy
            assert "connect-src" not in policy
        assert await site.works(await site.pressed(code_of(invited)))


class TestRedeeming:
    async def test_the_key_is_shown_once_and_works(self, site: Site) -> None:
        invited = await site.invited()
        answer = await site.post(code_of(invited))
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-store"
        # No other site is told; and "no-referrer" would make browsers send "Origin: null" with the
        # form, or with this page if it is loaded again.
        assert answer.headers["Referrer-Policy"] == "same-origin"
        text = html.unescape(await answer.text())
        (credential,) = set(re.findall(r"our-\w{8}-\w{40}", text))
        assert credential.startswith(invited.key.prefix + "-")
        assert f"ANTHROPIC_AUTH_TOKEN={credential}" in text
        assert "ANTHROPIC_BASE_URL=https://ai.example.com/gateway\n" in text
        assert not re.search(rf'(?:href|src|action|value)="[^"]*{credential}', text)
        assert code_of(invited) not in text
        assert await site.works(credential)

    @pytest.mark.parametrize("text", ["{code}", "{link}", "  {link}\n", "#{code}"])
    async def test_the_code_or_the_link_will_do(self, site: Site, text: str) -> None:
        invited = await site.invited()
        written = text.format(code=code_of(invited), link=invited.link)
        assert await site.works(await site.pressed(written))

    async def test_programs_get_json(self, site: Site) -> None:
        invited = await site.invited()
        answer = await site.post_json({"code": code_of(invited)})
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-store"
        key = await answer.json()
        assert (key["name"], key["invitation_expires_at"]) == ("alice", None)
        assert await site.works(key["key"])
        again = await site.post_json({"code": code_of(invited)})
        assert (again.status, again.content_type) == (404, "application/problem+json")
        assert "ask the administrator" in (await again.json())["detail"]

    async def test_it_works_once(self, site: Site) -> None:
        code = code_of(await site.invited())
        first = await site.pressed(code)
        again = await site.post(code)
        assert again.status == 404
        assert "This invitation is not good" in await again.text()
        assert await site.works(first)

    async def test_of_several_at_once_exactly_one_gets_the_key(self, site: Site) -> None:
        code = code_of(await site.invited())
        answers = await asyncio.gather(*(site.post_json({"code": code}) for _ in range(8)))
        assert sorted(answer.status for answer in answers) == [200] + [404] * 7
        (won,) = [answer for answer in answers if answer.status == 200]
        assert await site.works((await won.json())["key"])

    async def test_of_several_operations_at_once_exactly_one_succeeds(self, site: Site) -> None:
        """The same below the line in which guesses wait, where nothing else keeps them apart."""
        code = code_of(await site.invited())
        made = await asyncio.gather(
            *(site.gateway.invitations.redeem(code) for _ in range(8)), return_exceptions=True
        )
        won = [each for each in made if not isinstance(each, BaseException)]
        assert len(won) == 1
        assert await site.works(won[0][1])

    async def test_a_disk_that_fails_uses_nothing_up(self, site: Site) -> None:
        code = code_of(await site.invited())
        with full_disk():
            assert (await site.post_json({"code": code})).status == 503
        await site.gateway.storage.flush()
        assert await site.works(await site.pressed(code))

    async def test_the_key_is_another_one_to_a_restarted_gateway(
        self, site: Site, open_app: OpenApp
    ) -> None:
        """One transaction has the hash and takes the invitation away."""
        kept, used = await site.invited("kept"), await site.invited("used")
        credential = await site.pressed(code_of(used))
        await site.gateway.close()
        gateway, client = await open_app(CONFIG, clock=site.machine.clock)
        again = Site(gateway, client, site.machine)
        assert await again.works(credential)
        assert (await again.post(code_of(used))).status == 404
        assert await again.works(await again.pressed(code_of(kept)))


class TestTheEnd:
    async def test_after_its_days_it_is_void_and_erased(self, site: Site) -> None:
        invited = await site.invited()
        site.machine.pass_time(DAYS * DAY_MS - 1)
        await site.gateway.invitations.erase_expired()
        assert site.gateway.invitations.knows(code_of(invited))
        site.machine.pass_time(1)
        assert (await site.post(code_of(invited))).status == 404
        await site.gateway.invitations.erase_expired()
        (key,) = await site.gateway.storage.keys()
        assert key.invitation is None

    async def test_what_can_not_be_erased_now_is_later(self, site: Site) -> None:
        await site.invited()
        site.machine.pass_time(DAYS * DAY_MS)
        with full_disk():
            await site.gateway.invitations.erase_expired()
        (key,) = await site.gateway.storage.keys()
        assert key.invitation is not None
        await site.gateway.invitations.erase_expired()
        (key,) = await site.gateway.storage.keys()
        assert key.invitation is None

    async def test_a_started_gateway_erases_by_itself(self, site: Site) -> None:
        await site.invited()
        site.machine.pass_time(DAYS * DAY_MS)
        site.gateway.invitations.start()
        await site.gateway.invitations.close()
        (key,) = await site.gateway.storage.keys()
        assert key.invitation is None

    async def test_a_new_one_voids_the_one_before(self, site: Site) -> None:
        first = await site.invited()
        second = await site.gateway.invitations.invite("alice")
        assert (await site.post(code_of(first))).status == 404
        assert await site.works(await site.pressed(code_of(second)))

    async def test_it_can_be_called_back(self, site: Site) -> None:
        invited = await site.invited()
        await site.gateway.invitations.revoke("alice")
        assert (await site.post(code_of(invited))).status == 404
        with pytest.raises(OpusLiveError) as raised:
            await site.gateway.invitations.revoke("alice")
        assert raised.value.code is Code.NOT_FOUND

    async def test_a_secret_that_the_administrator_makes_voids_it(self, site: Site) -> None:
        invited = await site.invited()
        key, credential = await site.gateway.administration.rotate("alice", 3600)
        assert (key.previous_hash, key.previous_expires_at) == (None, None)
        assert (await site.post(code_of(invited))).status == 404
        assert await site.works(credential)

    async def test_it_goes_with_its_key(self, site: Site) -> None:
        invited = await site.invited()
        await site.gateway.administration.delete("alice")
        assert (await site.post(code_of(invited))).status == 404

    @pytest.mark.parametrize(
        ("changes", "back", "says"),
        [
            (
                KeyChanges(enabled=False),
                KeyChanges(enabled=True),
                "This API key is disabled; ask the administrator to enable it.",
            ),
            (
                KeyChanges(set_expiry=True, expires_at=1),
                KeyChanges(set_expiry=True),
                "This API key has expired; ask the administrator for a new date.",
            ),
        ],
    )
    async def test_it_waits_while_the_key_may_not_be_used(
        self, site: Site, changes: KeyChanges, back: KeyChanges, says: str
    ) -> None:
        invited = await site.invited()
        await site.gateway.administration.update("alice", changes)
        refused = await site.post(code_of(invited))
        assert refused.status == 403
        assert says in html.unescape(await refused.text())
        await site.gateway.administration.update("alice", back)
        assert await site.works(await site.pressed(code_of(invited)))


async def test_the_old_secret_of_an_invited_key_works_until_the_new_one_is_made(
    site: Site,
) -> None:
    _, first = await site.gateway.administration.create(KeyChanges(name="bob"))
    _, second = await site.gateway.administration.rotate("bob", HOUR_MS / 1000)
    invited = await site.gateway.invitations.invite("bob")
    assert await site.works(first)
    assert await site.works(second)
    third = await site.pressed(code_of(invited))
    assert [await site.works(each) for each in (first, second, third)] == [False, False, True]


class TestWhoMayNot:
    async def test_guesses_are_bounded_as_those_at_passwords_are(self, site: Site) -> None:
        """And cost no bcrypt: nothing is hashed slowly before a code is known to be right."""
        invited = await site.invited()
        answers = [await site.post(f"{number:032d}") for number in range(11)]
        assert [answer.status for answer in answers] == [404] * 10 + [429]
        assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        assert "Too many wrong codes" in await answers[-1].text()
        refused = await site.post_json({"code": "0" * 32})
        assert (refused.status, refused.content_type) == (429, "application/problem+json")
        # Who has the right one gets in all the same.
        assert await site.works(await site.pressed(code_of(invited)))

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ],
    )
    async def test_a_page_of_another_site_uses_no_invitation(
        self, site: Site, headers: dict[str, str]
    ) -> None:
        code = code_of(await site.invited())
        assert (await site.post(code, **headers)).status == 403
        refused = await site.client.post("/invite", json={"code": code}, headers=headers)
        assert (refused.status, refused.content_type) == (403, "application/problem+json")
        own = {"Origin": "https://ai.example.com", "Sec-Fetch-Site": "same-origin"}
        assert (await site.post(code, **own)).status == 200

    @pytest.mark.parametrize(
        ("body", "kind", "status"),
        [
            ("", "application/x-www-form-urlencoded", 400),
            ("code=", "application/x-www-form-urlencoded", 400),
            ("code=" + "x" * 31, "application/x-www-form-urlencoded", 400),
            ("code=" + "x" * 33, "application/x-www-form-urlencoded", 400),
            ("code=" + "x" * 9000, "application/x-www-form-urlencoded", 413),
            ("code=x", "text/plain", 400),
            ("", "application/json", 400),
            ("[]", "application/json", 400),
            ("{", "application/json", 400),
            ('{"code": 5}', "application/json", 400),
            ('{"code": "' + "x" * 9000 + '"}', "application/json", 413),
            ('{"coed": "x"}', "application/json", 400),
        ],
    )
    async def test_what_is_no_code_is_refused(
        self, site: Site, body: str, kind: str, status: int
    ) -> None:
        answer = await site.client.post("/invite", data=body, headers={"content-type": kind})
        assert answer.status == status
        text = await answer.text()
        expected = '"detail"' if kind == "application/json" else "That did not work."
        assert expected in text

    async def test_other_methods_are_refused(self, site: Site) -> None:
        assert (await site.client.put("/invite")).status == 405


async def test_only_a_hash_of_the_code_is_kept_and_shown_nowhere(site: Site) -> None:
    invited = await site.invited()
    (stored,) = await site.gateway.storage.keys()
    assert stored.invitation is not None
    assert stored.invitation.code_hash == hash_code(code_of(invited))
    for thing in (stored, stored.invitation, invited):
        assert code_of(invited) not in repr(thing)
        assert repr(stored.invitation.code_hash) not in repr(thing)


async def test_without_an_address_an_invitation_is_refused_with_the_remedy(
    open_app: OpenApp,
) -> None:
    gateway, _ = await open_app(Config())
    with pytest.raises(OpusLiveError, match=r"set public_url in \[server\]"):
        await gateway.invitations.create(KeyChanges(name="alice"))
    assert gateway.administration.all_keys() == []
    await gateway.administration.create(KeyChanges(name="alice"))
    with pytest.raises(OpusLiveError, match=r"set public_url in \[server\]"):
        await gateway.invitations.invite("alice")

"""The administration's pages over HTTP: who is let in, what they refuse, what they never show."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import urlencode

import pytest

from opuslive.gateway.upstreams.health import DOWN_FAILURES
from tests.support.admin_pages import (
    HASH,
    HOSTILE,
    SECTIONS,
    WRONG,
    get,
    make,
    pages_of,
    post,
    text_of,
)
from tests.support.app import App, Apps
from tests.support.provider import ScriptedUpstream, json_answer
from tests.support.server import gateway_config
from tests.support.waiting import soon
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return dict(SECTIONS)


class TestWho:
    async def test_no_page_is_shown_without_the_password(self, gateway: App) -> None:
        key_id, _ = await make(gateway, "private")
        for path in (*pages_of(key_id), "/admin/", "/admin/nothing", "/admin/keys/nobody"):
            for auth in (None, WRONG if path == "/admin" else None, "Bearer x"):
                answer = await get(gateway, path, auth=auth)
                assert answer.status == 401
                assert (answer.header("www-authenticate") or "").startswith("Basic ")
                assert answer.header("content-type") == "text/html; charset=utf-8"
                assert answer.header("set-cookie") is None
                assert "Sign in" in text_of(answer)
                assert "private" not in answer.body.decode()
        for path in (f"/admin/keys/{key_id}/disable", f"/admin/keys/{key_id}/delete"):
            assert (await post(gateway, path, {"name": "private"}, auth=None)).status == 401
        assert (await gateway.admin("GET", "keys", key_id))["enabled"]

    async def test_there_are_no_pages_where_no_password_is_set(self, apps: Apps) -> None:
        server = await apps.start("https://models.example")
        answer = await get(server, "/admin")
        assert answer.status == 404
        assert "opuslive admin password" in text_of(answer)
        assert answer.header("www-authenticate") is None

    async def test_guesses_on_pages_and_api_are_counted_together(self, apps: Apps) -> None:
        server = await apps.start("https://models.example", admin={"password_hash": HASH})
        assert (await get(server, "/admin")).status == 200
        for index in range(10):
            path = "/admin" if index % 2 else "/admin/api/status"
            assert (await get(server, path, auth=WRONG)).status == 401
        for path in ("/admin", "/admin/api/status"):
            refused = await get(server, path, auth=WRONG)
            assert refused.status == 429
            assert 1 <= int(refused.header("retry-after") or 0) <= 60
            assert (await get(server, path)).status == 200

    async def test_no_page_of_another_site_changes_anything(self, gateway: App) -> None:
        key_id, _ = await make(gateway, "not for others")
        for headers in (
            [("Sec-Fetch-Site", "cross-site")],
            [("Sec-Fetch-Site", "same-site")],
            [("Origin", "https://evil.example")],
            [("Origin", "null")],
        ):
            for path in ("new", *(f"{key_id}/{name}" for name in ("change", "rotate", "delete"))):
                answer = await post(
                    gateway, f"/admin/keys/{path}", {"name": "not for others"}, headers=headers
                )
                assert answer.status == 403
                assert "another site" in text_of(answer)
            answer = await post(gateway, f"/admin/keys/{key_id}/disable", headers=headers)
            assert answer.status == 403
        assert (await gateway.admin("GET", "keys", key_id))["enabled"]
        own = [("Origin", "http://gateway.localhost"), ("Sec-Fetch-Site", "same-origin")]
        answer = await post(gateway, f"/admin/keys/{key_id}/disable", headers=own)
        assert answer.status == 303


class TestEveryPage:
    async def test_has_a_strict_policy_and_stays_in_no_cache(self, gateway: App) -> None:
        key_id, _ = await make(gateway, "headers")
        answers = [await get(gateway, path) for path in pages_of(key_id)]
        answers.append(await post(gateway, "/admin/keys/new", {"name": "headers"}))
        answers.append(await get(gateway, "/admin/nothing"))
        for answer in answers:
            policy = answer.header("content-security-policy") or ""
            assert "default-src 'none'" in policy
            assert "; script-src 'self'; connect-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.header("cache-control") == "no-store"
            assert answer.header("referrer-policy") == "same-origin"
            assert answer.header("x-content-type-options") == "nosniff"
            assert answer.header("set-cookie") is None
            markup = answer.body.decode()
            assert not re.search(r"<style|<iframe|\sstyle=|\son\w+=|<script>|&lt;time", markup)
            scripts = r'<script src="/static/(\w+)\.js\?[0-9a-f]+" defer>'
            found = re.findall(scripts, markup)
            assert found[:3] == ["admin", "copy", "times"]
            assert found[3:] in ([], ["live"])
            assert markup.count("<script") == len(found)

    async def test_is_answered_without_a_body_to_head(self, gateway: App) -> None:
        key_id, _ = await make(gateway, "heads")
        for path in pages_of(key_id):
            answer = await get(gateway, path, method="HEAD")
            assert (answer.status, answer.body) == (200, b"")

    async def test_shows_markup_in_names_as_text(self, gateway: App) -> None:
        key_id, _ = await make(gateway, HOSTILE, group=HOSTILE)
        answers = [await get(gateway, path) for path in pages_of(key_id)]
        answers.append(await get(gateway, "/admin/keys?" + urlencode({"q": HOSTILE})))
        answers.append(await post(gateway, "/admin/keys/new", {"name": HOSTILE}))
        answers.append(
            await post(
                gateway,
                "/admin/keys/new",
                dict.fromkeys(("name", "limits", "models", "expires", "group"), f"\n{HOSTILE}\n"),
            )
        )
        answers.append(await post(gateway, f"/admin/keys/{key_id}/rotate", {"grace": HOSTILE}))
        answers.append(await post(gateway, f"/admin/keys/{key_id}/rotate"))
        for answer in answers:
            assert "<script>" not in answer.body.decode()
            assert '"\'&amp;"' not in answer.body.decode()
        assert HOSTILE in text_of(answers[0]) or HOSTILE in text_of(answers[1])

    async def test_pages_of_holders_ask_nothing_by_script_and_have_no_way_here(
        self, gateway: App
    ) -> None:
        for path in ("/", "/usage", "/privacy", "/nothing"):
            answer = await gateway.request("GET", path, headers=[("Accept", "text/html")])
            assert "connect-src" not in (answer.header("content-security-policy") or "")
            assert "/admin" not in answer.body.decode()


class TestOverview:
    async def test_shows_limits_upstreams_and_the_process(self, gateway: App) -> None:
        shown = text_of(await get(gateway, "/admin"))
        assert "900M tokens a month" in shown
        assert "Group friends" in shown
        assert "5M tokens a day" in shown
        assert "provider" in shown
        assert "Version 0.1.0" in shown
        assert "takes writes" in shown

    async def test_counts_what_was_used(self, gateway: App) -> None:
        key_id, credential = await make(gateway, "busy")
        before = await get(gateway, "/admin")
        assert f'href="/admin/keys/{key_id}"' not in before.body.decode()
        assert (await gateway.messages(credential, message_body())).status == 200
        after = await get(gateway, "/admin")
        assert f'href="/admin/keys/{key_id}"' in after.body.decode()
        assert "Requests by day" in text_of(after)
        assert "answers, last just now" in text_of(after)

    async def test_says_which_upstream_fails(self, apps: Apps) -> None:
        # Nobody listens on this port.
        server = await apps.start("http://127.0.0.1:9", admin={"password_hash": HASH})
        credential = await server.holder()
        assert "not asked for anything yet" in text_of(await get(server, "/admin"))
        for _ in range(DOWN_FAILURES):
            assert (await server.messages(credential, message_body())).status == 502
        shown = text_of(await get(server, "/admin"))
        assert "No upstream answers." in shown
        assert "failed 5 times in a row, last just now: could not be reached" in shown

    async def test_says_which_of_several_upstreams_fails(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        config = gateway_config(upstream.base_url, admin={"password_hash": HASH})
        gone = {"name": "gone", "base_url": "http://127.0.0.1:9", "api_key": "x", "priority": -1}
        config["upstreams"].append(gone)
        server = await apps.start(None, **config)
        credential = await server.holder()
        upstream.always(lambda request: json_answer({}))
        for _ in range(DOWN_FAILURES):
            assert (await server.messages(credential, message_body())).status == 200
        shown = text_of(await get(server, "/admin"))
        assert "Not every upstream answers." in shown
        assert "says what gone did instead" in shown
        assert "could not be reached; asked last until" in shown

    async def test_says_who_refuses_the_credential(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        other = {"name": "other", "base_url": "http://127.0.0.1:9", "api_key": "x"}
        for more, says in (
            ([], "The upstream refuses the gateway's credential"),
            ([other | {"models": ["gpt-*"]}], "Not every upstream serves."),
        ):
            config = gateway_config(upstream.base_url, admin={"password_hash": HASH})
            config["upstreams"] += more
            server = await apps.start(None, **config)
            assert "Serving." in text_of(await get(server, "/admin"))
            upstream.will(json_answer({"type": "error", "error": {}}, status=401))
            assert (await server.messages(await server.holder(), message_body())).status == 502
            shown = text_of(await get(server, "/admin"))
            assert says in shown
            assert "provider: check" in shown or "of provider." in shown
            assert "Serving." not in shown

    async def test_says_that_requests_are_let_in_until_the_server_drains(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        sections: dict[str, Any] = {"server": {"drain_notice": "1h"}}
        server = await apps.start(upstream.base_url, admin={"password_hash": HASH}, **sections)
        credential = await server.holder()
        cut = asyncio.Event()
        draining = asyncio.ensure_future(server.drain(cut))
        await asyncio.sleep(0)
        shown = text_of(await get(server, "/admin"))
        assert "about to end" in shown
        assert "new ones are refused" not in shown
        assert (await server.messages(credential, message_body())).status == 200
        cut.set()
        await soon(draining)

    async def test_with_a_slash_is_redirected(self, gateway: App) -> None:
        answer = await get(gateway, "/admin/")
        assert (answer.status, answer.header("location")) == (308, "/admin")


class TestKeys:
    async def test_keys_are_filtered_and_sorted(self, gateway: App) -> None:
        for name in ("zebra one", "zebra two"):
            await make(gateway, name)
        answer = await get(gateway, "/admin/keys?q=ZEBRA&sort=name&order=desc")
        names = re.findall(r'scope="row"[^>]*>.*?<a [^>]*>(.*?)</a>', answer.body.decode())
        assert names == ["zebra two", "zebra one"]
        assert 'aria-sort="descending"' in answer.body.decode()
        assert "2 keys, out of" in text_of(answer)
        none = await get(gateway, "/admin/keys?q=zebra&state=expired")
        assert "None of the" in text_of(none)

    @pytest.mark.parametrize(
        "query",
        ["page=0", "page=x", "page=99999", "sort=x&order=y", "state=z", "page=%C2%B2", "x=y"],
    )
    async def test_what_makes_no_sense_is_left_out(self, gateway: App, query: str) -> None:
        assert (await get(gateway, f"/admin/keys?{query}")).status == 200

    @pytest.mark.parametrize("code", ["<script>", "nonesuch", "The key is yours"])
    async def test_notices_are_ours(self, gateway: App, code: str) -> None:
        answer = await get(gateway, "/admin/keys?" + urlencode({"done": code}))
        assert code not in answer.body.decode()
        assert 'role="status"' not in answer.body.decode()

    async def test_notices_don_t_contradict_what_is_so(self, gateway: App) -> None:
        key_id, _ = await make(gateway, "noticed")
        path = f"/admin/keys/{key_id}"
        for code, page, shown in (
            ("enabled", path, True),
            ("disabled", path, False),
            ("deleted", path, False),
            ("changed", path, True),
            ("deleted", "/admin/keys", True),
            ("disabled", "/admin/keys", False),
        ):
            answer = await get(gateway, f"{page}?done={code}")
            assert ('role="status"' in answer.body.decode()) == shown
        await post(gateway, f"{path}/disable")
        assert 'role="status"' not in (await get(gateway, f"{path}?done=enabled")).body.decode()


class TestOtherAddresses:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/admin/nothing", 404),
            ("GET", "/admin/keys/", 404),
            ("GET", "/admin/keys/nobody", 404),
            ("POST", "/admin/keys/nobody/disable", 404),
            ("GET", "/admin/keys/nobody/disable", 405),
            ("PUT", "/admin/keys", 405),
            ("DELETE", "/admin/nothing", 404),
        ],
    )
    async def test_other_addresses_below_admin_get_a_page(
        self, gateway: App, method: str, path: str, status: int
    ) -> None:
        answer = await get(gateway, path, method=method)
        assert answer.status == status
        assert answer.header("content-type") == "text/html; charset=utf-8"
        assert (answer.header("allow") is not None) == (status == 405)

    async def test_elsewhere_a_browser_gets_a_page(self, gateway: App) -> None:
        browser = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")]
        for path in ("/nothing", "/usage/", "/static/none.css", "/api"):
            answer = await gateway.request("GET", path, headers=browser)
            assert answer.status == 404
            assert 'href="/usage"' in answer.body.decode()
            assert answer.header("content-security-policy")
        for method, path, headers in (
            ("GET", "/nothing", [("Accept", "*/*")]),
            ("GET", "/nothing", []),
            ("POST", "/nothing", browser),
            ("GET", "/v1/nothing", browser),
            ("GET", "/v1", browser),
        ):
            answer = await gateway.request(method, path, headers=headers)
            assert answer.status == 404
            assert answer.json()["error"]["type"] == "not_found_error"
        answer = await get(gateway, "/admin/api/nothing", headers=browser)
        assert (answer.status, answer.header("content-type")) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("weight", "limit", "said"),
    [
        (0.0, "9M tokens/day", "count a token that is read from the provider's cache as 0, so not"),
        (0.1, "9M input_tokens/day", "read from the provider's cache as 0.1: [limits] cache"),
        (0.1, "9M output_tokens/day", None),
        (1.0, "9M tokens/day", None),
    ],
)
async def test_tokens_beside_limits_say_what_cache_reads_count_there(
    apps: Apps, weight: float, limit: str, said: str | None
) -> None:
    limits = {"gateway": [limit], "cache_read_weight": weight}
    server = await apps.start(
        "https://models.example", admin={"password_hash": HASH}, limits=limits
    )
    key_id, _ = await make(server, "told", limits=limit)
    for path in ("/admin", f"/admin/keys/{key_id}"):
        shown = re.sub(r"\s+([:.,])", r"\1", text_of(await get(server, path)))
        assert ("cache_read_weight" in shown) == (said is not None)
        assert said is None or said in shown
    keys = text_of(await get(server, "/admin/keys"))
    assert "Requests and tokens count since a key was made" in keys
    assert (f"counts as {weight:g} in limits" in keys) == (weight < 1)

"""The administration's pages over HTTP: who is let in, what they refuse, what they never show."""

from __future__ import annotations

import asyncio
import base64
import html
import re
import secrets
import signal
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

import bcrypt
import pytest

from opuslive.gateway.health import DOWN_FAILURES
from tests.e2e.conftest import Servers
from tests.e2e.server import Server, gateway_config, soon
from tests.e2e.wire import Answer, message_body, request_bytes
from tests.upstream import ScriptedUpstream, json_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

HASH = bcrypt.hashpw(b"a long password", bcrypt.gensalt(4)).decode()
RIGHT = "Basic " + base64.b64encode(b"admin:a long password").decode()
WRONG = "Basic " + base64.b64encode(b"admin:wrong").decode()
HOSTILE = "<script>alert(1)</script>\"'&amp;"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {
        "admin": {"password_hash": HASH, "contact": "ops@example.com"},
        "limits": {"gateway": ["900M tokens/month"]},
        "limits.groups": {"friends": ["5M tokens/day"]},
        "keys": {"default_limits": ["90 requests/1m"]},
    }


async def get(
    server: Server,
    path: str,
    *,
    method: str = "GET",
    auth: str | None = RIGHT,
    headers: Iterable[tuple[str, str]] = (),
) -> Answer:
    sent = [*headers, *([] if auth is None else [("Authorization", auth)])]
    return await server.request(method, path, headers=sent)


async def post(
    server: Server,
    path: str,
    fields: Mapping[str, str] | None = None,
    *,
    auth: str | None = RIGHT,
    headers: Iterable[tuple[str, str]] = (),
    kind: str = FORM,
) -> Answer:
    sent = [*headers, ("content-type", kind), *([] if auth is None else [("Authorization", auth)])]
    body = urlencode(fields or {}).encode()
    return await server.request("POST", path, headers=sent, body=body)


async def make(server: Server, name: str, **fields: str) -> tuple[str, str]:
    """Make a key on the page; return its id and the key."""
    answer = await post(server, "/admin/keys/new", {"name": name, **fields})
    assert answer.status == 201, answer
    shown = re.search(r'<code id="secret"[^>]*>([^<]+)</code>', answer.body.decode())
    assert shown is not None
    credential = html.unescape(shown[1])
    return credential.split("-")[-2], credential


def hidden_in(answer: Answer) -> dict[str, str]:
    """What the hidden fields of a form hold."""
    found = re.findall(
        r'<input type="hidden" name="([^"]*)" value="([^"]*)">', answer.body.decode()
    )
    return {name: html.unescape(value) for name, value in found}


async def rotate(server: Server, key_id: str, grace: str) -> Answer:
    """Open the form for a new secret, and send it."""
    path = f"/admin/keys/{key_id}/rotate"
    return await post(server, path, {"grace": grace} | hidden_in(await get(server, path)))


def text_of(answer: Answer) -> str:
    """What is to be read of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.body.decode())).split())


def pages_of(key_id: str) -> list[str]:
    """The address of every page."""
    forms = [f"/admin/keys/{key_id}/{name}" for name in ("change", "rotate", "delete")]
    return ["/admin", "/admin/keys", "/admin/keys/new", f"/admin/keys/{key_id}", *forms]


class TestWho:
    async def test_nobody_without_the_password(self, gateway: Server) -> None:
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

    async def test_where_no_password_is_set(self, servers: Servers) -> None:
        server = await servers.start("https://models.example")
        answer = await get(server, "/admin")
        assert answer.status == 404
        assert "opuslive admin password" in text_of(answer)
        assert answer.header("www-authenticate") is None

    async def test_guesses_on_pages_and_api_are_counted_together(self, servers: Servers) -> None:
        server = await servers.start("https://models.example", admin={"password_hash": HASH})
        assert (await get(server, "/admin")).status == 200
        for index in range(10):
            path = "/admin" if index % 2 else "/admin/api/status"
            assert (await get(server, path, auth=WRONG)).status == 401
        for path in ("/admin", "/admin/api/status"):
            refused = await get(server, path, auth=WRONG)
            assert refused.status == 429
            assert 1 <= int(refused.header("retry-after") or 0) <= 60
            assert (await get(server, path)).status == 200

    async def test_no_page_of_another_site_changes_anything(self, gateway: Server) -> None:
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
        own = [("Origin", "http://gateway.test"), ("Sec-Fetch-Site", "same-origin")]
        answer = await post(gateway, f"/admin/keys/{key_id}/disable", headers=own)
        assert answer.status == 303


class TestEveryPage:
    async def test_headers(self, gateway: Server) -> None:
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
            assert not re.search(r"<style|<iframe|\sstyle=|\son\w+=|<script>", markup)
            assert re.findall(r"<script[^>]*>", markup) == re.findall(
                r'<script src="/static/admin\.js\?[0-9a-f]+" defer>', markup
            )

    async def test_heads(self, gateway: Server) -> None:
        key_id, _ = await make(gateway, "heads")
        for path in pages_of(key_id):
            answer = await get(gateway, path, method="HEAD")
            assert (answer.status, answer.body) == (200, b"")

    async def test_names_are_text(self, gateway: Server) -> None:
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

    async def test_pages_of_holders_have_no_script_and_no_way_here(self, gateway: Server) -> None:
        for path in ("/", "/usage", "/privacy", "/nothing"):
            answer = await gateway.request("GET", path, headers=[("Accept", "text/html")])
            assert "script-src" not in (answer.header("content-security-policy") or "")
            assert "<script" not in answer.body.decode()
            assert "/admin" not in answer.body.decode()


class TestOverview:
    async def test_shows_limits_upstreams_and_the_process(self, gateway: Server) -> None:
        shown = text_of(await get(gateway, "/admin"))
        assert "900M tokens a month" in shown
        assert "Group friends" in shown
        assert "5M tokens a day" in shown
        assert "provider" in shown
        assert "Version 0.1.0" in shown
        assert "takes writes" in shown

    async def test_counts_what_was_used(self, gateway: Server) -> None:
        key_id, credential = await make(gateway, "busy")
        before = await get(gateway, "/admin")
        assert f'href="/admin/keys/{key_id}"' not in before.body.decode()
        assert (await gateway.messages(credential, message_body())).status == 200
        after = await get(gateway, "/admin")
        assert f'href="/admin/keys/{key_id}"' in after.body.decode()
        assert "Requests by day" in text_of(after)
        assert "answers, last just now" in text_of(after)

    async def test_says_which_upstream_fails(self, servers: Servers) -> None:
        # Nobody listens on this port.
        server = await servers.start("http://127.0.0.1:9", admin={"password_hash": HASH})
        credential = await server.holder()
        assert "not asked for anything yet" in text_of(await get(server, "/admin"))
        for _ in range(DOWN_FAILURES):
            assert (await server.messages(credential, message_body())).status == 502
        shown = text_of(await get(server, "/admin"))
        assert "No upstream answers." in shown
        assert "failed 5 times in a row, last just now: could not be reached" in shown

    async def test_says_who_refuses_the_credential(
        self, servers: Servers, upstream: ScriptedUpstream
    ) -> None:
        other = {"name": "other", "base_url": "http://127.0.0.1:9", "api_key": "x"}
        for more, says in (
            ([], "The upstream refuses the gateway's credential"),
            ([other | {"models": ["gpt-*"]}], "Not every upstream serves."),
        ):
            config = gateway_config(upstream.base_url, admin={"password_hash": HASH})
            config["upstreams"] += more
            server = await servers.start(None, **config)
            assert "Serving." in text_of(await get(server, "/admin"))
            upstream.will(json_answer({"type": "error", "error": {}}, status=401))
            assert (await server.messages(await server.holder(), message_body())).status == 502
            shown = text_of(await get(server, "/admin"))
            assert says in shown
            assert "provider: check" in shown or "of provider." in shown
            assert "Serving." not in shown

    async def test_says_that_requests_are_let_in_until_the_server_drains(
        self, servers: Servers, upstream: ScriptedUpstream
    ) -> None:
        sections: dict[str, Any] = {"server": {"drain_notice": "1h"}}
        server = await servers.start(upstream.base_url, admin={"password_hash": HASH}, **sections)
        credential = await server.holder()
        server.signal(signal.SIGTERM)

        async def until_it_is_not_ready() -> None:
            while (await server.request("GET", "/readyz")).status == 200:
                await asyncio.sleep(0.01)

        await soon(until_it_is_not_ready())
        shown = text_of(await get(server, "/admin"))
        assert "about to end" in shown
        assert "new ones are refused" not in shown
        assert (await server.messages(credential, message_body())).status == 200

    async def test_with_a_slash(self, gateway: Server) -> None:
        answer = await get(gateway, "/admin/")
        assert (answer.status, answer.header("location")) == (308, "/admin")


class TestKeys:
    async def test_filter_and_order(self, gateway: Server) -> None:
        for name in ("zebra one", "zebra two"):
            await make(gateway, name)
        answer = await get(gateway, "/admin/keys?q=ZEBRA&sort=name&order=desc")
        names = re.findall(r'<th scope="row"><a [^>]*>(.*?)</a>', answer.body.decode())
        assert names == ["zebra two", "zebra one"]
        assert 'aria-sort="descending"' in answer.body.decode()
        assert "2 keys, out of" in text_of(answer)
        none = await get(gateway, "/admin/keys?q=zebra&state=expired")
        assert "None of the" in text_of(none)

    @pytest.mark.parametrize(
        "query",
        ["page=0", "page=x", "page=99999", "sort=x&order=y", "state=z", "page=%C2%B2", "x=y"],
    )
    async def test_what_makes_no_sense_is_left_out(self, gateway: Server, query: str) -> None:
        assert (await get(gateway, f"/admin/keys?{query}")).status == 200

    @pytest.mark.parametrize("code", ["<script>", "nonesuch", "The key is yours"])
    async def test_notices_are_ours(self, gateway: Server, code: str) -> None:
        answer = await get(gateway, "/admin/keys?" + urlencode({"done": code}))
        assert code not in answer.body.decode()
        assert 'role="status"' not in answer.body.decode()

    async def test_notices_don_t_contradict_what_is_so(self, gateway: Server) -> None:
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


class TestForms:
    async def test_a_key_is_shown_once_and_in_no_address(self, gateway: Server) -> None:
        fields = {"name": "once", "limits": "60 requests/1m\n\n 8 concurrent ", "expires": "30d"}
        answer = await post(gateway, "/admin/keys/new", fields | {"models": "claude-opus-*"})
        assert answer.status == 201
        assert answer.header("location") is None
        assert answer.header("cache-control") == "no-store"
        shown = html.unescape(answer.body.decode())
        credential = re.findall(r"sk-ant-ol-\w{8}-\w{40}", shown)[0]
        assert f"ANTHROPIC_AUTH_TOKEN={credential}\n" in shown
        assert "export ANTHROPIC_BASE_URL=http://gateway.test\n" in shown
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

    async def test_default_limits_are_offered_and_can_be_taken_away(self, gateway: Server) -> None:
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
        self, gateway: Server, field: str, typed: str, says: str
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

    async def test_a_name_that_is_taken(self, gateway: Server) -> None:
        key_id, _ = await make(gateway, "taken")
        other, _ = await make(gateway, "other")
        for path in ("/admin/keys/new", f"/admin/keys/{other}/change"):
            answer = await post(gateway, path, {"name": "taken"})
            assert answer.status == 409
            assert 'id="name-error"' in answer.body.decode()
            assert f'<a href="/admin/keys/{key_id}">' in answer.body.decode()
            assert ("rotate it" in text_of(answer)) == path.endswith("new")
        assert (await gateway.admin("GET", "keys", "taken"))["id"] == key_id

    async def test_a_change(self, gateway: Server) -> None:
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

    async def test_rotation(self, gateway: Server) -> None:
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

    async def test_a_form_that_is_sent_twice_rotates_once(self, gateway: Server) -> None:
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

    async def test_a_change_leaves_alone_what_somebody_else_changed(self, gateway: Server) -> None:
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

    async def test_deleting_asks_for_the_name(self, gateway: Server) -> None:
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
    async def test_what_is_no_form(
        self, gateway: Server, kind: str, size: int, status: int
    ) -> None:
        answer = await post(gateway, "/admin/keys/new", {"name": "x" * size}, kind=kind)
        assert answer.status == status
        assert answer.header("content-type") == "text/html; charset=utf-8"

    async def test_come_after_the_password(self, gateway: Server) -> None:
        """Who is not let in need not send a form, and it is not read."""
        async with await gateway.connect() as wire:
            headers = [
                ("content-type", FORM),
                ("content-length", "90000"),
                ("expect", "100-continue"),
            ]
            await wire.send(request_bytes("POST", "/admin/keys/new", headers=headers))
            assert (await wire.answer()).status == 401

    async def test_are_asked_for_if_they_can_be_ones(self, gateway: Server) -> None:
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
    async def test_line_by_line(self, gateway: Server) -> None:
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

    async def test_is_the_administrator_s(self, gateway: Server) -> None:
        assert (await post(gateway, "/admin/limits", {"limits": "x"}, auth=None)).status == 401
        foreign = [("Origin", "https://evil.example")]
        assert (await post(gateway, "/admin/limits", headers=foreign)).status == 403


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
    async def test_in_the_administration(
        self, gateway: Server, method: str, path: str, status: int
    ) -> None:
        answer = await get(gateway, path, method=method)
        assert answer.status == status
        assert answer.header("content-type") == "text/html; charset=utf-8"
        assert (answer.header("allow") is not None) == (status == 405)

    async def test_elsewhere_a_browser_gets_a_page(self, gateway: Server) -> None:
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

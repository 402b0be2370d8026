"""The administration API over HTTP: who is let in, what it tells, how it refuses."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from typing import Any

import bcrypt
import pytest

from tests.support.app import App, Apps
from tests.support.provider import STALL, ScriptedUpstream, anthropic_message, json_answer
from tests.support.waiting import soon
from tests.support.wire import Answer, message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "a long password: 日本語"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
RIGHT = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
LATENCIES = ("latency_median_ms", "latency_p95_ms")
SIGNED_IN = [("Authorization", RIGHT)]
WRONG = "Basic " + base64.b64encode(b"admin:wrong").decode()


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"admin": {"password_hash": HASH}}


async def ask(
    server: App,
    method: str,
    path: str,
    members: object = None,
    *,
    auth: str | None = RIGHT,
    headers: Iterable[tuple[str, str]] = (),
) -> Answer:
    """Ask for what is below ``/admin/api``."""
    body = None if members is None else json.dumps(members).encode()
    sent = [*headers, *([] if auth is None else [("Authorization", auth)])]
    return await server.request(method, f"/admin/api{path}", headers=sent, body=body)


def problem(answer: Answer) -> tuple[int, str]:
    """The status and the sentence of a problem, whose form is checked."""
    document = answer.json()
    assert answer.header("content-type") == "application/problem+json"
    assert answer.header("set-cookie") is None
    assert document.keys() == {"type", "title", "status", "detail", "request_id"}
    assert document["status"] == answer.status
    assert document["request_id"] == answer.header("request-id")
    return answer.status, document["detail"]


async def test_a_key_is_made_changed_rotated_and_deleted(gateway: App) -> None:
    created = await ask(gateway, "POST", "/keys", {"name": "over HTTP", "limits": ["9 concurrent"]})
    assert created.status == 201
    assert created.header("cache-control") == "no-store"
    made = created.json()
    assert (await gateway.messages(made["key"], message_body())).status == 200
    shown = (await ask(gateway, "GET", f"/keys/{made['id']}")).json()
    assert shown["usage"]["requests"] == 1
    disabled = await ask(gateway, "PATCH", f"/keys/{made['id']}", {"enabled": False})
    assert disabled.json()["state"] == "disabled"
    assert (await gateway.messages(made["key"], message_body())).status == 401
    rotated = await ask(gateway, "POST", f"/keys/{made['id']}/rotate", {"grace": "1h"})
    assert rotated.json()["key"] != made["key"]
    assert (await ask(gateway, "DELETE", f"/keys/{made['id']}")).json()["erased_records"] == 1
    assert problem(await ask(gateway, "GET", f"/keys/{made['id']}"))[0] == 404


async def test_pages_go_on_behind_a_key_that_was_deleted(
    apps: Apps, provider: ScriptedUpstream
) -> None:
    server = await apps.start(provider.base_url, admin={"password_hash": HASH})
    for name in ("first", "second", "third"):
        await server.holder(name=name)
    page = (await ask(server, "GET", "/keys?limit=2")).json()
    first, second = page["items"]
    await ask(server, "DELETE", f"/keys/{second['id']}")
    rest = (await ask(server, "GET", f"/keys?after={page['next']}")).json()
    assert [first["name"], *(key["name"] for key in rest["items"])] == ["first", "third"]
    assert rest["next"] is None


async def test_a_new_key_takes_no_changes_of_limits(gateway: App) -> None:
    for member in ("add_limits", "remove_limits"):
        members = {"name": f"with {member}", member: ["9 concurrent"]}
        status, detail = problem(await ask(gateway, "POST", "/keys", members))
        assert status == 400
        assert f"There is no member '{member}'; did you mean" in detail
        assert problem(await ask(gateway, "GET", f"/keys/with%20{member}"))[0] == 404


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("nmae", "'nmae'; did you mean 'name'?"),
        ("x" * 1000, f"'{'x' * 39}…'; known are name, "),
        ("\x1b[31m\u202e", r"'\x1b[31m\u202e'; known are"),
    ],
)
async def test_a_member_that_there_is_not_is_named_and_harmless(
    gateway: App, caplog: pytest.LogCaptureFixture, name: str, shown: str
) -> None:
    status, detail = problem(await ask(gateway, "POST", "/keys", {"name": "x", name: 1}))
    assert status == 400
    assert f"There is no member {shown}" in detail
    assert name not in caplog.text


async def test_it_is_what_the_control_socket_serves(gateway: App) -> None:
    await gateway.holder(name="seen from both sides")
    over_http = (await ask(gateway, "GET", "/keys/seen%20from%20both%20sides")).json()
    assert over_http == await gateway.admin("GET", "keys", "seen from both sides")


class TestWho:
    @pytest.mark.parametrize("path", ["/keys", "/status", "/usage", "/openapi.json", "", "/none"])
    @pytest.mark.parametrize("auth", [None, "Bearer x", "Basic x", "Basic " + "A" * 4000])
    async def test_nobody_is_let_in_without_the_password(
        self, gateway: App, path: str, auth: str | None
    ) -> None:
        answer = await ask(gateway, "GET", path, auth=auth)
        assert problem(answer)[0] == 401
        assert (answer.header("www-authenticate") or "").startswith("Basic ")

    async def test_the_key_of_a_holder_is_no_password(self, gateway: App, key: str) -> None:
        answer = await gateway.request("GET", "/admin/api/keys", key=key)
        assert problem(answer)[0] == 401

    async def test_guessing_is_slowed_down(self, apps: Apps, provider: ScriptedUpstream) -> None:
        server = await apps.start(provider.base_url, admin={"password_hash": HASH})
        assert (await ask(server, "GET", "/status")).status == 200
        for _ in range(10):
            assert problem(await ask(server, "GET", "/status", auth=WRONG))[0] == 401
        refused = await ask(server, "GET", "/status", auth=WRONG)
        assert problem(refused)[0] == 429
        assert 1 <= int(refused.header("retry-after") or 0) <= 60
        assert (await ask(server, "GET", "/status")).status == 200
        assert PASSWORD not in server.log
        assert "wrong" not in server.log

    async def test_nobody_is_let_in_where_no_password_is_set(
        self, apps: Apps, provider: ScriptedUpstream
    ) -> None:
        server = await apps.start(provider.base_url)
        status, detail = problem(await ask(server, "GET", "/keys"))
        assert status == 404
        assert "opuslive admin password" in detail

    async def test_a_page_of_another_site_changes_nothing(self, gateway: App) -> None:
        for headers in (
            [("Sec-Fetch-Site", "cross-site")],
            [("Origin", "https://evil.example")],
            [("Origin", "null")],
            [("Origin", "http://gateway.localhost"), ("Origin", "https://evil.example")],
        ):
            answer = await ask(gateway, "POST", "/keys", {"name": "forged"}, headers=headers)
            assert problem(answer)[0] == 403
        own = [("Origin", "http://gateway.localhost"), ("Sec-Fetch-Site", "same-origin")]
        answer = await ask(gateway, "POST", "/keys", {"name": "from a page of ours"}, headers=own)
        assert answer.status == 201
        assert problem(await ask(gateway, "GET", "/keys/forged"))[0] == 404


class TestRefusals:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "", 404),
            ("GET", "/", 404),
            ("GET", "/nothing", 404),
            ("GET", "/keys/", 404),
            ("PUT", "/keys", 405),
            ("HEAD", "/status", 405),
            ("DELETE", "/usage", 405),
            ("GET", "/usage?by=week", 400),
            ("GET", "/usage?since=yesterday", 400),
            ("GET", "/usage?key=nobody", 404),
            ("GET", "/usage?of=nobody", 400),
            ("GET", "/usage?by=day&by=hour", 400),
            ("PATCH", "/keys/nobody", 400),
            ("GET", "/keys?limit=0", 400),
            ("GET", "/keys?limit=many", 400),
            ("GET", "/keys?after=", 400),
            ("GET", "/keys?after=abcdefgh", 400),
            ("GET", "/keys?after=1-abcdefgh%0a", 400),
            ("POST", "/keys", 400),
        ],
    )
    async def test_errors_are_problem_documents(
        self, gateway: App, method: str, path: str, status: int
    ) -> None:
        answer = await ask(gateway, method, path)
        assert answer.status == status
        if method != "HEAD":
            assert problem(answer)[1]
        assert (answer.header("allow") is not None) == (status == 405)

    @pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"x"', b'{"nmae": "x"}', b"\xff"])
    async def test_a_body_that_cannot_be_read_is_refused(self, gateway: App, body: bytes) -> None:
        answer = await gateway.request(
            "POST", "/admin/api/keys", headers=[("Authorization", RIGHT)], body=body
        )
        assert problem(answer)[0] == 400

    async def test_a_body_too_large_is_refused(self, gateway: App) -> None:
        answer = await ask(gateway, "POST", "/keys", {"name": "x" * 300_000})
        assert problem(answer)[0] == 413

    async def test_come_before_the_body_that_was_announced(self, gateway: App) -> None:
        async with await gateway.connect() as wire:
            head = (
                "POST /admin/api/keys HTTP/1.1\r\nHost: gateway.localhost\r\nContent-Length: 20\r\n"
            )
            await wire.send(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert problem(await wire.answer())[0] == 401
        async with await gateway.connect() as wire:
            await wire.send(
                f"{head}Expect: 100-continue\r\nAuthorization: {RIGHT}\r\n\r\n".encode()
            )
            assert (await wire.head()).status == 100
            await wire.send(b'{"name": "patient"} ')
            assert (await wire.answer()).status == 201
        for length, status in (("300000", 413), ("0", 400)):
            async with await gateway.connect() as wire:
                await wire.send(
                    f"{head.replace('20', length)}Expect: 100-continue\r\n"
                    f"Authorization: {RIGHT}\r\n\r\n".encode()
                )
                assert problem(await wire.answer())[0] == status


async def test_the_status_tells_how_the_process_and_its_upstreams_are_doing(
    gateway: App, upstream: ScriptedUpstream, key: str
) -> None:
    before = (await ask(gateway, "GET", "/status")).json()
    assert before.keys() == {
        "version",
        "base_url",
        "started_at",
        "configuration",
        "requests_in_flight",
        "unrecorded_refusals",
        "ready",
        "stopping",
        "draining",
        "storage_healthy",
        "keys",
        "upstreams",
        "certificate",
    }
    assert (before["storage_healthy"], before["ready"], before["draining"]) == (True, True, False)
    assert [each["name"] for each in before["upstreams"]] == ["provider"]
    assert before["keys"] == len((await ask(gateway, "GET", "/keys?limit=1000")).json()["items"])
    assert before["requests_in_flight"] == 0
    assert before["certificate"] is None


async def test_usage_adds_up_by_day_hour_model_and_key(
    apps: Apps, provider: ScriptedUpstream
) -> None:
    provider.forget()
    prices = {"claude-test-1": {"input": 1_000_000.0, "output": 1_000_000.0}}  # a dollar a token
    server = await apps.start(provider.base_url, admin={"password_hash": HASH}, prices=prices)
    keys = {name: await server.holder(name=name) for name in ("little", "much", "none")}
    for name, output in (("little", 3), ("much", 50), ("much", 60)):
        counts = {"input_tokens": 5, "output_tokens": output}
        provider.will(json_answer(anthropic_message("x", **counts)))
        assert (await server.messages(keys[name], message_body())).status == 200
    for by in ("day", "hour", "model", "group", "key"):
        report = (await ask(server, "GET", f"/usage?by={by}&since=1d")).json()
        assert report.keys() == {
            "key",
            "limits",
            "warnings",
            "since",
            "until",
            "by",
            "totals",
            "series",
            "comparison",
        }
        latencies = {name: report["totals"].pop(name) for name in LATENCIES}
        assert 0 < latencies["latency_median_ms"] <= latencies["latency_p95_ms"] <= 250
        assert report["comparison"] is None
        assert (report["by"], report["key"]) == (by, None)
        assert report["totals"]["requests"] == 3
        for name, total in report["totals"].items():
            assert sum(row[name] for row in report["series"]) == total
        assert all(row.keys() >= {by, *report["totals"]} for row in report["series"])
    assert [row["name"] for row in report["series"]] == ["much", "little"]
    assert [row["output_tokens"] for row in report["series"]] == [110, 3]
    assert [row["usd"] for row in report["series"]] == [120, 8]
    assert (await ask(server, "GET", "/usage")).json()["by"] == "day"
    for by in ("day", "hour", "model", "key"):
        report = (await ask(server, "GET", f"/usage?by={by}&key=little")).json()
        assert report["key"]["name"] == "little"
        assert (report["totals"]["requests"], report["totals"]["output_tokens"]) == (1, 3)
        assert len(report["series"]) == 1
    unused = (await ask(server, "GET", "/usage?key=none")).json()
    assert (unused["series"], set(unused["totals"].values())) == ([], {0, None})


async def test_trouble_of_all_keys_is_listed_newest_first(
    apps: Apps, provider: ScriptedUpstream
) -> None:
    provider.forget()
    server = await apps.start(provider.base_url, admin={"password_hash": HASH})
    keys = [await server.holder(name=name) for name in ("one", "two")]
    provider.will(json_answer(anthropic_message("x")))
    assert (await server.messages(keys[0], message_body())).status == 200
    provider.will(json_answer({"error": {"message": "secret words"}}, status=400))
    assert (await server.messages(keys[0], message_body())).status == 400
    assert (await server.messages(keys[1], message_body("gpt-none"))).status == 404
    answer = await ask(server, "GET", "/trouble")
    refused, client = answer.json()["items"]
    assert (refused["name"], refused["outcome"], refused["status"]) == ("two", "refused", 404)
    assert (refused["latency_ms"], refused["model"]) == (None, None)
    assert (client["name"], client["outcome"], client["status"]) == ("one", "client_error", 400)
    assert client["model"] == "claude-test-1"
    assert client["latency_ms"] >= 0
    assert "secret" not in str(answer.json())
    assert (await ask(server, "GET", "/trouble?limit=1")).json()["items"] == [refused]
    total = (await ask(server, "GET", "/usage?by=status")).json()["totals"]
    assert (total["served"], total["client_errors"], total["refusals"]) == (1, 1, 1)


async def test_requests_in_flight_are_counted(
    gateway: App, upstream: ScriptedUpstream, key: str
) -> None:
    async def until_running(number: int) -> None:
        while (await ask(gateway, "GET", "/status")).json()["requests_in_flight"] != number:
            await asyncio.sleep(0.01)

    upstream.will([STALL])
    async with gateway.asking(key, message_body()):
        await soon(until_running(1))
    await soon(until_running(0))


async def test_a_key_is_exhausted_wherever_it_is_shown(
    apps: Apps, provider: ScriptedUpstream
) -> None:
    """By a limit of its own, and by one that it shares."""
    provider.forget()
    sections = {"admin": {"password_hash": HASH}, "limits.groups": {"few": ["1 requests/day"]}}
    server = await apps.start(provider.base_url, **sections)
    keys = {
        "own": await server.holder(name="own", limits=["1 requests/day"]),
        "first of a group": await server.holder(name="first of a group", group="few"),
        "second of a group": await server.holder(name="second of a group", group="few"),
        "other": await server.holder(name="other"),
    }
    for name in ("own", "first of a group"):
        provider.will(json_answer(anthropic_message("x", input_tokens=1, output_tokens=1)))
        assert (await server.messages(keys[name], message_body())).status == 200
    expected = dict.fromkeys(keys, "exhausted") | {"other": "enabled"}
    listed = (await ask(server, "GET", "/keys")).json()["items"]
    assert {key["name"]: key["state"] for key in listed} == expected
    for name, state in expected.items():
        assert (await ask(server, "GET", f"/keys/{name.replace(' ', '%20')}")).json()[
            "state"
        ] == state
        answer = await server.request("GET", "/v1/usage", key=keys[name])
        assert answer.json()["key"]["state"] == state
        shown = await server.request("GET", "/admin/keys?state=" + state, headers=SIGNED_IN)
        assert f">{name}</a>" in shown.body.decode()

"""Who may see ``/metrics``, and in which format."""

from __future__ import annotations

import base64

import pytest

from tests.support.admin_pages import RIGHT, WRONG
from tests.support.app import Apps
from tests.support.provider import ScriptedUpstream
from tests.support.scrapes import (
    BEARER,
    TOKEN,
    ask_metrics,
    check_with_promtool,
    read_open_metrics,
    start_with_token,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


class TestWhoMaySee:
    @pytest.mark.parametrize("authorization", [BEARER, f"bearer  {TOKEN} ", RIGHT])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_who_has_the_token_or_the_password(
        self, apps: Apps, upstream: ScriptedUpstream, authorization: str, method: str
    ) -> None:
        app = await start_with_token(apps, upstream)
        answer = await ask_metrics(app, authorization, method)
        assert answer.status == 200
        assert answer.header("cache-control") == "no-store"
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("request-id")
        assert bool(answer.body) is (method == "GET")

    @pytest.mark.parametrize(
        "authorization",
        [
            None,
            "",
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            f"Bearer {TOKEN.upper()}",
            f"Token {TOKEN}",
            TOKEN,
            "Basic " + base64.b64encode(f"admin:{TOKEN}".encode()).decode(),
            "Bearer a long password",
            "Bearer \xe4\xff",
            "Bearer " + "x" * 6_000,
            WRONG,
        ],
    )
    async def test_nobody_else(
        self, apps: Apps, upstream: ScriptedUpstream, authorization: str | None
    ) -> None:
        app = await start_with_token(apps, upstream)
        answer = await ask_metrics(app, authorization)
        assert answer.status == 401
        assert answer.header("content-type") == "application/problem+json"
        assert "Basic realm=" in (answer.header("www-authenticate") or "")
        assert TOKEN.encode() not in answer.body

    async def test_two_credentials_are_none(self, apps: Apps, upstream: ScriptedUpstream) -> None:
        app = await start_with_token(apps, upstream)
        sent = [("Authorization", BEARER), ("Authorization", RIGHT)]
        assert (await app.request("GET", "/metrics", headers=sent)).status == 401

    async def test_a_key_of_a_holder_opens_nothing(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start_with_token(apps, upstream)
        key = await app.holder()
        assert (await app.request("GET", "/metrics", key=key)).status == 401
        assert (await ask_metrics(app, f"Bearer {key}")).status == 401

    async def test_the_token_opens_nothing_else(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start_with_token(apps, upstream)
        headers = [("Authorization", BEARER)]
        for path in ("/admin", "/admin/api/status", "/v1/usage", "/v1/models"):
            assert (await app.request("GET", path, headers=headers)).status == 401, path

    async def test_without_a_token_the_password_alone_opens(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start_with_token(apps, upstream, metrics={})
        answers = [await ask_metrics(app, auth) for auth in (RIGHT, BEARER, None, "Bearer ")]
        assert [answer.status for answer in answers] == [200, 401, 401, 401]
        assert (answers[1].header("www-authenticate") or "").startswith("Basic ")

    async def test_without_a_password_the_token_alone_opens(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start_with_token(apps, upstream, admin={})
        answers = [await ask_metrics(app, auth) for auth in (BEARER, RIGHT, None)]
        assert [answer.status for answer in answers] == [200, 401, 401]
        assert answers[1].header("www-authenticate") == 'Bearer realm="OpusLive metrics"'

    async def test_without_both_nobody_may_and_is_told_how(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start_with_token(apps, upstream, admin={}, metrics={})
        for authorization in (BEARER, RIGHT, None):
            answer = await ask_metrics(app, authorization)
            assert answer.status == 404
            assert "[metrics] token_env" in answer.json()["detail"]

    async def test_guesses_are_bounded_and_hold_up_neither_token_nor_password(
        self, apps: Apps, upstream: ScriptedUpstream
    ) -> None:
        app = await start_with_token(apps, upstream)
        assert (await ask_metrics(app, RIGHT)).status == 200
        statuses = [(await ask_metrics(app, f"Bearer guess {n}")).status for n in range(12)]
        assert statuses == [401] * 10 + [429] * 2
        assert (await ask_metrics(app, WRONG)).status == 429
        assert int((await ask_metrics(app, "Bearer guess")).header("retry-after") or "") > 50
        assert (await ask_metrics(app, BEARER)).status == 200
        assert (await ask_metrics(app, RIGHT)).status == 200

    async def test_other_methods_are_refused(self, apps: Apps, upstream: ScriptedUpstream) -> None:
        app = await start_with_token(apps, upstream)
        for method in ("POST", "DELETE", "OPTIONS"):
            assert (await ask_metrics(app, BEARER, method)).status == 405

    async def test_any_host_may_be_named(self, apps: Apps, upstream: ScriptedUpstream) -> None:
        app = await start_with_token(
            apps, upstream, server={"public_url": "https://ai.example.com"}
        )
        request = f"GET /metrics HTTP/1.1\r\nHost: monitored.example\r\nAuthorization: {BEARER}\r\n"
        async with await app.connect() as wire:
            await wire.send(request.encode() + b"\r\n")
            assert (await wire.answer()).status == 200


class TestFormats:
    #: What Prometheus 3 sends.
    PROMETHEUS = (
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
        "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;"
        "escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    )

    @pytest.mark.parametrize(
        "accept", [PROMETHEUS, "application/openmetrics-text; version=nonsense; escaping=\xff"]
    )
    async def test_open_metrics_for_who_accepts_them(
        self, apps: Apps, upstream: ScriptedUpstream, accept: str
    ) -> None:
        app = await start_with_token(apps, upstream)
        answer = await ask_metrics(app, BEARER, Accept=accept)
        kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert (answer.status, answer.header("content-type")) == (200, kind)
        names = {name for name, _ in read_open_metrics(answer.body.decode())}
        assert {"opuslive_build_info", "opuslive_added_latency_seconds_count"} <= names

    @pytest.mark.parametrize("accept", ["", "*/*", "text/html", "text/plain;version=x", ",;=\xe4"])
    async def test_text_for_all_others(
        self, apps: Apps, upstream: ScriptedUpstream, accept: str
    ) -> None:
        app = await start_with_token(apps, upstream)
        answer = await ask_metrics(app, BEARER, Accept=accept)
        kind = "text/plain; version=0.0.4; charset=utf-8"
        assert (answer.status, answer.header("content-type")) == (200, kind)
        check_with_promtool(answer.body.decode())

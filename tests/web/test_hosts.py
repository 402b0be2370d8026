"""What is served under a host that is not the gateway's, and what browsers are told.

The kind: every route that a page of somebody else's could read without a password or a key.
"""

from __future__ import annotations

import pytest

from opuslive.config.sections import AdminConfig, Config, ServerConfig
from opuslive.config.tls import TlsConfig
from opuslive.web.app import public_app
from tests.support.admin_pages import HASH, RIGHT
from tests.support.app import OpenApp

STRANGER = {"Host": "evil.example:8080"}
ADMIN = AdminConfig(password_hash=HASH)
TLS = TlsConfig(certificate="chain.pem", private_key="key.pem")


async def test_no_page_is_served_under_a_host_of_somebody_elses(open_app: OpenApp) -> None:
    gateway, client = await open_app(Config(admin=ADMIN))
    paths = {"/nothing", "/v1", "/admin/nothing"}
    for resource in public_app(gateway).router.resources():
        paths.add(resource.canonical.replace("{name}", "style.css").replace("{id}", "none"))
    paths = {path for path in paths if "{" not in path}
    assert {"/", "/usage", "/privacy", "/admin", "/admin/api/keys", "/static/style.css"} <= paths
    served = set()
    for path in paths:
        for method in ("GET", "POST"):
            answer = await client.request(
                method, path, headers={**STRANGER, "Authorization": RIGHT}
            )
            if answer.status != 421:
                served.add(path)
            else:
                assert "public_url" in await answer.text()
                assert "evil" not in await answer.text()
    assert {path for path in served if not path.startswith("/v1/")} == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/hello",
        "/api/oauth/usage",
        "/managed/settings",
    }


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:1", "[::1]:8080", "ai.example.com"])
async def test_pages_are_served_under_the_gateways_own_hosts(open_app: OpenApp, host: str) -> None:
    _, client = await open_app(Config(server=ServerConfig(public_url="https://ai.example.com")))
    for path in ("/", "/usage", "/privacy", "/static/style.css"):
        assert (await client.get(path, headers={"Host": host})).status == 200


async def test_behind_a_proxy_pages_are_served_under_any_host(open_app: OpenApp) -> None:
    server = ServerConfig(behind_proxy=True, public_url="https://ai.example.com")
    _, client = await open_app(Config(server=server))
    assert (await client.get("/", headers={"Host": "upstream.internal"})).status == 200


async def test_requests_with_a_key_may_name_any_host(open_app: OpenApp) -> None:
    _, client = await open_app(Config())
    for path in ("/v1/models", "/v1/messages/count_tokens", "/v1/usage"):
        assert (await client.get(path, headers=STRANGER)).status != 421


@pytest.mark.parametrize(
    "path",
    [
        "/healthz",
        "/readyz",
        "/v1/models",
        "/v1/usage",
        "/v1/nothing",
        "/v1/messages",
        "/admin/api/status",
        "/admin/api/openapi.json",
        "/admin/api/nothing",
    ],
)
@pytest.mark.parametrize("signed_in", [True, False])
async def test_json_is_nothing_else_to_a_browser(
    open_app: OpenApp, path: str, signed_in: bool
) -> None:
    _, client = await open_app(Config(admin=ADMIN))
    answer = await client.get(path, headers={"Authorization": RIGHT} if signed_in else {})
    assert "json" in answer.headers["Content-Type"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models", "/admin", "/static/style.css"])
async def test_browsers_keep_to_tls_where_it_is_the_gateways_own(
    open_app: OpenApp, path: str
) -> None:
    server = ServerConfig(host=("0.0.0.0",), public_url="https://ai.example.com", tls=TLS)
    _, secure = await open_app(Config(server=server))
    for host, told in (("ai.example.com", "max-age=31536000"), ("localhost:8443", None)):
        answer = await secure.get(path, headers={"Host": host})
        assert answer.headers.get("Strict-Transport-Security") == told


async def test_browsers_are_told_nothing_of_tls_that_is_not_the_gateways(
    open_app: OpenApp,
) -> None:
    _, plain = await open_app(Config(server=ServerConfig(public_url="https://ai.example.com")))
    answer = await plain.get("/", headers={"Host": "ai.example.com"})
    assert "Strict-Transport-Security" not in answer.headers

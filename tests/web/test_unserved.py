"""What a client is told that asks for a path which is not served.

The kind: every way to get a base URL wrong (with "/v1" twice, without it, with a slash too many,
with something before it), for each endpoint, in each combination; the endpoints of providers
that nobody offers here; and everything else. The address in the sentence is the configured one, or
the one that the client used, if that is one; and nothing of the request is in it besides.
"""

from __future__ import annotations

import pytest

from opuslive.config.sections import Config, ServerConfig
from opuslive.dialects import Dialect, registry
from opuslive.web.unserved import Advice
from tests.support.app import OpenApp

BASE = "https://ai.example.test"
SERVED = [
    "/healthz",
    "/{path}",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/models/{id}",
    "/v1/usage",
]
ADVICE = Advice(SERVED, registry.UNSERVED, "/v1/messages")

TWICE = f"/v1 stands twice in this path: the base URL to set is {BASE}, without /v1."
MISSING = (
    "/v1 is missing in this path: for a client that does not add it the base URL to set is "
    f"{BASE}/v1."
)
SLASH = (
    f"This path has a slash too many: the base URL to set is {BASE}, without a slash at its end."
)
BEFORE = (
    f"Something stands before /v1 in this path: the base URL to set is {BASE}, "
    "with nothing behind it."
)
ELSE = f"This path is not served here; the base URL to set is {BASE}, with nothing behind it."


def unserved(name: str) -> str:
    return f"{name} are not offered by this gateway; {BASE}/v1/messages is."


@pytest.mark.parametrize("endpoint", ["messages", "messages/count_tokens", "models", "models/a-b"])
@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ("/v1/v1/{}", TWICE),
        ("/v1/v1/v1/{}", TWICE),
        ("//v1/v1//{}/", TWICE),
        ("/anthropic/v1/v1/{}", TWICE),
        # As the Vercel AI SDK asks, whose base URL has the version in it.
        ("/{}", MISSING),
        ("//{}/", MISSING),
        ("/v1/{}/", SLASH),
        ("//v1/{}", SLASH),
        ("/v1//{}", SLASH),
        ("/anthropic/v1/{}", BEFORE),
        ("/api/anthropic/v1/{}/", BEFORE),
        ("/v2/{}", ELSE),
        ("/V1/{}", ELSE),
        ("/api/{}", ELSE),
        ("/v1beta/{}", ELSE),
    ],
)
def test_a_base_url_that_is_wrong_is_set_right(endpoint: str, form: str, sentence: str) -> None:
    assert ADVICE.on(form.format(endpoint), BASE) == sentence


@pytest.mark.parametrize("before", ["/v1", "/v1/v1", "", "/", "/anthropic/v1"])
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/messages/batches", "Message batches"),
        ("/messages/batches/msgbatch_1/results", "Message batches"),
        ("/files", "Files"),
        ("/files/file_1/content", "Files"),
        ("/complete", "Text completions"),
        ("/skills", "Skills"),
        ("/images/generations/", "OpenAI's other endpoints"),
        ("/audio/speech", "OpenAI's other endpoints"),
        ("/conversations/conv_1/items", "OpenAI's other endpoints"),
        ("/responses/input_tokens", "OpenAI's other endpoints"),
    ],
)
def test_what_nobody_offers_here_is_called_by_its_name(before: str, path: str, name: str) -> None:
    assert ADVICE.on(before + path, BASE) == unserved(name)


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/", "/v1/nothing", "/nothing", "/v1/messages/x", "/v1/filesystem", "/v1/chats",
     "/v1/completed", "/messages.json", "/healthz/x", "/v1/healthz"],
)  # fmt: skip
def test_any_other_path_is_told_the_base_url(path: str) -> None:
    assert ADVICE.on(path, BASE) == ELSE


def test_an_address_that_is_not_known_is_not_made_up() -> None:
    words = "the base URL to set is the address of this gateway"
    assert words + ", without /v1." in ADVICE.on("/v1/v1/messages", None)
    assert words + " with /v1 behind it." in ADVICE.on("/messages", None)
    assert words + ", with nothing behind it." in ADVICE.on("/x", None)
    assert ADVICE.on("/v1/files", None) == (
        "Files are not offered by this gateway; /v1/messages is."
    )


@pytest.mark.parametrize("dialect", registry.DIALECTS.values())
def test_no_dialect_calls_unserved_what_it_serves(dialect: Dialect) -> None:
    for endpoint in registry.UNSERVED:
        for operation in dialect.operations:
            assert not f"{operation.path}/".startswith(f"{endpoint.path}/")


@pytest.mark.parametrize(
    ("host", "server", "base"),
    [
        ("ai.example:8443", ServerConfig(), "http://ai.example:8443"),
        ("[::1]:80", ServerConfig(), "http://[::1]:80"),
        ("ai.example", ServerConfig(behind_proxy=True), "https://ai.example"),
        ("ai.example", ServerConfig(public_url=BASE), BASE),
        ("ai.example", ServerConfig(public_url=BASE + "/"), BASE),
        ("a_b~c", ServerConfig(), "the address of this gateway"),
        ("%41", ServerConfig(), "the address of this gateway"),
        ("a" * 300, ServerConfig(), "the address of this gateway"),
    ],
)
async def test_the_address_is_the_configured_one_or_the_one_that_was_used(
    open_app: OpenApp, host: str, server: ServerConfig, base: str
) -> None:
    _, client = await open_app(Config(server=server))
    answer = await client.post("/v1/v1/messages?kanarienvogel=1", headers={"Host": host}, data="x")
    document = await answer.json()
    assert answer.status == 404
    assert document["error"] == {
        "type": "not_found_error",
        "message": f"/v1 stands twice in this path: the base URL to set is {base}, without /v1.",
    }


@pytest.mark.parametrize(
    "path", ["/kanarienvogel", "/v1/files/kanarienvogel", "/v1/models/kanarienvogel/"]
)
async def test_nothing_else_of_the_request_is_repeated(open_app: OpenApp, path: str) -> None:
    _, client = await open_app(Config())
    for method in ("GET", "POST", "DELETE"):
        answer = await client.request(
            method, path, headers={"User-Agent": "kanarienvogel"}, params={"a": "kanarienvogel"}
        )
        assert answer.status in (401, 404, 405)
        assert "kanarienvogel" not in await answer.text()


async def test_every_endpoint_of_the_program_is_known_to_the_advice(open_app: OpenApp) -> None:
    _, client = await open_app(Config(server=ServerConfig(public_url=BASE)))
    paths = [each.path for dialect in registry.DIALECTS.values() for each in dialect.operations]
    for path in (*paths, "/v1/models", "/v1/models/a", "/v1/usage", "/v1/usage/export"):
        for wrong, sentence in ((f"/v1{path}", TWICE), (path.removeprefix("/v1"), MISSING)):
            if wrong == "/usage":
                continue  # A page.
            answer = await client.post(wrong)
            if answer.status == 404:
                assert (await answer.json())["error"]["message"] == sentence
            else:
                assert wrong == "/usage/export"

"""What a 401 says. Its reader is a person in front of a client such as Claude Code, which puts a
sentence of its own in place of any that contains "x-api-key", in whatever case.

The kind: every 401 that this program gives. A key that is missing, malformed, unknown, wrong,
disabled, expired or deleted (before the request and in its midst), at each endpoint, in each form
(a dialect's document, a page, problem+json); and the administrator's password. Where a person
could help, the sentence says who: the configured contact.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from opuslive.administration.keys import KeyChanges
from opuslive.config.sections import AdminConfig, Config
from opuslive.dialects import registry
from opuslive.times import HOUR_MS, Clock
from tests.support.admin_pages import HASH, WRONG
from tests.support.app import OpenApp
from tests.support.clock import NOW
from tests.support.listener import Listener
from tests.support.rig import Rig, denied

CONTACT = "ops@example.com"
ENDPOINTS = [
    *(
        ("POST", operation.path)
        for dialect in registry.DIALECTS.values()
        for operation in dialect.operations
    ),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/claude-x"),
    ("GET", "/v1/usage"),
    ("GET", "/v1/usage/export"),
]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = await Rig.open(tmp_path / "rig.db")
    yield rig
    await rig.finish()


def fit_for_claude_code(text: str) -> bool:
    return "x-api-key" not in text.lower()


@pytest.mark.parametrize("contact", [CONTACT, None])
async def test_every_401_about_a_key_says_what_is_wrong_and_whom_to_ask(
    open_app: OpenApp, contact: str | None
) -> None:
    now = NOW
    config = Config(admin=AdminConfig(contact=contact))
    gateway, client = await open_app(config, clock=Clock(lambda: now, lambda: NOW))
    keys = gateway.administration
    _, good = await keys.create(KeyChanges(name="good"))
    _, disabled = await keys.create(KeyChanges(name="disabled", enabled=False))
    expiry = KeyChanges(name="expired", set_expiry=True, expires_at=NOW + HOUR_MS)
    _, expired = await keys.create(expiry)
    _, deleted = await keys.create(KeyChanges(name="deleted"))
    await keys.delete("deleted")
    now += 2 * HOUR_MS
    ask = f"ask {contact or 'the administrator'}"
    invalid = (
        "Invalid API key. Send a key of this gateway as 'Authorization: Bearer …'; "
        f"if yours does not work, {ask}."
    )
    sentences: Mapping[str, str] = {
        "": invalid,
        "a guess": invalid,
        good[:-1]: invalid,
        good[:-1] + ("A" if good[-1] != "A" else "B"): invalid,
        deleted: invalid,
        disabled: f"This API key is disabled; {ask} to enable it.",
        expired: f"This API key has expired; {ask} for a new date.",
    }
    for method, path in ENDPOINTS:
        for credential, sentence in sentences.items():
            if "usage" in path and credential in (disabled, expired):
                continue  # What is held about a key is its holder's to see all the same.
            for name, prefix in (("Authorization", "Bearer "), ("X-Api-Key", "")):
                headers = {name: prefix + credential} if credential else {}
                answer = await client.request(method, path, headers=headers)
                assert (answer.status, answer.headers["x-should-retry"]) == (401, "false")
                assert (await answer.json())["error"]["message"] == sentence
                assert fit_for_claude_code(await answer.text())


async def test_every_401_about_a_password_or_on_a_page_is_fit_for_claude_code(
    open_app: OpenApp,
) -> None:
    _, client = await open_app(Config(admin=AdminConfig(password_hash=HASH, contact=CONTACT)))
    for path in ("/admin", "/admin/keys", "/admin/api/keys", "/admin/api/nothing"):
        for headers in ({}, {"Authorization": WRONG}):
            answer = await client.get(path, headers=headers)
            assert answer.status == 401
            assert fit_for_claude_code(await answer.text())
    for key in ("a guess", "x" * 300):
        answer = await client.post("/usage", data={"key": key})
        assert answer.status == 401
        # (The page's own set-up lines are not the sentence.)
        problem = re.search(r'<p[^>]*role="alert"[^>]*>(.*?)</p>', await answer.text(), re.DOTALL)
        assert problem is not None
        assert fit_for_claude_code(problem[1])


async def test_the_401_of_a_key_that_is_deleted_in_the_midst_is_fit_for_claude_code(
    rig: Rig, listener: Listener
) -> None:
    rig.upstream(listener.port)
    serving = rig.serve(rig.caller())
    await rig.arrived(listener)
    await rig.administration.delete(rig.key.id)
    assert fit_for_claude_code((await denied(serving)).message)

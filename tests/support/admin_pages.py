"""The administration's pages as a browser without a script asks for them."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

import bcrypt

from tests.support.server import Server
from tests.support.wire import Answer

HASH = bcrypt.hashpw(b"a long password", bcrypt.gensalt(4)).decode()
RIGHT = "Basic " + base64.b64encode(b"admin:a long password").decode()
WRONG = "Basic " + base64.b64encode(b"admin:wrong").decode()
HOSTILE = "<script>alert(1)</script>\"'&amp;"
FORM = "application/x-www-form-urlencoded"
#: What the gateway of these tests is configured with.
SECTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "admin": {"password_hash": HASH, "contact": "ops@example.com"},
        "limits": {"gateway": ["900M tokens/month"]},
        "limits.groups": {"friends": ["5M tokens/day"]},
        "keys": {"default_limits": ["90 requests/1m"]},
    }
)


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
    forms = [f"/admin/keys/{key_id}/{name}" for name in ("change", "rotate", "invite", "delete")]
    return ["/admin", "/admin/keys", "/admin/keys/new", f"/admin/keys/{key_id}", *forms]

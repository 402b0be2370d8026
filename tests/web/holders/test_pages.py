"""The pages over HTTP: what they show, what they never do, and how they fail."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from opuslive.storage import open_storage
from opuslive.usage import EXPORT_COLUMNS, export_rows
from opuslive.web.pages.report import RECENT
from tests.support.app import App, Apps
from tests.support.history import Holder, schema, stored, write_history
from tests.support.wire import Answer, request_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPT = r'<script src="/static/(copy|times)\.js\?[0-9a-f]+" defer>'
PAGES = ("/", "/usage", "/privacy")
UNKNOWN = "sk-ant-ol-abcdefgh-" + "0123456789" * 4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def past() -> AsyncIterator[tuple[App, Holder]]:
    """A server, and a key that has everything a key can have."""
    apps = Apps()
    server = apps.make(
        "https://models.example",
        admin={"contact": "ops@example.com"},
        upstream={"name": "provider of models"},
    )
    options = ("--limit", "9M tokens/7d", "--limit", "8 concurrent", "--model", "claude-*")
    holder = await write_history(
        server, "alice <b>&", 200, *options, "--group", "friends", "--expires", "90d"
    )
    await server.start()
    await server.admin("POST", "keys", holder.id, "rotate", grace="1h")
    yield server, holder
    await apps.close()


async def post(server: App, path: str, fields: str | dict[str, str], kind: str = "") -> Answer:
    """Send a form that was filled in."""
    body = fields if isinstance(fields, str) else urlencode(fields)
    headers = [("content-type", kind or "application/x-www-form-urlencoded")]
    return await server.request("POST", path, headers=headers, body=body.encode())


async def page(server: App, path: str) -> str:
    answer = await server.request("GET", path)
    assert answer.status == 200, answer
    return answer.body.decode()


def text_of(markup: str) -> str:
    """What is to be read of it."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


class TestEveryPage:
    async def test_has_strict_headers_and_takes_nothing_from_elsewhere(
        self, past: tuple[App, Holder]
    ) -> None:
        server, holder = past
        answers = [await server.request("GET", path) for path in PAGES]
        answers.append(await post(server, "/usage", {"key": holder.key}))
        answers.append(await post(server, "/usage", {"key": UNKNOWN}))
        for answer in answers:
            policy = answer.header("content-security-policy") or ""
            assert "default-src 'none'" in policy
            assert "form-action 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.header("x-content-type-options") == "nosniff"
            assert answer.header("referrer-policy") == "same-origin"
            assert answer.header("cache-control") == "no-store"
            assert answer.header("content-type") == "text/html; charset=utf-8"
            assert answer.header("set-cookie") is None
            assert answer.header("request-id")
            markup = answer.body.decode()
            assert not re.search(r"<style|<iframe|\sstyle=|\son\w+=|&lt;time", markup)
            scripts = re.findall(r"<script[^>]*>", markup)
            assert all(re.fullmatch(SCRIPT, each) for each in scripts)
            # What the foot of the page says, and its policy, is so.
            assert ("no scripts, nothing from other hosts" in markup) == (not scripts)
            assert policy.endswith("; script-src 'self'" if scripts else "frame-ancestors 'none'")
            for source in re.findall(
                r"<(?:link|img|form|use)[^>]*(?:href|src|action)=.(.)", markup
            ):
                assert source == "/"

    async def test_is_answered_without_a_body_to_head(self, past: tuple[App, Holder]) -> None:
        for path in PAGES:
            answer = await past[0].request("HEAD", path)
            assert (answer.status, answer.body) == (200, b"")

    async def test_other_methods_are_refused(self, past: tuple[App, Holder]) -> None:
        answer = await past[0].request("GET", "/usage/export")
        assert (answer.status, answer.header("allow")) == (405, "POST")
        assert (await past[0].request("DELETE", "/privacy")).status == 405

    async def test_a_browser_that_asks_for_what_takes_a_form_gets_a_page(
        self, past: tuple[App, Holder]
    ) -> None:
        browser = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")]
        answer = await past[0].request("GET", "/usage/export", headers=browser)
        assert (answer.status, answer.header("allow")) == (405, "POST")
        assert answer.header("content-type") == "text/html; charset=utf-8"
        assert 'href="/usage"' in answer.body.decode()


class TestStatic:
    async def test_files_stay_in_caches(self, past: tuple[App, Holder]) -> None:
        server = past[0]
        addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', await page(server, "/"))
        assert len(addresses) == 3
        for address in addresses:
            answer = await server.request("GET", address)
            assert answer.status == 200
            assert "immutable" in (answer.header("cache-control") or "")
            assert answer.header("x-content-type-options") == "nosniff"
            tag = answer.header("etag") or ""
            again = await server.request("GET", address, headers=[("if-none-match", tag)])
            assert (again.status, again.body) == (304, b"")

    @pytest.mark.parametrize("name", ["pages.py", "..%2fpages.py", "../pages.py", "", "style.css/"])
    async def test_no_other_file_is_served(self, past: tuple[App, Holder], name: str) -> None:
        assert (await past[0].request("GET", f"/static/{name}")).status == 404

    async def test_nothing_of_it_comes_from_elsewhere(self, past: tuple[App, Holder]) -> None:
        style = (await past[0].request("GET", "/static/style.css")).body.decode()
        assert "url(" not in style
        assert "@import" not in style


class TestUsage:
    async def test_shows_everything_held(self, past: tuple[App, Holder], tmp_path: Path) -> None:
        """Page, export and database: the same records, the same sums, every field of the key."""
        server, holder = past
        answer = await post(server, "/usage", {"key": f"  {holder.key}\n"})
        assert answer.status == 200
        markup = answer.body.decode()
        exported = await server.records(holder.key)
        assert exported == [dict(row) for record in holder.records for row in export_rows(record)]
        assert [tuple(record.values()) for record in exported] == stored(server, tmp_path)
        shown = re.findall(r'scope="row"[^>]*><time datetime="([^"]+)">(.*?)</tr>', markup)
        assert len(shown) == RECENT
        for (time, row), record in zip(shown, reversed(exported), strict=False):
            cells = [text_of(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
            latency = record["latency_ms"]
            assert time == record["time"]
            assert cells[:3] == [
                record["model"] or "–",
                str(record["status"]),
                "–" if latency is None else f"{latency:,} ms",
            ]
            kinds = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
            assert cells[3:] == [f"{record[f'{kind}_tokens']:,}" for kind in kinds]
        # Of some of them the model's name, and so its price, is not known.
        assert "Cost at least $" in text_of(markup)
        for column in EXPORT_COLUMNS[4:]:
            assert f"{sum(record[column] for record in exported):,}" in markup
        key = (await server.request("GET", "/v1/usage", key=holder.key)).json()["key"]
        for value in ("id", "name", "prefix", "group", "created_at", "expires_at"):
            assert html.escape(key[value]) in markup
        assert key["previous_secret_expires_at"] in markup
        for value in (*key["limits"], *key["models"]):
            assert f"<code>{value}</code>" in markup
        # A column that comes in has to be shown, too.
        columns = schema(tmp_path)
        assert columns["usage"] - {"key", "seq"} == set(EXPORT_COLUMNS)
        assert columns["keys"] == {
            *("id", "name", "prefix", "created_at", "enabled", "expires_at", "models", "limits"),
            *("group_name", "previous_expires_at", "raises"),
            # Known by what follows from them, or as being there.
            *("key", "erasing", "secret_hash", "previous_hash"),
        }

    async def test_the_key_is_nowhere_on_the_page(self, past: tuple[App, Holder]) -> None:
        server, holder = past
        secret = holder.key.rpartition("-")[2]
        for answer in (
            await post(server, "/usage", {"key": holder.key}),
            await post(server, "/usage", {"key": UNKNOWN}),
            await post(server, "/usage/export", {"key": UNKNOWN, "format": "csv"}),
            await server.request("GET", f"/usage?key={holder.key}"),
        ):
            everything = f"{answer.headers} {answer.body.decode()} {server.log}"
            assert secret not in everything
            assert UNKNOWN not in everything

    async def test_an_unknown_key_is_refused(self, past: tuple[App, Holder]) -> None:
        for path in ("/usage", "/usage/export"):
            for key in (UNKNOWN, "x", "ключ", "x" * 300):
                answer = await post(past[0], path, {"key": key})
                assert answer.status == 401
                assert "This is not a key of this gateway." in answer.body.decode()

    async def test_a_disabled_key_is_shown_as_disabled(self, past: tuple[App, Holder]) -> None:
        server = past[0]
        made = await server.admin("POST", "keys", name="switched off")
        await server.admin("PATCH", "keys", made["id"], enabled=False)
        shown = (await post(server, "/usage", {"key": made["key"]})).body.decode()
        assert "This key is disabled" in shown
        assert "ops@example.com" in shown
        assert "No requests yet" in shown
        assert "no limits of its own" in shown

    async def test_an_export_is_what_the_api_exports(self, past: tuple[App, Holder]) -> None:
        server, holder = past
        for kind in ("csv", "jsonl"):
            posted = await post(server, "/usage/export", {"key": holder.key, "format": kind})
            asked = await server.request("GET", f"/v1/usage/export?format={kind}", key=holder.key)
            assert (posted.status, posted.body) == (200, asked.body)
            for name in ("content-type", "content-disposition", "cache-control"):
                assert posted.header(name) == asked.header(name)
        wrong = await post(server, "/usage/export", {"key": holder.key, "format": "xml"})
        assert wrong.status == 400

    @pytest.mark.parametrize(
        ("body", "kind", "status"),
        [
            ("", "", 400),
            ("key=", "", 400),
            ("key=%ff", "", 400),
            ("key=\xff", "", 400),
            ("&".join(f"a{n}=b" for n in range(50)), "", 400),
            ("key=x", "multipart/form-data; boundary=x", 400),
            ("key=x", "text/plain", 400),
            ("key=" + "x" * 5000, "", 413),
        ],
    )
    async def test_a_body_that_is_no_form_is_refused_with_a_page(
        self, past: tuple[App, Holder], body: str, kind: str, status: int
    ) -> None:
        answer = await post(past[0], "/usage", body, kind)
        assert answer.status == status
        assert "That did not work." in answer.body.decode()

    async def test_it_is_asked_for_if_it_can_be_one(self, past: tuple[App, Holder]) -> None:
        """A client that waits for a word is told to send a form, and none that is too long."""
        form = ("content-type", "application/x-www-form-urlencoded")
        for length, told in ((5, [100, 401]), (5_000_000, [413]), (0, [400])):
            async with await past[0].connect() as wire:
                headers = [form, ("content-length", str(length)), ("expect", "100-continue")]
                await wire.send(request_bytes("POST", "/usage", headers=headers))
                if told[0] == 100:
                    assert (await wire.head()).status == 100
                    await wire.send(b"key=x")
                assert (await wire.answer()).status == told[-1]

    async def test_a_body_without_a_length_is_bounded(self, past: tuple[App, Holder]) -> None:
        async with await past[0].connect() as wire:
            headers = [
                ("content-type", "application/x-www-form-urlencoded"),
                ("transfer-encoding", "chunked"),
            ]
            await wire.send(request_bytes("POST", "/usage", headers=headers))
            await wire.send(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
            assert (await wire.answer()).status == 413


class TestLanding:
    async def test_the_landing_page_has_this_address(self, past: tuple[App, Holder]) -> None:
        shown = html.unescape(await page(past[0], "/"))
        assert "export ANTHROPIC_BASE_URL=http://gateway.localhost\n" in shown
        assert 'base_url="http://gateway.localhost"' in shown
        assert 'baseURL: "http://gateway.localhost"' in shown
        assert "curl http://gateway.localhost/v1/messages" in shown
        assert "ops@example.com" in shown
        # No upstream speaks it.
        assert "OpenAI" not in shown

    @pytest.mark.parametrize(
        ("host", "shown"),
        [
            ("[::1]:8080", "http://[::1]:8080"),
            ("a.localhost:443", "http://a.localhost:443"),
            ('x"><script>', None),
            ("a b", None),
            ("a@b", None),
            ("$(reboot)", None),
            ("-x", None),
        ],
    )
    async def test_a_host_that_is_none_is_not_shown(
        self, past: tuple[App, Holder], host: str, shown: str | None
    ) -> None:
        async with await past[0].connect() as wire:
            await wire.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            answer = await wire.answer()
        markup = answer.body.decode()
        assert html.escape(host) not in markup if shown is None else shown in markup

    async def test_the_landing_page_has_the_configured_address_if_there_is_one(
        self, apps: Apps
    ) -> None:
        url = "https://ai.example.com/prefix"
        server = await apps.start(
            "https://models.example", server={"public_url": url}, keys={"prefix": "our-"}
        )
        shown = html.unescape(await page(server, "/"))
        assert f"export ANTHROPIC_BASE_URL={url}\n" in shown
        assert "our-…" in shown
        assert "gateway.localhost" not in shown


class TestPrivacy:
    SECTIONS = (
        *("What is not kept", "What is kept", "How data flows", "Your key", "How long"),
        *("Third parties", "Security", "Children", "Your rights", "Changes", "Contact"),
    )

    async def test_names_every_column_that_there_is(
        self, past: tuple[App, Holder], tmp_path: Path
    ) -> None:
        storage = await open_storage(f"sqlite://{tmp_path}/opuslive.db")
        await storage.close()
        shown = await page(past[0], "/privacy")
        named = {
            table: set(re.findall(r"<dt><code>(\w+)</code>", columns))
            for table, columns in re.findall(r'data-table="(\w+)">(.*?)</dl>', shown, re.DOTALL)
        }
        columns = schema(tmp_path)
        assert columns.pop("meta") == {"name", "value"}
        assert "<code>meta</code>" in shown
        assert named == columns

    async def test_has_every_section(self, past: tuple[App, Holder]) -> None:
        shown = await page(past[0], "/privacy")
        assert tuple(re.findall(r"<h2[^>]*>(.*?)</h2>", shown)) == self.SECTIONS
        for link in re.findall(r'href="#([^"]+)"', shown):
            assert f'id="{link}"' in shown

    async def test_is_of_this_installation(self, past: tuple[App, Holder], apps: Apps) -> None:
        shown = text_of(await page(past[0], "/privacy"))
        assert "provider of models , at models.example" in shown
        assert "ops@example.com" in shown
        assert "Backups" in shown
        # The harness switches the access log on.
        assert "a log line for each request" in shown
        assert "a log line for each request: the request's id" in shown
        assert "which id a model provider gave to a request" in shown
        assert "a web address which the administrator has chosen" not in shown
        assert "monitoring" not in shown
        sections: dict[str, Any] = {
            "log": {"access": False, "level": "info"},
            "server": {"behind_proxy": True},
            "alerts": {
                "webhook": "https://hooks.example/token",
                "smtp": {"host": "mail.example", "from": "a@b.example", "to": "c@d.example"},
            },
            "metrics": {"keys": True},
        }
        other = text_of(await page(await apps.start("https://a.example", **sections), "/privacy"))
        assert "no log line of its own for a request that goes well" in other
        assert (
            "a web address and a mail server which the administrator has chosen are told" in other
        )
        assert "before a key expires, its id and when it does" in other
        assert "mail.example" not in other
        assert "which id a model provider gave to a request" not in other
        assert "monitoring reads that under the key's id" in other
        assert "hooks.example" not in other
        assert "reverse proxy" in other
        assert "the administrator who gave you your key" in other

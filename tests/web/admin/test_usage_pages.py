"""Usage on the overview and on a key's page: the same as the API tells of the same range."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.admin_pages import HASH, HOSTILE, get, make, text_of
from tests.support.app import App, Apps
from tests.support.provider import ScriptedUpstream, anthropic_message, json_answer
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "claude-opus-4-8"


async def used(apps: Apps, upstream: ScriptedUpstream) -> tuple[App, str]:
    """A gateway with two keys, whose requests ended in several ways; and the id of one."""
    sections: dict[str, Any] = {
        "admin": {"password_hash": HASH},
        "limits.groups": {"friends": ["9M tokens/day"]},
        "prices": {MODEL: {"input": 3.0, "output": 15.0}},
    }
    server = await apps.start(upstream.base_url, **sections)
    alice, key = await make(server, "alice", group="friends")
    _, other = await make(server, "bob", limits="1 requests/day")
    upstream.will(
        json_answer(anthropic_message("Hi", output_tokens=40)),
        json_answer({"type": "error"}, status=404),
        json_answer({"type": "error"}, status=529),
    )
    upstream.always(lambda request: json_answer(anthropic_message("Hi", output_tokens=60)))
    for _ in range(3):
        await server.messages(key, message_body(model=MODEL))
    assert (await server.messages(other, message_body(model=MODEL))).status == 200
    assert (await server.messages(other, message_body(model=MODEL))).status == 429
    await server.gateway.storage.flush()
    return server, alice


def cells(markup: str, table: str) -> dict[str, list[str]]:
    """What a table has: the first cell of a row → the others, as they are read."""
    return {first: others for first, *others in rows_of(markup, table)}


def rows_of(markup: str, table: str) -> list[list[str]]:
    start = markup.index(f'aria-label="{table}"')
    body = markup[start : markup.index("</table>", start)].split("<tbody", 1)[1]
    return [
        [
            re.sub(r"<[^>]*>", "", cell).strip()
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in body.split("<tr")[1:]
    ]


async def test_answers_are_told_by_their_class(apps: Apps, upstream: ScriptedUpstream) -> None:
    server, alice = await used(apps, upstream)
    overview = (await get(server, "/admin")).body.decode()
    assert cells(overview, "Answers by their class") == {
        "Served": ["2", "40.0 %"],
        "Client errors": ["1", "20.0 %"],
        "Upstream trouble": ["1", "20.0 %"],
        "Cut by the client": ["0", "0 %"],
        "Recorded refusals": ["1", "20.0 %"],
    }
    key = (await get(server, f"/admin/keys/{alice}")).body.decode()
    assert {name: row[0] for name, row in cells(key, "Answers by their class").items()} == {
        "Served": "1",
        "Client errors": "1",
        "Upstream trouble": "1",
        "Cut by the client": "0",
        "Recorded refusals": "0",
    }


async def test_tables_and_the_api_tell_the_same(apps: Apps, upstream: ScriptedUpstream) -> None:
    server, alice = await used(apps, upstream)
    for query in ("", "since=today", "since=month", "since=week", "since=2020-01-01"):
        overview = (await get(server, f"/admin?{query}")).body.decode()
        shown = re.search(r"opuslive usage (--since [\w-]+)", overview)
        assert shown is not None
        since = shown[1].removeprefix("--since ")
        report = (await get(server, f"/admin/api/usage?by=model&since={since}")).json()
        total = report["totals"]
        (row,) = cells(overview, "Usage by model").values()
        assert [int(text) for text in row[:1]] == [total["requests"]] == [4]
        assert row[5] == str(sum(total[name] for name in total if name.endswith("_tokens")))
        keys = cells(overview, "Usage by key")
        assert {name: row[0] for name, row in keys.items()} == {"alice": "3", "bob": "1"}
        groups = cells(overview, "Usage by group")
        assert {name: row[0] for name, row in groups.items()} == {"friends": "3", "(no group)": "1"}
        assert groups["friends"] == keys["alice"]
        assert 'href="/admin/groups/friends"' in overview
        assert f'href="/admin/keys/{alice}"' in overview
    page = (await get(server, f"/admin/keys/{alice}?since=month")).body.decode()
    assert f"opuslive usage {alice} --since month" in page
    assert cells(page, "Usage by model")[MODEL][0] == "3"
    assert "Usage by key" not in page


async def test_the_latest_trouble_is_listed_without_what_it_said(
    apps: Apps, upstream: ScriptedUpstream
) -> None:
    server, _ = await used(apps, upstream)
    overview = (await get(server, "/admin")).body.decode()
    rows = rows_of(overview, "Table of the latest trouble")
    assert [(row[1], row[3], row[4]) for row in rows] == [
        ("bob", "429", "refused here"),
        ("alice", "529", "upstream trouble"),
        ("alice", "404", "client error"),
    ]
    assert rows[0][5] == "–"
    assert all(row[2] == MODEL for row in rows)


async def test_latencies_are_those_of_what_was_served(
    apps: Apps, upstream: ScriptedUpstream
) -> None:
    server, _ = await used(apps, upstream)
    latencies = cells((await get(server, "/admin")).body.decode(), "Table of latencies by model")
    assert latencies[MODEL][0] == "2"
    assert re.fullmatch(r"\d+ ms|\d+\.\d s", latencies[MODEL][1])


async def test_an_unused_gateway_says_so(apps: Apps) -> None:
    server = await apps.start("https://models.example", admin={"password_hash": HASH})
    shown = text_of(await get(server, "/admin"))
    assert "Nothing was used." in shown
    assert "Every request that is recorded was served." in shown
    assert "none in the 30 days before either" in shown


@pytest.mark.parametrize(
    "query", ["since=yesterday", "since=2027-01-01", "since=%22%3E%3Cscript%3E"]
)
async def test_what_is_no_range_is_told_beside_the_fields(apps: Apps, query: str) -> None:
    server = await apps.start("https://models.example", admin={"password_hash": HASH})
    key_id, _ = await make(server, HOSTILE)
    for path in ("/admin", f"/admin/keys/{key_id}"):
        answer = await get(server, f"{path}?{query}")
        assert answer.status == 200
        assert "That is no range." in text_of(answer)
        assert 'aria-invalid="true"' in answer.body.decode()
        assert "<script>" not in answer.body.decode()


async def test_what_is_no_range_is_a_sentence(apps: Apps) -> None:
    server = await apps.start("https://models.example", admin={"password_hash": HASH})
    shown = text_of(await get(server, "/admin?since=2026-13-01"))
    assert "There is no day" in shown
    assert "such as '2026-12-31'. The last 30 days are shown." in shown


async def test_the_table_of_keys_says_since_when_it_counts(apps: Apps) -> None:
    server = await apps.start("https://models.example", admin={"password_hash": HASH})
    await make(server, HOSTILE)
    assert "count since a key was made" in text_of(await get(server, "/admin/keys"))

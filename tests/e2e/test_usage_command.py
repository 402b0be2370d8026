"""``opuslive usage``: the same figures as over HTTP, for people and for programs."""

from __future__ import annotations

import asyncio
import csv
import io
import re

import pytest
import pytest_asyncio

from opuslive.cli.output import bar, rough
from tests.e2e.conftest import Servers
from tests.support.provider import ScriptedUpstream, anthropic_message, json_answer
from tests.support.server import Server
from tests.support.wire import message_body

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def used(servers: Servers, provider: ScriptedUpstream) -> Server:
    """A gateway of two keys that were used, and one that was not; it runs."""
    provider.forget()
    # A micro-dollar for each token.
    prices = {"claude-test-1": {"input": 1.0, "output": 1.0}}
    server = await servers.start(provider.base_url, prices=prices)
    for name, outputs in (("little [b]", (3,)), ("much", (50, 60_050)), ("none", ())):
        key = await server.holder(name=name)
        for output in outputs:
            counts = {"input_tokens": 5, "output_tokens": output}
            provider.will(json_answer(anthropic_message("x", **counts)))
            assert (await server.messages(key, message_body())).status == 200
    return server


async def test_with_and_without_a_server(used: Server) -> None:
    commands: list[list[str]] = [
        ["usage"],
        ["usage", "much"],
        ["usage", "much", "--by", "key"],
        ["usage", "--by", "model", "--since", "1d"],
        ["usage", "--by", "hour"],
    ]
    running = [await used.json(*command) for command in commands]
    await used.stop()
    assert [report["by"] for report in running] == ["key", "day", "key", "model", "hour"]
    outputs = [report["totals"]["output_tokens"] for report in running]
    assert outputs == [60_103, 60_100, 60_100, 60_103, 60_103]
    for command, report in zip(commands, running, strict=True):
        again = await used.json(*command)
        assert again | {"until": report["until"], "since": report["since"]} == report
        assert (await used.run(*command, "--format", "json")).json()["series"] == report["series"]


async def test_tables(used: Server) -> None:
    by_key, by_day, by_model, unused = await asyncio.gather(
        used.run("usage"),
        used.run("usage", "much"),
        used.run("usage", "--by", "model"),
        used.run("usage", "none", "--since", "30d"),
    )
    title, _, head, much, little, total = by_key.out.splitlines()
    assert title.startswith("Usage from 20")
    assert head.split() == ["key", "requests", "input", "output", "tokens", "usd"]
    assert much.split() == ["much", "2", "10", "60.1k", "60.1k", "0.06", "█" * 24]
    assert little.split() == ["little", "[b]", "1", "5", "3", "8", "<0.01", "▏"]
    assert total.split() == ["total", "3", "15", "60.1k", "60.1k", "0.06"]
    assert "\x1b" not in by_key.out
    assert "Usage of the key 'much' from" in by_day.out
    assert by_day.out.splitlines()[3].startswith("20")
    assert by_model.out.splitlines()[3].startswith("claude-test-1 ")
    assert unused.out.startswith("Nothing was used since 20")
    assert unused.out.endswith("of the key 'none'.\n")


async def test_on_a_narrow_terminal(used: Server) -> None:
    await used.admin("PATCH", "keys", "much", name="a long name that " * 5 + "ends")
    for columns in (60, 80, 120):
        outcome = await used.run("usage", FORCE_COLOR="1", COLUMNS=str(columns), NO_COLOR="1")
        plain = re.sub(r"\x1b\[[0-9;]*m", "", outcome.out)
        assert all(len(line.rstrip()) <= columns for line in plain.splitlines()[2:])
        assert "60.1k" in plain
        assert " ".join(plain.split()).count("long name") >= 1
    assert "█" in plain


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10k"),
        (12_345, "12.3k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (1_234_567, "1.23M"),
        (5 * 10**9, "5B"),
        (10**12, "1T"),
        (5 * 10**16, "50,000T"),
    ],
)
async def test_rough_numbers(number: int, shown: str) -> None:
    assert rough(number) == shown


async def test_csv(used: Server) -> None:
    outcome = await used.run("usage", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    assert [(row["name"], row["requests"]) for row in rows] == [("much", "2"), ("little [b]", "1")]
    by_model = await used.run("usage", "much", "--by", "model", "--format", "csv")
    assert by_model.out.splitlines() == [
        "model,requests,refusals,input_tokens,output_tokens,cache_read_tokens,cache_write_tokens,usd",
        "claude-test-1,2,0,10,60100,0,0,0.06011",
    ]


async def test_what_is_refused(servers: Servers, provider: ScriptedUpstream) -> None:
    server = servers.make(provider.base_url)
    assert "no key" in (await server.run("usage", "nobody")).complaint
    assert "yesterday" in (await server.run("usage", "--since", "yesterday")).complaint
    for options in (["--by", "week"], ["--format", "xml"]):
        assert (await server.run("usage", *options)).status == 2


async def test_in_a_locale_without_blocks(used: Server) -> None:
    outcome = await used.run("usage", PYTHONIOENCODING="ascii")
    assert outcome.status == 0
    assert outcome.out.splitlines()[3].endswith("#" * 24)


@pytest.mark.parametrize(
    ("amount", "of", "shown"),
    [(0, 10, ""), (5, 0, ""), (10, 10, "████"), (5, 10, "██"), (1, 10**9, "▏"), (7, 16, "█▊")],
)
async def test_bars(amount: int, of: int, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert bar(amount, of, width=4) == shown
